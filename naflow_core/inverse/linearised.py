"""The inverse of anything that can be linearised: least squares on its Jacobian at the forward activation.

The Jacobian J is never built. The segment is linearised once and transposed once; the solver sees only the
two products. With `rows` as the diagonal of M (0 for an equation that is not kept, else its weight) and the
right-hand side r = y - (f(x0) - J x0):

    x = argmin || M (J x - r) ||^2

of minimum norm (anchor "origin"), nearest to the forward activation (anchor "activation"), or smallest as a
share of it (anchor "relative"): x = q t with q >= 0 and of minimum norm, so that every neuron takes part in
proportion to what it was, and one that was 0 stays 0. Such a weighted minimum norm is what FOCUSS iterates
(Gorodnitsky and Rao, 1997). It does not depend on how the channels of t are scaled.

Damping is relative: the Tikhonov parameter is `damping` times ||A^T b|| / ||b|| (A = M J, b = M r), the gain
of the layer in the direction that matters, and the tolerance is relative to ||A^T b||, wherever the anchor
is. So both mean the same for every layer, and do not change when all weights of one are multiplied by a
number.
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
    View,
    bounded_least_squares,
    least_squares,
    least_squares_by_cells,
)
from naflow_core.units import power_of_two_above

Array = Any

MOST_EXPONENT = 120
"""Of a unit: products with it and their sums stay within float32's range."""
FAINT = 1024.0
"""How much larger than its right-hand side the step from the anchor may be before it is what counts."""


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
    anchor: str,
    unique: bool,
    damping: Array | float,
    stopping: Stopping,
    view: View | None = None,
    systems: tuple[int, ...] = (0,),
    matrix: Array | None = None,
) -> LinearisedInverse:
    """Preimage of `y` under `function` linearised at `x0`.

    Args:
        x0: forward activation at the input, [N, ...].
        y: back-propagated feature map at the output, [N, ...].
        rows: shape of y: weight of each equation, 0 for those that are not kept.
        bounds: the preimage stays in this interval, in which x0 lies; infinite ends for none.
        anchor: "origin", "activation" or "relative", see above.
        unique: whether `damping` is positive, so that a solve with bounds has one minimiser wherever it
            starts. Otherwise it starts from the clipped solution without bounds.
        view: from a preimage to the map that `stopping` watches, if any.
        systems: axes that number independent systems (batch; channels too for depthwise layers).
        matrix: [O, I], where the Jacobian multiplies the channels of each cell by it, and a solve without
            bounds is to be made cell by cell.
    """
    y0, jacobian = jax.linearize(function, x0)
    transpose = jax.linear_transpose(jacobian, x0)
    anchored = anchor == "activation"
    # what one unit of an unknown is; a power of two keeps its square within float32's range
    size = x0 / _unit(x0, systems) if anchor == "relative" else None

    def forward(v: Array) -> Array:
        return rows * jacobian(v if size is None else size * v)

    def adjoint(u: Array) -> Array:
        pulled = transpose(rows * u)[0]
        return pulled if size is None else size * pulled

    image = jacobian(x0)
    offset = y0 - image
    right = rows * (y - offset)
    start, reference = jnp.zeros_like(x0), None
    if anchored:
        away = right - rows * image
        # where next to nothing is to be explained, float32 cannot tell it from the way back from the anchor
        faint = _largest(right, systems) * FAINT <= _largest(away, systems)
        reference = jnp.where(faint, away, right)
        start, right = x0, away
    # the solver squares its values, which leaves float32's range long before they do
    unit = _unit(right if reference is None else reference, systems)
    right = right / unit
    reference = None if reference is None else reference / unit
    unit = unit.reshape(_per_system(x0, systems))
    options: dict[str, Any] = {"damping": damping, "reference": reference, "stopping": stopping}

    def preimage_of(unknowns: Array) -> Array:
        return start + unit * (unknowns if size is None else size * unknowns)

    watched = None if view is None else lambda unknowns: view(preimage_of(unknowns))
    iterated: dict[str, Any] = {**options, "relative": True, "view": watched, "systems": systems}
    low, high = bounds
    bounded = size is not None or low > -jnp.inf or high < jnp.inf
    if matrix is not None and not bounded:
        solution = least_squares_by_cells(matrix, rows, forward, adjoint, right, **options)
    elif not bounded or not unique:
        solution = least_squares(forward, adjoint, right, **iterated)
    if bounded:
        # in terms of the unknowns: steps away from the anchor, or shares of the activation
        if size is not None:
            ends = _share_ends(bounds, size, unit)
        else:
            away = start if anchored else None
            ends = _end(low, away, unit), _end(high, away, unit)
        begin = None
        if not unique:
            begin = jnp.clip(solution.x, *ends)
        elif not (anchored or low <= 0 <= high):  # the anchor itself is in its range
            begin = jnp.clip(jnp.zeros_like(x0), *ends)
        solution = bounded_least_squares(forward, adjoint, right, *ends, start=begin, **iterated)
    preimage = preimage_of(solution.x)
    preimage = jnp.clip(preimage, low, high) if bounded else preimage
    return LinearisedInverse(solution._replace(x=preimage), offset)


def _end(bound: float, anchor: Array | None, unit: Array) -> Array | float:
    """A bound in terms of the step away from the anchor, in units. Read in every iteration: no array where a
    number will do."""
    if abs(bound) == jnp.inf or (anchor is None and bound == 0):
        return bound
    return (bound if anchor is None else bound - anchor) / unit


def _share_ends(bounds: Interval, size: Array, unit: Array) -> tuple[Array | float, Array | float]:
    """Bounds of the shares: not below 0, and the neuron stays in its range. Numbers where they will do."""
    low, high = bounds
    if low in (-jnp.inf, 0) and high in (0, jnp.inf):
        return 0.0, jnp.inf
    scale = jnp.where(size == 0, 1, size) * unit
    near = jnp.where(size > 0, max(low, 0), min(high, 0)) / scale
    far = jnp.where(size > 0, high, low) / scale
    return jnp.where(size == 0, 0, near), jnp.where(size == 0, jnp.inf, far)


def _per_system(like: Array, systems: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one number per system that multiplies `like`."""
    return tuple(size if axis in systems else 1 for axis, size in enumerate(like.shape))


def _largest(values: Array, systems: tuple[int, ...]) -> Array:
    """The largest magnitude of each system, with the axes inside it kept as 1."""
    inside = tuple(axis for axis in range(values.ndim) if axis not in systems)
    return jnp.max(jnp.abs(values), axis=inside, keepdims=True)


def _unit(right: Array, systems: tuple[int, ...]) -> Array:
    """A power of two near each system's largest value (dividing by it loses no digit); 1 for 0."""
    largest = _largest(right, systems)
    power = power_of_two_above(jnp.where(jnp.isfinite(largest), largest, 1), MOST_EXPONENT)
    return jnp.where(largest > 0, power, 1).astype(right.dtype)
