"""The solver against SciPy on small explicit matrices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from scipy.sparse.linalg import lsmr

from naflow_core.solve import Stopping, bounded_least_squares, least_squares

TIGHT = Stopping(tolerance=1e-6, max_iterations=2000)


def batch_of(matrices):
    """A block-diagonal map over axis 0, as two functions."""
    stack = jnp.stack([jnp.asarray(a, jnp.float32) for a in matrices])
    return lambda v: jnp.einsum("nij,nj->ni", stack, v), lambda u: jnp.einsum("nij,ni->nj", stack, u)


@jax.jit  # the matrix is an argument, so that one shape compiles once
def solve(stack, b, damping):
    return least_squares(*batch_of(list(stack)), b, damping=damping, stopping=TIGHT)


@functools.partial(jax.jit, static_argnums=2)
def solve_bounded(stack, b, bounds):
    return bounded_least_squares(*batch_of(list(stack)), b, *bounds, stopping=TIGHT)


def matrix(generator, rows, columns, rank=None):
    """Random, of a given rank, singular values between 1 and 3."""
    rank = min(rows, columns) if rank is None else rank
    left = np.linalg.qr(generator.standard_normal((rows, rank)))[0]
    right = np.linalg.qr(generator.standard_normal((columns, rank)))[0]
    return ((left * generator.uniform(1, 3, rank)) @ right.T).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(9, 4), (4, 9), (7, 7)]), st.sampled_from([0.0, 0.3]))
def test_minimum_norm_solution_equals_lsmr(seed, shape, damping):
    rows, columns = shape
    generator = np.random.default_rng(seed)
    rank = max(1, min(rows, columns) - seed % 2)
    a = matrix(generator, rows, columns, rank)
    b = generator.standard_normal(rows).astype(np.float32)
    ours = solve(jnp.asarray(a[None]), jnp.asarray(b[None]), damping)
    reference = lsmr(a.astype(float), b.astype(float), damp=damping, atol=1e-7, btol=1e-7, maxiter=1000)[0]
    np.testing.assert_allclose(ours.x[0], reference, atol=2e-4)
    assert ours.converged.all()


def test_pictures_do_not_influence_each_other():
    generator = np.random.default_rng(1)
    systems = [matrix(generator, 9, 6), 1e3 * matrix(generator, 9, 6), np.zeros((9, 6), np.float32)]
    b = generator.standard_normal((3, 9)).astype(np.float32)
    forward, adjoint = batch_of(systems)
    together = least_squares(forward, adjoint, jnp.asarray(b), stopping=TIGHT)
    for i, a in enumerate(systems):
        alone = least_squares(*batch_of([a]), jnp.asarray(b[i : i + 1]), stopping=TIGHT)
        np.testing.assert_allclose(together.x[i], alone.x[0], rtol=1e-5, atol=1e-6)
        assert together.iterations[i] == alone.iterations[0]
    assert not together.x[2].any()


def test_a_channel_with_no_rows_stays_zero_and_does_not_disturb_others():
    weights = jnp.asarray([[2.0], [0.0], [5.0]])[None]

    def scale(v):
        return v * weights

    b = jnp.ones((1, 3, 4))
    solved = least_squares(scale, scale, b, stopping=TIGHT, systems=(0, 1))
    np.testing.assert_allclose(solved.x[0, :, 0], [0.5, 0.0, 0.2], rtol=1e-6)
    assert solved.converged.all()


def test_too_few_iterations_are_reported():
    generator = np.random.default_rng(2)
    a = matrix(generator, 30, 30) @ np.diag(np.logspace(0, -3, 30)).astype(np.float32)
    forward, adjoint = batch_of([a])
    b = jnp.asarray(generator.standard_normal((1, 30)), jnp.float32)
    solved = least_squares(forward, adjoint, b, stopping=Stopping(1e-5, 3))
    assert not solved.converged[0]
    assert solved.iterations[0] == 3
    assert solved.relative_residual[0] > 1e-5


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([(12, 7), (9, 2)]), st.sampled_from([(0.0, np.inf), (0.0, 0.6)])
)
def test_bounded_solution_equals_scipy(seed, shape, bounds):
    generator = np.random.default_rng(seed)
    a = generator.standard_normal(shape).astype(np.float32)
    b = generator.standard_normal(shape[0]).astype(np.float32)
    ours = solve_bounded(jnp.asarray(a[None]), jnp.asarray(b[None]), bounds)
    reference = lsq_linear(a.astype(float), b, bounds, tol=1e-12)
    np.testing.assert_allclose(ours.x[0], reference.x, atol=3e-4)
    assert ours.converged.all()
    assert ours.x.min() >= bounds[0]
    assert ours.x.max() <= np.float32(bounds[1])


def test_bounded_solve_is_per_picture():
    generator = np.random.default_rng(3)
    systems = [generator.standard_normal((12, 7)).astype(np.float32) * scale for scale in (1, 50, 0.02)]
    b = generator.standard_normal((3, 12)).astype(np.float32)
    forward, adjoint = batch_of(systems)
    together = bounded_least_squares(forward, adjoint, jnp.asarray(b), 0.0, jnp.inf, stopping=TIGHT)
    for i, a in enumerate(systems):
        reference = lsq_linear(a.astype(float), b[i], (0, np.inf), tol=1e-12)
        np.testing.assert_allclose(
            together.x[i], reference.x, rtol=2e-3, atol=2e-4 * np.abs(reference.x).max()
        )


@pytest.mark.parametrize("bounds", [(-100.0, 100.0), (-np.inf, np.inf)])
def test_bounds_that_do_not_bind_change_nothing(bounds):
    generator = np.random.default_rng(4)
    a = generator.standard_normal((5, 12)).astype(np.float32)  # many solutions
    b = jnp.asarray(generator.standard_normal((1, 5)), jnp.float32)
    forward, adjoint = batch_of([a])
    free = least_squares(forward, adjoint, b, stopping=TIGHT)
    solved = bounded_least_squares(forward, adjoint, b, *bounds, stopping=TIGHT)
    np.testing.assert_allclose(solved.x, free.x, atol=1e-5)
    assert solved.converged.all()


def test_the_bounded_answer_is_feasible_even_if_there_is_nothing_to_solve():
    forward, adjoint = batch_of([np.zeros((3, 4), np.float32)])
    start = jnp.full((1, 4), 0.5)
    solved = bounded_least_squares(forward, adjoint, jnp.zeros((1, 3)), 0.5, 2.0, start=start)
    np.testing.assert_array_equal(solved.x, np.full((1, 4), 0.5))


def watching(solver, systems, b, map_change, tolerance=1e-3, **options):
    """A solve that watches the first four unknowns as a map of 2 x 2."""
    forward, adjoint = batch_of(systems)
    stopping = Stopping(tolerance, 500, map_change)
    ends = (0.0, jnp.inf) if solver is bounded_least_squares else ()
    view = None if map_change is None else lambda x: x[:, :4].reshape(-1, 2, 2)
    return solver(forward, adjoint, b, *ends, stopping=stopping, view=view, damping=0.1, **options)


def stretched(generator):
    """Singular values over a hundredfold range: some forty iterations."""
    return matrix(generator, 40, 40) @ np.diag(np.logspace(0, -2, 40)).astype(np.float32)


@pytest.mark.parametrize("solver", [least_squares, bounded_least_squares])
def test_a_map_that_stands_still_ends_a_solve(solver):
    generator = np.random.default_rng(6)
    systems = [stretched(generator) for _ in range(3)]
    b = jnp.asarray(generator.standard_normal((3, 40)), jnp.float32)
    tight = watching(solver, systems, b, None, 1e-6)
    by_residual = watching(solver, systems, b, None)
    unseen = watching(solver, systems, b, 0.0)
    np.testing.assert_array_equal(unseen.x, by_residual.x)
    watched = watching(solver, systems, b, 5e-3)
    assert (watched.iterations <= by_residual.iterations).all()
    assert (watched.iterations < by_residual.iterations).any()
    assert watched.converged.all()
    assert (watched.relative_residual <= 1e-2).all()
    assert (watched.relative_residual > 1e-3).any()
    for ours, theirs in zip(np.asarray(watched.x[:, :4]), np.asarray(tight.x[:, :4]), strict=True):
        assert np.abs(ours - theirs).max() <= 0.05 * np.ptp(theirs)


@pytest.mark.parametrize("solver", [least_squares, bounded_least_squares])
def test_when_a_map_stands_still_does_not_depend_on_the_other_pictures(solver):
    generator = np.random.default_rng(7)
    systems = [stretched(generator), matrix(generator, 40, 40), 1e3 * stretched(generator)]
    b = jnp.asarray(generator.standard_normal((3, 40)), jnp.float32)
    together = watching(solver, systems, b, 5e-3)
    for i, a in enumerate(systems):
        alone = watching(solver, [a], b[i : i + 1], 5e-3)
        assert together.iterations[i] == alone.iterations[0]
        np.testing.assert_allclose(together.x[i], alone.x[0], rtol=1e-4, atol=1e-5 * np.abs(alone.x[0]).max())
