"""Which neurons are retained, against sorting in numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflow_core.abandonment import (
    EDGE,
    balanced_contribution_mass,
    by_digits,
    by_halving,
    contribution_mass,
    graded_contribution_mass,
    soft_contribution_mass,
    zero_gradient,
)
from support import replicas

retained = jax.jit(contribution_mass)
softly = jax.jit(soft_contribution_mass)
balanced = jax.jit(balanced_contribution_mass)
graded = jax.jit(graded_contribution_mass)
searches = [jax.jit(search, static_argnums=0) for search in (by_digits, by_halving)]
SHAPE = (3, 2, 3, 4)


def tensors(seed: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Activation and coefficients whose products take few values, so that there are ties; some are zero."""
    generator = np.random.default_rng(seed)
    activation = generator.integers(-levels, levels + 1, SHAPE) * generator.choice([0.5, 1.0, 4.0], SHAPE)
    return activation.astype(np.float32), generator.choice([-1.0, 0.0, 2.0], SHAPE).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 1000]), st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]))
def test_the_smallest_set_that_carries_the_mass(seed, levels, mass):
    activation, coefficients = tensors(seed, levels)
    got = np.asarray(retained(activation, coefficients, mass))
    for picture, a, g in zip(got, activation, coefficients, strict=True):
        contribution = np.abs(a * g)
        np.testing.assert_array_equal(picture, replicas.smallest_set(contribution, mass))
        assert contribution[picture].sum() >= mass * contribution.sum() * (1 - 1e-6)
        if picture.any():  # without its least value (and the ties of that) the mass is not reached
            fewer = contribution[picture & (contribution > contribution[picture].min())].sum()
            assert fewer < mass * contribution.sum() * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.sampled_from([1, 2]), st.sampled_from([0.05, 0.5, 0.9, 0.95]), st.booleans())
def test_both_searches_find_the_same_contribution(seed, sides, mass, whole):
    """One is used on CPUs, the other elsewhere. Whole numbers bring ties and sums without rounding."""
    generator = np.random.default_rng(seed)
    size = np.exp(generator.normal(0, 4, (3, 501))) * generator.integers(0, 2, (3, 501))
    size = (np.rint(size * 4) if whole else size).astype(np.float32)
    size[2] = 0
    side = generator.integers(0, sides, size.shape).astype(np.int32)
    found = [np.asarray(search(sides, size, side, mass)) for search in searches]
    for picture in range(len(size)):
        for number in range(sides):
            own = np.where(side[picture] == number, size[picture], 0).astype(np.float64)
            for least in (search[picture, number] for search in found):
                if not own.any():
                    assert least == 0
                    continue
                assert least in own
                assert own[own >= least].sum() >= mass * own.sum() * (1 - 1e-5)
                assert own[own > least].sum() <= mass * own.sum() * (1 + 1e-5)


def test_pictures_are_judged_one_by_one():
    activation, coefficients = tensors(1, 1000)
    scaled = activation * np.float32([1, 1e6, 1e-6]).reshape(3, 1, 1, 1)
    np.testing.assert_array_equal(
        retained(activation, coefficients, 0.7), retained(scaled, coefficients, 0.7)
    )


def test_order_does_not_matter_and_ties_stay_together():
    activation = np.float32([[3, 1, 1, 1, 1, 0]])
    ones = np.ones_like(activation)
    for mass, count in ((0.4, 1), (0.45, 5), (0.99, 5)):
        got = np.asarray(retained(activation, ones, mass))
        assert got.sum() == count
        np.testing.assert_array_equal(retained(activation[:, ::-1], ones, mass)[:, ::-1], got)


def test_a_mass_of_one_keeps_every_contribution():
    activation, coefficients = tensors(2, 1000)
    np.testing.assert_array_equal(retained(activation, coefficients, 1.0), activation * coefficients != 0)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-19, 1e19, 1e30])
def test_any_size_of_values(value):
    activation = np.float32([[4, 2, 1, 0]]) * np.float32(value)
    expected = [[value > 0, value > 0, False, False]]
    np.testing.assert_array_equal(retained(activation, np.ones((1, 4), np.float32), 0.8), expected)


def test_products_beyond_float32_are_still_ordered():
    """Activation and coefficient are finite, their product is not (or is lost): the order must survive."""
    weights = np.float32([[4, 2, 1, 0]])
    for a, g in ((1e25, 1e25), (1e-25, 1e-25), (1e-37, 1.0), (3e37, 1e38)):
        got = retained(weights * np.float32(a), np.full((1, 4), g, np.float32), 0.8)
        np.testing.assert_array_equal(got, [[True, True, False, False]])


def test_zero_gradient_keeps_silent_neurons_with_a_coefficient():
    np.testing.assert_array_equal(
        zero_gradient(jnp.array([0.0, -0.0, 1e-30, -2.0])), [False, False, True, True]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([3, 1000]), st.sampled_from([0.05, 0.5, 0.9, 1.0]))
def test_the_soft_set_ramps_over_the_edge_of_the_hard_one(seed, levels, mass):
    activation, coefficients = tensors(seed, levels)
    shares = np.asarray(softly(activation, coefficients, mass))
    for share, a, g in zip(shares, activation, coefficients, strict=True):
        contribution = np.abs(a * g).astype(np.float64)
        hard = replicas.smallest_set(contribution, mass)
        if not hard.any():
            assert not share.any()
            continue
        least = contribution[hard].min()
        place = np.log(np.where(contribution > 0, contribution, 1e-30) / least) / np.log(EDGE)
        np.testing.assert_allclose(share, np.clip((place + 1) / 2, 0, 1), atol=1e-5)
        assert not share[place < -1 - 1e-5].any()
        assert (share[hard] >= 0.5 - 1e-6).all()
        assert (share[~hard] < 0.5 + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([3, 1000]),
    st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    st.sampled_from([(balanced, replicas.soft_set), (graded, replicas.graded_set)]),
)
def test_either_side_keeps_its_own_mass(seed, levels, mass, rule):
    function, replica = rule
    activation, coefficients = tensors(seed, levels)
    shares = np.asarray(function(activation, coefficients, mass))
    for share, a, g in zip(shares, activation, coefficients, strict=True):
        expected = np.zeros(a.shape)
        for side in (1, -1):
            expected += replica(np.maximum(side * a * g, 0), mass)
        np.testing.assert_allclose(share, expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_graded_shares_keep_the_order_of_what_is_not_abandoned(seed, one, other):
    generator = np.random.default_rng(seed)
    activation = generator.lognormal(0, 2, SHAPE).astype(np.float32)
    coefficients = generator.normal(size=SHAPE).astype(np.float32)
    less, more = sorted((one, other))
    few, many = (np.asarray(graded(activation, coefficients, mass)) for mass in (less, more))
    assert (many >= few * (1 - 1e-6)).all()  # a larger mass abandons nothing more
    for share, push in zip(few, activation * coefficients, strict=True):
        for side in (1, -1):
            mine = side * push > 0
            order = np.argsort(np.abs(push[mine]))
            assert (np.diff(share[mine][order]) >= 0).all()
            assert share[mine][order][-1] == pytest.approx(1, abs=1e-6)


def test_soft_shares_change_as_little_as_the_contributions_do():
    generator = np.random.default_rng(6)
    activation = generator.lognormal(0, 2, (1, 64, 40, 40)).astype(np.float32)
    nearly = activation * (1 + 5e-4 * generator.uniform(-1, 1, activation.shape)).astype(np.float32)
    ones = np.ones_like(activation)
    assert (np.asarray(retained(activation, ones, 0.9)) != np.asarray(retained(nearly, ones, 0.9))).any()
    assert np.abs(softly(activation, ones, 0.9) - softly(nearly, ones, 0.9)).max() < 2e-3


def test_soft_shares_do_not_depend_on_the_scale():
    activation, coefficients = tensors(1, 1000)
    scaled = activation * np.float32([1, 2.0**60, 2.0**-60]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(softly(activation, coefficients, 0.7), softly(scaled, coefficients, 0.7))


def test_nothing_takes_part_where_nothing_contributes():
    zero = np.zeros((2, 3, 4, 4), np.float32)
    for shares in (softly, balanced, graded):
        assert not np.asarray(shares(zero, zero + 1, 0.9)).any()
