"""The least-squares inverse of composites against dense solves on the explicit Jacobian."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

import naflow_core as nf
from naflow_core.analysis.plan import make_segment
from naflow_core.inverse.linearised import invert_linearised
from naflow_core.solve import Stopping
from support import replicas
from support.blocks import BLOCKS, network, picture

REALS = (-np.inf, np.inf)
NON_NEGATIVE = (0.0, np.inf)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def solve(subprogram, bounds, anchor, unique, systems, x0, operands, y, rows, damping):
    return invert_linearised(
        lambda x: subprogram(x, operands)[0], x0, y, rows, bounds=bounds, anchor=anchor, unique=unique,
        damping=damping, stopping=Stopping(1e-6, 3000), systems=systems,
    )  # fmt: skip


class Block:
    """A block at one picture: the planner's segment r0 -> b, and the same as a dense matrix."""

    def __init__(self, name):
        model = network(name)
        x = picture(3)
        self.dense = replicas.Linearised.of(
            replicas.Function(model, "r0", "b"), replicas.tensors(model, x, ["r0"])["r0"]
        )
        program = nf.load(model).program({"x": x.shape})
        self.segment = make_segment(program, "r0", "b", ())
        self.operands = program.operands(self.segment.operands, {})
        generator = np.random.default_rng(5)
        self.rows = generator.random(self.dense.y0.shape) < 0.5
        self.y = np.where(self.rows, self.dense.y0 + generator.normal(size=self.dense.y0.shape) * 0.2, 0)

    def ours(self, rows, damping, *, anchor="origin", bounds=REALS, y=None):
        solved = solve(
            self.segment.subprogram, bounds, anchor, damping > 0, self.segment.systems,
            jnp.asarray(self.dense.x0, jnp.float32), self.operands,
            jnp.asarray(self.y if y is None else y, jnp.float32),
            jnp.asarray(rows, jnp.float32), damping,
        )  # fmt: skip
        np.testing.assert_allclose(solved.offset.reshape(-1), self.dense.offset, atol=2e-5)
        return solved.solution


block = functools.cache(Block)
every_block = pytest.mark.parametrize("name", BLOCKS)


def close(ours, reference, share=2e-3):
    np.testing.assert_allclose(ours, reference, atol=share * np.abs(reference).max())


@every_block
def test_a_block_is_one_composite_solved_by_least_squares(name):
    assert block(name).segment.kind == "composite"
    assert block(name).segment.rule.name == "least-squares"


@every_block
@pytest.mark.parametrize("anchor", ["origin", "activation"])
def test_least_squares_of_a_block_is_the_dense_solve(name, anchor):
    case = block(name)
    everything, active = np.ones_like(case.rows), case.rows | (case.dense.y0 > 0)
    for rows, damping in (
        (case.rows, 0.0),
        (active, 0.0),
        (everything, 0.0),
        (case.rows, 0.3),
        (everything, 2.0),
    ):
        ours = case.ours(rows, damping, anchor=anchor)
        close(ours.x, case.dense.preimage(case.y, rows, damping=damping, anchor=anchor))
        assert ours.converged.all()


@every_block
def test_feasible_least_squares_of_a_block_is_the_bounded_dense_solve(name):
    case = block(name)
    for rows in (case.rows, np.ones_like(case.rows)):
        ours = case.ours(rows, 0.3, bounds=NON_NEGATIVE)
        close(ours.x, case.dense.preimage(case.y, rows, damping=0.3, bounds=NON_NEGATIVE))
        assert ours.converged.all()
        assert ours.x.min() >= 0


def test_feasible_and_anchored_solve_stays_in_the_bounds_of_the_sum():
    case = block("residual")
    bounds = tuple(float(end(np.float32(case.dense.x0))) for end in (np.min, np.max))
    ours = case.ours(case.rows, 0.3, bounds=bounds, anchor="activation")
    close(ours.x, case.dense.preimage(case.y, case.rows, damping=0.3, bounds=bounds, anchor="activation"))
    assert bounds[0] == ours.x.min()  # some neurons are at an end
    assert ours.x.max() <= np.float32(bounds[1])


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-9])
def test_next_to_nothing_is_reached_from_the_anchor(size):
    """The step from the anchor is far larger than what is to be explained: it converges, without overflow."""
    case = block("residual")
    y = case.dense.offset.reshape(case.y.shape) + size * case.y
    ours = case.ours(np.ones_like(case.rows), 0.3, anchor="activation", y=y)
    close(ours.x, case.dense.preimage(y, np.ones_like(case.rows), damping=0.3, anchor="activation"))
    assert ours.converged.all()


def test_no_rows_give_no_preimage_or_the_anchor_itself():
    case = block("residual")
    none = np.zeros_like(case.rows)
    assert not case.ours(none, 0.0).x.any()
    np.testing.assert_array_equal(
        case.ours(none, 0.0, anchor="activation").x, case.dense.x0.astype(np.float32)
    )


@every_block
@pytest.mark.parametrize("bounds", [REALS, (0.0, 0.8), (-0.5, np.inf)], ids=str)
def test_shares_of_the_activation_are_the_dense_solve(name, bounds):
    case = block(name)
    for rows in (case.rows, np.ones_like(case.rows)):
        ours = case.ours(rows, 0.3, anchor="relative", bounds=bounds)
        close(ours.x, case.dense.preimage(case.y, rows, damping=0.3, anchor="relative", bounds=bounds))
        assert ours.converged.all()
        assert not ours.x[case.dense.x0 == 0].any()


@functools.partial(jax.jit, static_argnums=(3, 4))
def inverse_by_shares(matrix, x0, y, damping, bounds):
    return invert_linearised(
        lambda x: x @ matrix.T, x0, y, jnp.ones_like(y), bounds=bounds, anchor="relative",
        unique=damping > 0, damping=damping, stopping=Stopping(1e-6, 3000),
    ).solution  # fmt: skip


def by_shares(matrix, x0, target, damping, bounds=REALS):
    """x = q x0 for y = A x."""
    arrays = (jnp.asarray(a, jnp.float32) for a in (matrix, x0, target))
    return inverse_by_shares(*arrays, damping, bounds)


@pytest.mark.parametrize("bounds", [REALS, (-0.3, 0.4)], ids=str)
def test_shares_keep_the_sign_of_the_activation_and_its_range(bounds):
    generator = np.random.default_rng(4)
    matrix, x0 = generator.normal(size=(5, 8)), np.clip(generator.normal(size=(1, 8)), *bounds)
    x0[0, :2] = 0
    target = generator.normal(size=(1, 5))
    solved = by_shares(matrix, x0, target, 0.2, bounds)
    unit, b = x0[0], target[0]
    a = matrix * unit
    damping = 0.2 * np.linalg.norm(a.T @ b) / np.linalg.norm(b)
    far = np.where(unit == 0, np.inf, np.where(unit > 0, bounds[1], bounds[0]) / np.where(unit == 0, 1, unit))
    stacked = np.concatenate([a, damping * np.eye(8)])
    expected = lsq_linear(stacked, np.concatenate([b, np.zeros(8)]), (0, far), tol=1e-13).x * unit
    close(solved.x[0], expected)
    assert ((solved.x * x0) >= 0).all()
    assert solved.x.any()


@given(seed=st.integers(0, 2**16), exponents=st.lists(st.floats(-6, 6), min_size=6, max_size=6))
@settings(deadline=None, max_examples=25)
def test_shares_do_not_depend_on_how_channels_are_scaled(seed, exponents):
    """A channel twice as large behind weights half as large: the preimage is twice as large, no more."""
    generator = np.random.default_rng(seed)
    matrix, x0 = generator.normal(size=(4, 6)), np.abs(generator.normal(size=(1, 6)))
    factors = 2.0 ** np.array(exponents)
    plain = by_shares(matrix, x0, x0 @ matrix.T, 0.3)
    scaled = by_shares(matrix / factors, x0 * factors, x0 @ matrix.T, 0.3)
    close(scaled.x / factors, plain.x, share=1e-3)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
def test_the_solve_scales_with_its_right_hand_side(scale):
    """Squares of the values leave float32's range long before the values do."""
    matrix = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    b = np.random.default_rng(1).normal(size=(1, 6))
    expected = np.linalg.lstsq(matrix.astype(np.float64), b[0], rcond=None)[0]

    @functools.partial(jax.jit, static_argnums=1)
    def inverse(y, bounds):
        return invert_linearised(
            lambda x: x @ jnp.asarray(matrix.T), jnp.zeros((1, 4)), y, jnp.ones((1, 6)), bounds=bounds,
            anchor="origin", unique=False, damping=0.0, stopping=Stopping(1e-6, 100),
        ).solution  # fmt: skip

    solved = inverse(jnp.asarray(b * scale, jnp.float32), REALS)
    np.testing.assert_allclose(solved.x[0] / scale, expected, atol=1e-4)
    bounded = inverse(jnp.asarray(b * scale, jnp.float32), NON_NEGATIVE)
    reference = replicas.Linearised(
        matrix.astype(np.float64), np.zeros(6), np.zeros((1, 4)), np.zeros((1, 6))
    )
    close(bounded.x / scale, reference.preimage(b, np.ones(6), bounds=NON_NEGATIVE))
    assert solved.converged.all()
    assert bounded.converged.all()
