"""Adjoints, derivative conventions at kinks, max-pool ties and unpooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops import REGISTRY
from naflow_core.ops.adjoint import apply_linear
from naflow_core.ops.conv import conv, conv_transpose
from naflow_core.ops.pool import PoolGeometry, average_pool, gather_at, max_pool, max_pool_argmax, unpool_mean


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slope(op_type: str, x: float, *others: Any, opset: int = 20, **attributes: Any) -> float:
    """Derivative of an operator at x with respect to its first input."""
    function = REGISTRY.find(op_type, opset).function
    return float(jax.grad(lambda v: function(v, *others, **attributes))(jnp.float32(x)))


@st.composite
def window(draw: st.DrawFn, *, pool: bool = False) -> dict[str, Any]:
    """Attributes of a window over two axes that fits an input of 9 x 8, with paddings all different.

    Every window of a pool sees some cell that is not padding.
    """
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    kernel, dilations = pair(1, 3), pair(1, 2)
    most = [min(3, (k - 1) * d) if pool else 3 for k, d in zip(kernel, dilations, strict=True)]
    pads = tuple(draw(st.integers(0, high)) for high in most + most)
    return {"kernel_shape": kernel, "strides": pair(1, 4), "dilations": dilations, "pads": pads}


def check_adjoint(function: Callable[[jax.Array], jax.Array], x: np.ndarray) -> None:
    """<J v, u> = <v, J' u>, by linearize and linear_transpose inside a compiled loop, and by vjp."""
    v, u = normal(*x.shape, seed=1), normal(*jax.eval_shape(function, x).shape, seed=2)

    @jax.jit
    def both(x: jax.Array, v: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        _, push = jax.linearize(function, x)
        pull = jax.linear_transpose(push, x)
        looped = lax.fori_loop(0, 1, lambda _, acc: acc + pull(u)[0], jnp.zeros_like(x))
        return push(v), looped, jax.vjp(function, x)[1](u)[0]

    pushed, pulled, by_vjp = both(x, v, u)
    size = np.linalg.norm(pushed) * np.linalg.norm(u) + 1e-6
    assert abs(float(np.vdot(pushed, u)) - float(np.vdot(v, pulled))) <= 1e-5 * size
    np.testing.assert_allclose(by_vjp, pulled, atol=1e-4)


@settings(max_examples=16, deadline=None)
@given(window(), st.sampled_from([(1, 1, 6), (2, 2, 6), (4, 1, 4), (4, 1, 8)]))
def test_convolution_adjoint(attributes: dict[str, Any], channels: tuple[int, int, int]) -> None:
    group, inner, outer = channels
    w = normal(outer, inner, *attributes["kernel_shape"], seed=3)
    check_adjoint(lambda x: conv(x, w, group=group, **attributes), normal(2, group * inner, 9, 8))


@settings(max_examples=16, deadline=None)
@given(st.data(), st.sampled_from([1, 3]))
def test_adjoint_of_a_depthwise_convolution_that_keeps_the_size(data: st.DataObject, multiplier: int) -> None:
    kernel, dilations = (tuple(data.draw(st.integers(1, most)) for _ in range(2)) for most in (5, 3))
    total = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    low = [data.draw(st.integers(0, most)) for most in total]
    pads = (*low, *(both - begin for both, begin in zip(total, low, strict=True)))
    w = normal(3 * multiplier, 1, *kernel, seed=3)
    check_adjoint(lambda x: conv(x, w, group=3, dilations=dilations, pads=pads), normal(2, 3, 9, 8))


@settings(max_examples=10, deadline=None)
@given(window(), st.sampled_from([(1, 3, 4), (2, 2, 6), (4, 1, 4)]))
def test_transposed_convolution_adjoint(attributes: dict[str, Any], channels: tuple[int, int, int]) -> None:
    group, outer, inner = channels
    w = normal(inner, outer, *attributes["kernel_shape"], seed=3)
    check_adjoint(lambda x: conv_transpose(x, w, group=group, **attributes), normal(1, inner, 9, 8))


@settings(max_examples=12, deadline=None)
@given(window(pool=True), st.integers(0, 1), st.sampled_from([max_pool, average_pool]))
def test_pool_adjoint(attributes: dict[str, Any], ceil_mode: int, pool: Callable[..., jax.Array]) -> None:
    check_adjoint(lambda x: pool(x, ceil_mode=ceil_mode, **attributes), normal(2, 3, 9, 8))


@pytest.mark.parametrize(
    "attributes", [{"strides": (2, 3), "pads": (1, 0, 2, 1)}, {"group": 4, "dilations": (2, 1)}, {"group": 2}]
)
def test_convolution_derivative_by_the_weights(attributes: dict[str, Any]) -> None:
    """Not used by the method, but a custom target may train something: it must not be silently zero."""
    group, pads = attributes.get("group", 1), attributes.get("pads", (0, 0, 0, 0))
    x, w = normal(1, 4, 9, 8), normal(4, 4 // group, 3, 2, seed=1)

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            w,
            attributes.get("strides", (1, 1)),
            [(pads[0], pads[2]), (pads[1], pads[3])],
            rhs_dilation=attributes.get("dilations", (1, 1)),
            feature_group_count=group,
        )

    for argument in (0, 1, (0, 1)):
        ours = jax.grad(lambda *a: jnp.sum(conv(*a, **attributes) ** 2), argument)(x, w)
        theirs = jax.grad(lambda *a: jnp.sum(plain(*a) ** 2), argument)(x, w)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_linear_map_with_integer_residual_and_second_derivative() -> None:
    index = jnp.array([2, 0])
    take = lambda i, x: x[i]  # noqa: E731
    put = lambda i, u: jnp.zeros(3, u.dtype).at[i].add(u)  # noqa: E731
    f = lambda x: jnp.sum(apply_linear(take, put, index, x) ** 3)  # noqa: E731
    x = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(jax.grad(f)(x), [3, 0, 27])
    np.testing.assert_allclose(jax.jvp(jax.grad(f), (x,), (jnp.ones(3),))[1], [6, 0, 18])


@pytest.mark.parametrize(
    ("op_type", "others", "expected"),
    [
        ("Relu", (), {-1: 0, 0: 0, 1: 1}),
        ("LeakyRelu", (), {-1: 0.01, 0: 0.01, 1: 1}),
        ("Clip", (np.float32(0), np.float32(6)), {-1: 0, 0: 0, 3: 1, 6: 0, 7: 0}),
        ("Clip", (None, np.float32(1)), {-9: 1, 1: 0}),
        ("Abs", (), {-1: -1, 0: 0, 2: 1}),
        ("Max", (np.float32(0),), {-1: 0, 0: 0, 1: 1}),
        ("Min", (np.float32(6),), {5: 1, 6: 0, 7: 0}),
        ("Sqrt", (), {0: 0, 4: 0.25}),
        ("Pow", (np.float32(0.5),), {0: 0, 4: 0.25}),
        ("Pow", (np.float32(2),), {-3: -6, 0: 0}),
        ("HardSigmoid", (), {-2.5: 0, 0: 0.2, 2.5: 0}),
        ("Floor", (), {0.5: 0}),
        ("Round", (), {0.5: 0}),
    ],
)
def test_derivative_at_kinks(op_type: str, others: tuple, expected: dict[float, float]) -> None:
    for x, value in expected.items():
        assert slope(op_type, x, *others) == pytest.approx(value, abs=1e-6), x


def test_equal_operands_share_one_derivative() -> None:
    """Max(x, x): the first operand takes it all, so that the sum is still 1."""
    largest = REGISTRY.find("Max", 18).function
    by_both = jax.grad(largest, argnums=(0, 1))(jnp.float32(2), jnp.float32(2))
    assert tuple(map(float, by_both)) == (1.0, 0.0)
    assert float(jax.grad(lambda x: largest(x, x))(jnp.float32(2))) == 1.0


def test_quantisation_is_straight_through() -> None:
    scale, zero = np.float32(0.5), np.uint8(10)
    for x, expected in {-5.5: 0, -5.0: 0, -4.9: 2, 0.3: 2, 122.4: 2, 122.5: 0, 200: 0}.items():
        assert slope("QuantizeLinear", x, scale, zero) == expected, x


def test_dead_channel_has_finite_coefficients() -> None:
    for op, axes in (("ReduceL2", np.array([1])), ("ReduceLogSumExp", np.array([1]))):
        function = REGISTRY.find(op, 18).function
        assert np.isfinite(jax.grad(lambda x, f=function, a=axes: f(x, a).sum())(jnp.zeros((2, 3)))).all()
    normalise = REGISTRY.find("LpNormalization", 18).function
    assert np.isfinite(jax.grad(lambda x: normalise(x, axis=1).sum())(jnp.zeros((2, 3)))).all()


@pytest.mark.parametrize("op_type", ["GlobalMaxPool", "ReduceMax", "ReduceMin"])
def test_reduced_extreme_goes_to_the_first(op_type: str) -> None:
    x = jnp.array([[[[1.0, 3.0], [3.0, 3.0]]]]) * (-1 if op_type == "ReduceMin" else 1)
    others = () if op_type == "GlobalMaxPool" else (np.array([2, 3]),)
    by_x = jax.grad(lambda x: REGISTRY.find(op_type, 18).function(x, *others).sum())(x)
    np.testing.assert_array_equal(by_x, [[[[0, 1], [0, 0]]]])


def test_max_pool_ties_and_padding() -> None:
    x = jnp.full((1, 1, 4, 4), -2.0)
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
    geometry = PoolGeometry.of(x.shape, **attributes)
    # All equal and negative: the first cell inside the picture wins, never the padding.
    expected = [[[[4, 3], [1, 0]]]]
    np.testing.assert_array_equal(max_pool_argmax(x, geometry), expected)
    np.testing.assert_array_equal(max_pool_argmax(jnp.full_like(x, -np.inf), geometry), expected)
    np.testing.assert_array_equal(max_pool(x, **attributes), np.full((1, 1, 2, 2), -2.0))
    by_x = jax.grad(lambda x: max_pool(x, **attributes).sum())(x)
    rows = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(by_x, np.array(rows, np.float32)[None, None])


@settings(max_examples=16, deadline=None)
@given(window(pool=True), st.integers(0, 1), st.integers(0, 3))
def test_argmax_and_unpooling_against_loops(attributes: dict[str, Any], ceil_mode: int, seed: int) -> None:
    x = np.round(normal(1, 2, 9, 8, seed=seed))  # many ties
    geometry = PoolGeometry.of(x.shape, ceil_mode=ceil_mode, **attributes)
    argmax = np.asarray(jax.jit(max_pool_argmax, static_argnums=1)(x, geometry))
    y = normal(*argmax.shape, seed=seed + 10)
    retained = normal(*argmax.shape, seed=seed + 20) > 0
    summed, counts = np.zeros_like(x), np.zeros_like(x)
    offsets = list(geometry.offsets())
    padded = np.full((1, 2, 60, 60), -np.inf, np.float32)
    low = geometry.pads_lo
    padded[:, :, low[0] : low[0] + 9, low[1] : low[1] + 8] = x
    for n, c, i, j in np.ndindex(argmax.shape):
        corner = i * geometry.strides[0], j * geometry.strides[1]
        seen = [padded[n, c, corner[0] + di, corner[1] + dj] for di, dj in offsets]
        assert argmax[n, c, i, j] == int(np.argmax(seen))
        if retained[n, c, i, j]:
            di, dj = offsets[argmax[n, c, i, j]]
            cell = n, c, corner[0] + di - low[0], corner[1] + dj - low[1]
            summed[cell] += y[n, c, i, j]
            counts[cell] += 1

    @jax.jit
    def ours(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        pooled = max_pool(x, ceil_mode=ceil_mode, **attributes)
        return pooled, gather_at(x, argmax, geometry), unpool_mean(y, retained, argmax, geometry, x.shape)

    pooled, gathered, unpooled = ours(x, y)
    np.testing.assert_array_equal(gathered, pooled)
    np.testing.assert_allclose(unpooled, summed / np.maximum(counts, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"kernel_shape": (3,)}, "kernel_shape has 1 entries for 2"),
        ({"kernel_shape": (3, 3), "strides": (0, 1)}, "strides"),
        ({"kernel_shape": (3, 3), "pads": (1, 1)}, "pads has 2 entries"),
        ({"kernel_shape": (3, 3), "pads": (-1, 0, 0, 0)}, "negative pads"),
        ({"kernel_shape": (11, 3)}, "does not fit"),
        ({"kernel_shape": (2, 2), "pads": (2, 0, 0, 0)}, "wholly in the padding"),
        ({"kernel_shape": (3, 3), "auto_pad": "SOME"}, "auto_pad 'SOME'"),
    ],
)
def test_impossible_windows_are_refused(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        max_pool(normal(1, 1, 9, 8), **attributes)


def check_derivative(
    function: Callable[[jax.Array], jax.Array], x: np.ndarray, tolerance: float = 5e-3
) -> None:
    """The derivative along a random direction against differences of the function itself, and its adjoint."""
    v = normal(*x.shape, seed=9)
    step = 1e-2
    _, found = jax.jvp(function, (jnp.asarray(x),), (jnp.asarray(v),))
    above, below = (np.asarray(function(jnp.asarray(x + s * v)), np.float64) for s in (step, -step))
    expected = (above - below) / (2 * step)
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    check_adjoint(function, x)


GRID = np.random.default_rng(2).uniform(-0.9, 0.9, (1, 3, 4, 2)).astype(np.float32)
SPREAD = np.random.default_rng(5).permutation(60).reshape(1, 3, 4, 5).astype(np.float32) / 7 - 4
SMOOTH: dict[str, tuple[Callable[..., Any], np.ndarray]] = {
    "GridSample": (lambda f: lambda x: f(x, GRID), SPREAD),
    "GridSample by grid": (lambda f: lambda g: f(SPREAD, g, mode="cubic"), GRID),
    "RoiAlign": (
        lambda f: (
            lambda x: f(x, np.float32([[0, 0, 3, 3]]), np.array([0]), output_height=2, sampling_ratio=2)
        ),
        SPREAD,
    ),
    "DeformConv": (lambda f: lambda x: f(x, normal(2, 3, 2, 2), normal(1, 8, 3, 4, seed=1)), SPREAD),
    "LpPool": (lambda f: lambda x: f(x, kernel_shape=(2, 2)), SPREAD),
    "LpPool p=3": (lambda f: lambda x: f(x, kernel_shape=(2, 2), p=3), np.abs(SPREAD) + 1),
    "GlobalLpPool": (lambda f: lambda x: f(x), SPREAD),
    "MaxUnpool": (
        lambda f: lambda x: f(x, np.array([[[3, 0]]]), kernel_shape=(2,), strides=(2,)),
        normal(1, 1, 2),
    ),
    "Col2Im": (lambda f: lambda x: f(x, np.array([3, 4]), np.array([2, 2])), normal(1, 8, 6)),
    "Einsum": (lambda f: lambda x: f(x, normal(5, 2), equation="nchw,wk->nkch"), SPREAD),
    "Det": (lambda f: lambda x: f(x), normal(2, 3, 3)),
    "TopK": (lambda f: lambda x: f(x, np.array([2]))[0], SPREAD),
    "CumSum": (lambda f: lambda x: f(x, np.array(2), exclusive=1, reverse=1), SPREAD),
    "GatherND": (lambda f: lambda x: f(x, np.array([[0, 2, 1], [0, 2, 1]])), SPREAD),
    "MeanVarianceNormalization": (lambda f: lambda x: f(x), SPREAD),
    "Pow by exponent": (lambda f: lambda e: f(np.float32(3), e), normal(2, 3)),
    "Asinh": (lambda f: lambda x: f(x), SPREAD),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_derivative_against_differences(name: str) -> None:
    build, x = SMOOTH[name]
    check_derivative(build(REGISTRY.find(name.split()[0], 20).function), x)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("which", [0, 1])
def test_derivative_of_scattering(reduction: str, which: int) -> None:
    """By the data and by the updates, with one cell that is written twice unless the order would matter."""
    where = np.array([[1], [3], [1]] if reduction != "none" else [[1], [3], [0]])
    values = (np.float32([0.5, 2, -1, 3]), np.float32([1, 2.5, 4]) * (1 if reduction != "min" else -1))
    scatter = REGISTRY.find("ScatterND", 18).function

    def function(x: jax.Array) -> jax.Array:
        data, updates = (x if i == which else values[i] for i in (0, 1))
        return scatter(data, where, updates, reduction=reduction)

    check_derivative(function, values[which])


def test_equal_maxima_share_what_they_scatter() -> None:
    scatter = REGISTRY.find("ScatterND", 18).function
    where = np.array([[0], [0]])
    for data, expected in ((1.0, (0, [0.5, 0.5])), (2.0, (1, [0, 0]))):
        by_data, by_updates = jax.grad(lambda d, u: scatter(d, where, u, reduction="max").sum(), (0, 1))(
            jnp.float32([data]), jnp.float32([2, 2])
        )
        assert float(by_data[0]) == expected[0]
        np.testing.assert_array_equal(by_updates, expected[1])


def test_dead_windows_and_dynamic_powers_have_finite_derivatives() -> None:
    pool, power = REGISTRY.find("LpPool", 18).function, REGISTRY.find("Pow", 18).function
    by_x = jax.grad(lambda x: pool(x, kernel_shape=(2, 2)).sum())(jnp.zeros((1, 1, 4, 4)))
    np.testing.assert_array_equal(by_x, 0)
    for x in (0.0, -1.0, 2.0):
        slopes = jax.grad(power, (0, 1))(jnp.float32(x), jnp.float32(0.5))
        assert np.isfinite(slopes).all(), x


def test_dynamic_quantisation_is_straight_through() -> None:
    quantise = REGISTRY.find("DynamicQuantizeLinear", 18).function
    x = jnp.float32([-1.0, 0.3, 2.0])
    _, scale, zero = quantise(x)
    real = lambda x: (quantise(x)[0] - zero) * scale  # noqa: E731
    np.testing.assert_allclose(real(x), x, atol=float(scale))
    np.testing.assert_allclose(jax.jacobian(real)(x), np.eye(3), atol=1e-5)
