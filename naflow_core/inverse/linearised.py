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
from naflow_core.solve import Solution, Stopping, bounded_least_squares, least_squares, squared_norm

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
    damping: Array | float,
    stopping: Stopping,
    systems: tuple[int, ...] = (0,),
) -> LinearisedInverse:
    """Preimage of `y` under `function` linearised at `x0`.

    Args:
        x0: forward activation at the input, [N, ...].
        y: back-propagated feature map at the output, [N, ...].
        rows: shape of y: weight of each equation, 0 for those that are not kept.
        bounds: the preimage stays in this interval; infinite ends for none.
        anchored: True for the solution nearest to `x0`, False for the one of minimum norm.
        systems: axes that number independent systems (batch; channels too for depthwise layers).
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
    damping = damping * _gain(adjoint(right), right, systems)
    options: dict[str, Any] = {"damping": damping, "stopping": stopping, "systems": systems}
    low, high = bounds
    if low == -jnp.inf and high == jnp.inf:
        solution = least_squares(forward, adjoint, right, **options)
        return LinearisedInverse(solution._replace(x=start + unit * solution.x), offset)
    # in terms of the step away from the anchor, so that damping and right-hand side stay the same
    solution = bounded_least_squares(
        forward, adjoint, right, (low - start) / unit, (high - start) / unit, **options
    )
    return LinearisedInverse(solution._replace(x=jnp.clip(start + unit * solution.x, low, high)), offset)


def _per_system(like: Array, systems: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one number per system that multiplies `like`."""
    return tuple(size if axis in systems else 1 for axis, size in enumerate(like.shape))


def _unit(right: Array, systems: tuple[int, ...]) -> Array:
    """A power of two near each system's largest value (dividing by it loses no digit); 1 for 0."""
    inside = tuple(axis for axis in range(right.ndim) if axis not in systems)
    largest = jnp.max(jnp.abs(right), axis=inside, keepdims=True)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 1))
    return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -120, 120)), 1)


def _gain(image: Array, right: Array, systems: tuple[int, ...]) -> Array:
    """||A^T b|| / ||b|| per system, shaped to multiply the unknowns; 0 where b is 0."""
    shape = _per_system(image, systems)
    top, bottom = (squared_norm(a, systems).reshape(shape) for a in (image, right))
    return jnp.sqrt(jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1), 0))
