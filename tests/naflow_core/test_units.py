"""Powers of two are those that `frexp` and `ldexp` give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflow_core.units import MOST_EXPONENT, power_of_two_above

POSITIVE = st.floats(0, width=32, exclude_min=True, allow_nan=False, allow_infinity=False)


def expected(values: np.ndarray, most: int) -> np.ndarray:
    _, exponent = np.frexp(values)
    return np.ldexp(np.ones_like(values), np.clip(exponent, -most, most))


@settings(max_examples=60, deadline=None)
@given(st.lists(POSITIVE, min_size=5, max_size=5), st.sampled_from([MOST_EXPONENT, 120, 3]))
def test_they_are_the_least_above(values: list[float], most: int) -> None:
    given_values = np.asarray(values, np.float32)
    np.testing.assert_array_equal(power_of_two_above(given_values, most), expected(given_values, most))


@pytest.mark.parametrize(
    "value", [1.0, 0.5, np.float32(1) - np.float32(2**-24), 3e38, 2.0**-126, 1e-45, 2.0**125]
)
def test_at_the_edges(value: float) -> None:
    values = np.float32([value])
    power = np.asarray(power_of_two_above(values))
    np.testing.assert_array_equal(power, expected(values, MOST_EXPONENT))
    assert np.isfinite(1 / power).all()
    assert (power * (1 / power) == 1).all()
