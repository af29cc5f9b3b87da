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
