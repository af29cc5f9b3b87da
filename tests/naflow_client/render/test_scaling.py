"""Min-max and resizing against slow replicas and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from naflow_client import MapError
from naflow_client.render import map_state, normalise, upscale

maps = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-100, 100, width=32)
)


def slow_upscale(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Four weighted neighbours per pixel, out-of-range neighbours clamped."""
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = (i + 0.5) * values.shape[0] / height - 0.5
            x = (j + 0.5) * values.shape[1] / width - 0.5
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(y - row)) * (1 - abs(x - column))
                    inside_row = min(max(row, 0), values.shape[0] - 1)
                    inside_column = min(max(column, 0), values.shape[1] - 1)
                    result[i, j] += weight * values[inside_row, inside_column]
    return result


@given(values=maps, size=st.tuples(st.integers(1, 17), st.integers(1, 17)))
@settings(max_examples=60, deadline=None)
def test_upscale_has_half_pixel_centres(values: np.ndarray, size: tuple[int, int]) -> None:
    result = upscale(values, size)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, slow_upscale(values.astype(float), *size), rtol=1e-5, atol=1e-4)


def test_upscale_by_hand() -> None:
    assert upscale(np.array([[0.0, 4.0]]), (1, 4)).tolist() == [[0, 1, 3, 4]]
    assert upscale(np.array([[0.0], [6.0]]), (3, 2))[:, 0].tolist() == [0, 3, 6]


@given(values=maps, factor=st.sampled_from([1, 3, 5]))
def test_centres_of_the_cells_keep_their_values(values: np.ndarray, factor: int) -> None:
    height, width = values.shape
    result = upscale(values, (height * factor, width * factor))
    centres = result[factor // 2 :: factor, factor // 2 :: factor]
    np.testing.assert_allclose(centres, values, rtol=1e-6, atol=1e-4)
    assert result.min() >= values.min() - 1e-4
    assert result.max() <= values.max() + 1e-4


@given(values=maps)
def test_normalise_is_min_max(values: np.ndarray) -> None:
    result = normalise(values)
    if result.constant:
        assert not result.values.any()
        return
    assert result.values.min() == 0
    assert result.values.max() == 1
    span = result.high - result.low
    np.testing.assert_allclose(result.low + result.values * span, values, atol=span * 1e-5)


@given(values=maps, scale=st.floats(0.5, 1e6), shift=st.integers(-50, 50))
@settings(deadline=None)
def test_normalise_ignores_positive_scale_and_shift(values: np.ndarray, scale: float, shift: int) -> None:
    exact = values.astype(np.float64)
    if np.ptp(exact) < 1e-2:
        return
    np.testing.assert_allclose(normalise(exact * scale + shift).values, normalise(exact).values, atol=1e-4)


@pytest.mark.parametrize("level", [0.0, 1.0, -3.5, 1e-30, 1e30])
def test_constant_maps_are_flagged_not_stretched(level: float) -> None:
    flat = np.full((4, 5), level, np.float32)
    noisy = flat.copy()
    noisy[0, 0] = np.nextafter(np.float32(level), np.float32(np.inf)) if level else 0
    for values in (flat, noisy):
        result = normalise(values)
        assert result.constant
        assert not result.values.any()
        assert map_state(values) == "constant"


def test_tiny_and_huge_ranges_keep_their_structure() -> None:
    for factor in (1e-38, 1.7e308):
        assert normalise(np.array([[-1.0, 0.0, 1.0]]) * factor).values.tolist() == [[0, 0.5, 1]]


def test_states() -> None:
    assert map_state(None) == "missing"
    assert map_state(np.zeros((0, 4))) == "missing"
    assert map_state(np.eye(2)) == "ok"
    for bad in (np.nan, np.inf, -np.inf):
        values = np.eye(3)
        values[1, 2] = bad
        assert map_state(values) == "invalid"
        with pytest.raises(MapError, match="nan or infinite"):
            normalise(values)
    for bad_shape in (np.zeros(3), np.zeros((1, 3, 3)), np.array([["a"]])):
        with pytest.raises(MapError, match="h, w"):
            map_state(bad_shape)
    with pytest.raises(MapError, match="cannot be resized"):
        upscale(np.eye(2), (0, 4))
