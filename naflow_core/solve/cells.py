"""Least squares where every cell is a small system of its own, by its normal equations.

A convolution of a single cell multiplies the channels of each cell by one matrix; which equations count
differs from cell to cell. With few channels the normal matrices of all cells cost less than a handful of
iterations over them, and a Cholesky factor of each is exact (Golub and Van Loan, 2013, section 5.3).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from naflow_core.solve.least_squares import LinearMap, Solution, Stopping, ratio, squared_norm

Array = Any
HIGHEST = jax.lax.Precision.HIGHEST


def least_squares_by_cells(
    matrix: Array,
    rows: Array,
    forward: LinearMap,
    adjoint: LinearMap,
    b: Array,
    *,
    damping: Array | float,
    reference: Array | None = None,
    stopping: Stopping,
) -> Solution:
    """argmin ||M A x - b||^2 + damping^2 ||x||^2, with the damping in units of ||(M A)^T c|| / ||c||.

    It must not be small against 1, or the factors lose too many digits; what they do lose is in the
    solution's residual.

    Args:
        matrix: [O, I], A in each cell.
        rows: [N, O, spatial...], the diagonal of M.
        forward, adjoint: M A and its transpose.
        b: [N, O, spatial...].
        reference: that c, shape of b; b when None.
        stopping: its tolerance says whether the residual is small enough; there are no iterations.
    """
    outer, inner = matrix.shape
    start = adjoint(b)
    initial2 = squared_norm(start if reference is None else adjoint(reference))
    damping2 = damping**2 * ratio(initial2, squared_norm(b if reference is None else reference))
    products = (matrix[:, :, None] * matrix[:, None, :]).reshape(outer, inner * inner)
    weights = (rows * rows).reshape(*rows.shape[:2], -1)
    normal = jnp.einsum("op,nok->nkp", products, weights, precision=HIGHEST)
    normal = normal.reshape(*normal.shape[:2], inner, inner)
    # where b is 0, so is the solution, whatever the damping
    normal = normal + jnp.where(damping2 > 0, damping2, 1) * jnp.eye(inner)
    factor = jax.lax.linalg.cholesky(normal, symmetrize_input=False)

    def solve(right: Array) -> Array:
        last = jnp.moveaxis(right.reshape(*right.shape[:2], -1), 1, -1)[..., None]
        return jnp.moveaxis(cho_solve((factor, True), last)[..., 0], -1, 1).reshape(right.shape)

    def gradient(x: Array) -> Array:
        return adjoint(b - forward(x)) - damping2 * x

    x = solve(start)
    x = x + solve(gradient(x))  # what rounding left
    relative = jnp.sqrt(ratio(squared_norm(gradient(x)), initial2)).reshape(-1)
    steps = (initial2 > 0).reshape(-1).astype(jnp.int32)
    return Solution(x, steps, relative, relative <= stopping.tolerance, initial2.reshape(-1))
