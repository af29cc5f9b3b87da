"""The inverse of anything that can be linearised: least squares on its Jacobian at the forward activation.

The Jacobian J is never built. The segment is linearised once and transposed once; the solver sees only the
two products. With `rows` as the diagonal of M (0 for an equation that is not kept, else its weight) and the
right-hand side r = y - (f(x0) - J x0):

    x = argmin || M (J x - r) ||^2

of minimum norm (anchor "origin") or nearest to the forward activation (anchor "activation").

Damping is relative: the Tikhonov parameter is `damping` times ||A^T b|| / ||b|| (A = M J, b = M r), the gain
of the layer in the direction that matters. So it means the same for every layer, and does not change when
all weights of one are multiplied by a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from naflow_core.ops.registry import Interval
from naflow_core.solve import (
    Solution,
    Stopping,
    bounded_least_squares,
    least_squares,
    least_squares_by_cells,
)

Array = Any


class LinearisedInverse(NamedTuple):
    """The preimage, and the affine offset r_0 = f(x0) - J x0 that the conservation check needs."""

    solution: Solution
    offset: Array


def invert_linearised(
    function: Callable[[Array], Array],
    x0: Array,
    y: Array,
    rows: Array,
    *,
    bounds: Interval,
    anchored: bool,
    unique: bool,
    damping: Array | float,
    stopping: Stopping,
    systems: tuple[int, ...] = (0,),
    matrix: Array | None = None,
) -> LinearisedInverse:
    """Preimage of `y` under `function` linearised at `x0`.

    Args:
        x0: forward activation at the input, [N, ...].
        y: back-propagated feature map at the output, [N, ...].
        rows: shape of y: weight of each equation, 0 for those that are not kept.
        bounds: the preimage stays in this interval; infinite ends for none.
        anchored: True for the solution nearest to `x0`, False for the one of minimum norm.
        unique: whether `damping` is positive, so that a solve with bounds has one minimiser wherever it
            starts. Otherwise it starts from the clipped solution without bounds.
        systems: axes that number independent systems (batch; channels too for depthwise layers).
        matrix: [O, I], where the Jacobian multiplies the channels of each cell by it, and a solve without
            bounds is to be made cell by cell.
    """
    y0, jacobian = jax.linearize(function, x0)
    transpose = jax.linear_transpose(jacobian, x0)

    def forward(v: Array) -> Array:
        return rows * jacobian(v)

    def adjoint(u: Array) -> Array:
        return transpose(rows * u)[0]

    image = jacobian(x0)
    offset = y0 - image
    right = rows * (y - offset)
    start = x0 if anchored else jnp.zeros_like(x0)
    right = right - rows * image if anchored else right
    # the solver squares its values, which leaves float32's range long before they do
    unit = _unit(right, systems)
    right = right / unit
    unit = unit.reshape(_per_system(x0, systems))
    options: dict[str, Any] = {
        "damping": damping,
        "relative": True,
        "stopping": stopping,
        "systems": systems,
    }
    low, high = bounds
    bounded = low > -jnp.inf or high < jnp.inf
    if matrix is not None and not bounded:
        solution = least_squares_by_cells(
            matrix, rows, forward, adjoint, right, damping=damping, stopping=stopping
        )
    elif not bounded or not unique:
        solution = least_squares(forward, adjoint, right, **options)
    if bounded:
        # in terms of the step away from the anchor, so that damping and right-hand side stay the same
        anchor = start if anchored else None
        ends = _end(low, anchor, unit), _end(high, anchor, unit)
        begin = None
        if not unique:
            begin = jnp.clip(solution.x, *ends)
        elif anchored or not low <= 0 <= high:
            begin = jnp.clip(jnp.zeros_like(x0), *ends)
        solution = bounded_least_squares(forward, adjoint, right, *ends, start=begin, **options)
    preimage = start + unit * solution.x
    preimage = jnp.clip(preimage, low, high) if bounded else preimage
    return LinearisedInverse(solution._replace(x=preimage), offset)


def _end(bound: float, anchor: Array | None, unit: Array) -> Array | float:
    """A bound in terms of the step away from the anchor, in units. Read in every iteration: no array where a
    number will do."""
    if abs(bound) == jnp.inf or (anchor is None and bound == 0):
        return bound
    return (bound if anchor is None else bound - anchor) / unit


def _per_system(like: Array, systems: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one number per system that multiplies `like`."""
    return tuple(size if axis in systems else 1 for axis, size in enumerate(like.shape))


def _unit(right: Array, systems: tuple[int, ...]) -> Array:
    """A power of two near each system's largest value (dividing by it loses no digit); 1 for 0."""
    inside = tuple(axis for axis in range(right.ndim) if axis not in systems)
    largest = jnp.max(jnp.abs(right), axis=inside, keepdims=True)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 1))
    return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -120, 120)), 1)
