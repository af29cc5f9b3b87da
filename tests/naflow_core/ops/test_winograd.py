"""Convolutions in fewer multiplications: the same linear map, in solves only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from naflow_core.ops import winograd
from naflow_core.ops.conv import TRANSFORMED_CELLS, TRANSFORMED_CHANNELS, conv, conv_transpose

SIDE = 20  # of maps that are large enough
WIDE = TRANSFORMED_CHANNELS


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain(x: np.ndarray, w: np.ndarray, pads: list[tuple[int, int]]) -> jax.Array:
    """XLA's own, channels-last."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=layout, precision="highest")


@pytest.mark.parametrize("size", winograd.KERNELS)
def test_one_axis_is_the_filter(size: int) -> None:
    tile, kernel, result = winograd.transforms(size)
    rng = np.random.default_rng(0)
    cells, weights = rng.normal(size=winograd.TILE), rng.normal(size=size)
    filtered = result @ ((kernel @ weights) * (tile @ cells))
    np.testing.assert_allclose(filtered, np.correlate(cells, weights, "valid"), rtol=0, atol=1e-13)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(winograd.KERNELS),
    st.tuples(st.integers(1, 13), st.integers(1, 13)),
    st.lists(st.tuples(st.integers(-1, 6), st.integers(-1, 6)), min_size=2, max_size=2),
)
def test_is_the_convolution(size: int, cells: tuple[int, int], pads: list[tuple[int, int]]) -> None:
    output = [n + before + after - size + 1 for n, (before, after) in zip(cells, pads, strict=True)]
    assume(min(output) >= 1)
    x, w = normal(2, *cells, 5), normal(size, size, 5, 3, seed=1)

    @jax.jit
    def both(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        transformed = winograd.transform_kernel(w)
        found = winograd.convolve(x, transformed, size, [before for before, _ in pads], output)
        return found, plain(x, w, pads)

    found, expected = both(x, w)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(w).sum())


def test_in_double_precision_nothing_is_lost() -> None:
    with jax.enable_x64(True):
        x, w = (values.astype(np.float64) for values in (normal(1, 20, 20, 64), normal(3, 3, 64, 32, seed=1)))
        transformed = winograd.transform_kernel(jnp.asarray(w))
        found = winograd.convolve(jnp.asarray(x), transformed, 3, (1, 1), (20, 20))
        np.testing.assert_allclose(found, plain(x, w, [(1, 1), (1, 1)]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(("size", "pads"), [(3, (1, 1, 1, 1)), (3, (2, 0, 1, 3)), (5, (2, 2, 2, 2))])
def test_only_the_derivative_in_a_solve_is_made_so(
    transposed: bool, group: int, size: int, pads: tuple[int, ...]
) -> None:
    w = normal(group * WIDE, WIDE, size, size, seed=1)
    function, x = conv_transpose if transposed else conv, normal(2, group * WIDE, SIDE + 3, SIDE + 4)
    own = lambda in_solve: lambda x: function(x, w, group=group, pads=pads, in_solve=in_solve)  # noqa: E731
    found = []
    for in_solve in (False, True):
        value, push = jax.linearize(own(in_solve), jnp.asarray(x))
        pull = jax.linear_transpose(push, x)
        found.append((value, push(normal(*x.shape, seed=2)), pull(normal(*value.shape, seed=3))[0]))
    (value, pushed, pulled), (same, quick, back) = found
    np.testing.assert_array_equal(value, same)
    for exact, other in ((pushed, quick), (pulled, back)):
        np.testing.assert_allclose(other, exact, rtol=0, atol=1e-5 * float(jnp.abs(exact).max()))
        assert not np.array_equal(other, exact)


LARGE = (1, WIDE, SIDE, SIDE)
USUAL = (WIDE, WIDE, 3, 3)


@pytest.mark.parametrize(
    ("x", "w", "attributes", "expected"),
    [
        (LARGE, USUAL, {"pads": (1, 1, 1, 1)}, True),
        (LARGE, (WIDE, WIDE, 5, 5), {"pads": (2, 2, 2, 2)}, True),
        (LARGE, USUAL, {}, False),  # SIDE - 2 is too small
        ((1, 512, 13, 13), (512, 512, 3, 3), {"pads": (1, 1, 1, 1)}, True),
        ((1, 512, 12, 12), (512, 512, 3, 3), {"pads": (1, 1, 1, 1)}, False),
        ((1, WIDE, 320, 320), USUAL, {"pads": (1, 1, 1, 1)}, False),  # more tiles than a cache holds
        (LARGE, USUAL, {"pads": (1, 1, 1, 1), "strides": (2, 2)}, False),
        (LARGE, USUAL, {"pads": (2, 2, 2, 2), "dilations": (2, 2)}, False),
        (LARGE, (WIDE, WIDE, 1, 3), {"pads": (0, 1, 0, 1)}, False),
        (LARGE, (WIDE, WIDE, 7, 7), {"pads": (3, 3, 3, 3)}, False),
        (LARGE, (WIDE, 1, 3, 3), {"pads": (1, 1, 1, 1), "group": WIDE}, False),
        (LARGE, (WIDE - 1, WIDE, 3, 3), {"pads": (1, 1, 1, 1)}, False),
        ((1, 2 * WIDE, SIDE, SIDE), (2 * WIDE, WIDE, 3, 3), {"pads": (1, 1, 1, 1), "group": 2}, True),
        ((1, WIDE, SIDE, SIDE), (WIDE, WIDE // 2, 3, 3), {"pads": (1, 1, 1, 1), "group": 2}, False),
        ((1, WIDE, SIDE**2), (WIDE, WIDE, 3), {"pads": (1, 1)}, False),
        ((1, WIDE, 8, 8, 8), (WIDE, WIDE, 3, 3, 3), {"pads": (1,) * 6}, False),
    ],
)
def test_which_convolutions_gain(
    x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, object], expected: bool
) -> None:
    assert SIDE**2 >= TRANSFORMED_CELLS > (SIDE - 2) ** 2
    weights = np.zeros(w, np.float32)

    def derivative(x: jax.Array) -> jax.Array:
        return jax.jvp(lambda x: conv(x, weights, in_solve=True, **attributes), (x,), (x,))[1]

    places = f"[{winograd.TILE**2},"  # a product for each place of a tile
    assert (places in str(jax.make_jaxpr(derivative)(jnp.zeros(x)))) is expected
