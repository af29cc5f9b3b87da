"""Intervals and paired tests against what can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflow_core.evaluate.arrays import (
    averaged,
    blurred,
    enlarged,
    pearson,
    ranks,
    spearman,
    strongest_first,
    without_ties,
)
from naflow_core.evaluate.statistics import difference, estimate


def test_sign_flips_are_counted_exactly() -> None:
    """Of the 2^5 patterns of signs only the observed one and its mirror reach the mean of 1..5."""
    found = difference(np.array([2.0, 4, 6, 8, 10]), np.array([1.0, 2, 3, 4, 5]))
    assert (found.mean, found.p, found.count) == (3.0, 2 / 32, 5)


def test_equal_methods_do_not_differ() -> None:
    found = difference(np.arange(20.0), np.arange(20.0))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_many_pictures_are_drawn_at_random_and_agree_with_the_normal_law() -> None:
    random = np.random.default_rng(0)
    first = random.normal(0.5, 1, 100)
    found = difference(first, np.zeros(100))
    assert found.p < 1e-3
    error = first.std(ddof=1) / 10
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.03)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.03)
    assert difference(random.normal(0, 1, 100), np.zeros(100)).p > 0.01


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        found = estimate(random.exponential(1.0, 40))
        hits += found.low <= 1.0 <= found.high
    assert 85 <= hits <= 100


@given(st.lists(st.floats(-100, 100, allow_nan=False), min_size=1, max_size=30), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_an_estimate_lies_inside_its_interval_and_comes_from_the_seed(values: list[float], seed: int) -> None:
    x = np.array(values)
    found = estimate(x, seed)
    assert found == estimate(x, seed)
    assert x.min() - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= x.max() + 1e-9


def test_nothing_cannot_be_estimated() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        estimate(np.array([]))


def test_correlations() -> None:
    a = np.array([1.0, 2, 3, 4])
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert pearson(a, a**3) == pytest.approx(np.corrcoef(a, a**3)[0, 1])
    assert ranks(np.array([5, 1, 5, 9])).tolist() == [1.5, 0, 1.5, 3]
    flat = np.ones(4)
    assert (spearman(flat, a), spearman(flat, flat)) == (0, 1)


def test_resizing_keeps_means_and_linear_ramps() -> None:
    ramp = np.add.outer(np.arange(6.0), 10 * np.arange(4.0))
    assert averaged(ramp, 3, 2) == pytest.approx(np.add.outer([0.5, 2.5, 4.5], [5.0, 25.0]))
    assert averaged(ramp, 4, 3).mean() == pytest.approx(ramp.mean())
    large = enlarged(ramp, 12, 8)
    assert np.diff(large[1:-1], axis=0) == pytest.approx(0.5)
    assert large.min() == ramp.min()
    assert large.max() == ramp.max()


def test_a_blur_keeps_constants_and_spreads_a_point_as_the_normal_law_says() -> None:
    assert blurred(np.full((2, 9, 9), 3.0), 2.0) == pytest.approx(3)
    point = np.zeros((41, 41))
    point[20, 20] = 1
    spread = blurred(point, 3.0)
    assert spread.sum() == pytest.approx(1)
    assert spread[20, 23] / spread[20, 20] == pytest.approx(np.exp(-0.5))


def test_ties_break_at_random_and_nothing_else_does() -> None:
    values = np.array([[0.0, 0.0], [1.0, 1.0 + 1e-6]])
    orders = {tuple(np.argsort(without_ties(values, np.random.default_rng(i)), axis=None)) for i in range(20)}
    assert orders == {(0, 1, 2, 3), (1, 0, 2, 3)}


@pytest.mark.parametrize("values", [[3, 1, 2], [2, 1, 2, 0, 1], [0, 0, 0], [5]])
def test_the_strongest_come_first_and_equal_ones_in_random_order(values: list[int]) -> None:
    orders = [strongest_first(np.array(values), np.random.default_rng(i)) for i in range(40)]
    for order in orders:
        assert sorted(order) == list(range(len(values)))
        assert [values[i] for i in order] == sorted(values, reverse=True)
    ways = np.prod([math.factorial(values.count(value)) for value in set(values)])
    assert len({tuple(order) for order in orders}) == ways
