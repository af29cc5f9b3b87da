"""Matrix-free least squares, batched: conjugate gradients on the normal equations, with and without bounds.

This package knows nothing of ONNX: it sees a linear map A as two functions. Axis 0 (and any further axis in
`systems`) numbers independent systems; each has its own scalars and stops at its own residual, so that a
system's answer does not depend on what it is batched with.

Sources: CGLS after Hestenes and Stiefel (1952) and Björck (1996). The bounded solver takes the directions of
the nonlinear conjugate gradient method of Polak, Ribière and Polyak (1969) and the step length of Barzilai
and Borwein (1988), projects that step onto the bounds, and minimises exactly between the two ends, so that
the objective never rises.

An iteration measures the gradient first and moves afterwards. So each loop applies A once and its transpose
once, and nothing outside it applies either: XLA compiles one small body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

TINY = float(jnp.finfo(jnp.float32).tiny)

LOOSEST = 10.0
"""How many times the tolerance the residual may be where a map that stands still ends a solve."""

Array = Any
LinearMap = Callable[[Array], Array]
View = Callable[[Array], Array]
"""From the unknowns to the map that they make, [N, ...]."""


class Solution(NamedTuple):
    """What a solve gives back.

    Attributes:
        x: the solution.
        iterations: [N] steps taken, per picture; each applies A and its transpose once.
        relative_residual: [N] norm of the (projected) gradient over its norm at x = 0 (or over that of a
            given reference): the relative residual of the normal equations.
        converged: [N] whether that is at most the tolerance, or the map stood still (see `Stopping`).
        reference2: [N] the square of that norm.
    """

    x: Array
    iterations: Array
    relative_residual: Array
    converged: Array
    reference2: Array


class Stopping(NamedTuple):
    """When to stop.

    Attributes:
        tolerance: relative residual of the normal equations at which a system stops.
        max_iterations: cap for each.
        map_change: where a map is watched, a picture also stops once the residual is at most `LOOSEST` times
            the tolerance and every cell of the map, scaled to 0..1, moved by less than this in an iteration.
    """

    tolerance: Array | float = 1e-3
    max_iterations: Array | int = 100
    map_change: Array | float = 0.0


class _Progress(NamedTuple):
    """How far the systems are; scalars per system but the last.

    Attributes:
        norm2: squared norm of the (projected) gradient.
        initial2: the same at x = 0, or of the reference.
        iterations, active: of each system.
        settled: whether it stopped because the map stood still.
        seen: the map of the iteration before, scaled to 0..1; infinite where nobody looked, None where none
            is watched.
        count: of iterations, the largest of all.
    """

    norm2: Array
    initial2: Array
    iterations: Array
    active: Array
    settled: Array
    seen: Array | None
    count: Array

    @classmethod
    def none(cls, like: Array, systems: tuple[int, ...], view: View | None) -> _Progress:
        """Before the first iteration; `initial2` of 0: it is what that one measures."""
        zero = jnp.zeros([n if axis in systems else 1 for axis, n in enumerate(like.shape)], like.dtype)
        seen = None if view is None else jax.eval_shape(view, like)
        seen = None if seen is None else jnp.full(seen.shape, jnp.inf, seen.dtype)
        return cls(zero, zero, zero.astype(jnp.int32), zero == 0, zero != 0, seen, jnp.int32(0))

    def reference(self, norm2: Array) -> Array:
        """`initial2`, when an iteration measures this."""
        return jnp.where((self.count == 0) & (self.initial2 == 0), norm2, self.initial2)

    def measured(self, norm2: Array, stopping: Stopping, x: Array, view: View | None) -> _Progress:
        """With the gradient of this iteration, measured at x: who goes on."""
        initial2 = self.reference(norm2)
        norm2 = jnp.where(self.active, norm2, self.norm2)
        active = self.active & (norm2 > stopping.tolerance**2 * initial2)
        settled, seen = self.settled, self.seen
        if view is not None and seen is not None:
            loose = stopping.tolerance * LOOSEST
            near = _per_picture(norm2) <= loose**2 * _per_picture(initial2)
            seen = _looked(near, x, view, seen)
            change = jnp.max(jnp.abs(seen - self.seen).reshape(len(near), -1), axis=1)
            still = near & (change < stopping.map_change)
            settled = settled | (active & still.reshape(-1, *[1] * (active.ndim - 1)))
        active = active & ~settled & (self.count < stopping.max_iterations)
        return _Progress(norm2, initial2, self.iterations + active, active, settled, seen, self.count + 1)

    def solution(self, x: Array, stopping: Stopping) -> Solution:
        """The result, with the systems of a picture put together."""
        reference2 = _per_picture(self.initial2)
        relative = jnp.sqrt(ratio(_per_picture(self.norm2), reference2))
        done = (self.norm2 <= stopping.tolerance**2 * self.initial2) | self.settled
        done, counts = (a.reshape(len(relative), -1) for a in (done, self.iterations))
        converged = jnp.all(done, axis=1) & jnp.isfinite(relative)
        return Solution(x, jnp.max(counts, axis=1), relative, converged, reference2)


def _dot(a: Array, b: Array, systems: tuple[int, ...]) -> Array:
    """Inner products per system, with the summed axes kept as 1."""
    axes = tuple(i for i in range(a.ndim) if i not in systems)
    return jnp.sum(a * b, axis=axes, keepdims=True)


def squared_norm(a: Array, systems: tuple[int, ...] = (0,)) -> Array:
    """||a||^2 per system, with the summed axes kept as 1."""
    return _dot(a, a, systems)


def ratio(a: Array, b: Array) -> Array:
    """a / b for b >= 0, and 0 where b is 0."""
    return jnp.where(b > 0, a / jnp.maximum(b, TINY), 0)


def _for_output(scalars: Array, rank: int) -> Array:
    """Scalars per system shaped for the rows of A, whose rank may differ from that of the unknowns."""
    return scalars.reshape(scalars.shape[:1] + (1,) * (rank - 1)) if scalars.ndim != rank else scalars


def _per_picture(scalars: Array) -> Array:
    return jnp.sum(scalars.reshape(scalars.shape[0], -1), axis=1)


def _looked(near: Array, x: Array, view: View, seen: Array) -> Array:
    """The maps of the pictures that are `near` [N], scaled to 0..1; infinite for the others."""
    nothing = jnp.full_like(seen, jnp.inf)

    def look(x: Array) -> Array:
        maps = view(x)
        axes = tuple(range(1, maps.ndim))
        low, high = (end(maps, axis=axes, keepdims=True) for end in (jnp.min, jnp.max))
        return jnp.where(near.reshape(low.shape), ratio(maps - low, high - low), nothing)

    return jax.lax.cond(jnp.any(near), look, lambda _: nothing, x)


class _Damping(NamedTuple):
    """The Tikhonov parameter, which may be relative to a gain that the first iteration measures.

    Attributes:
        value: as given.
        unit: squared norm of b per system; None where `value` is not relative.
    """

    value: Array | float
    unit: Array | None

    @classmethod
    def of(
        cls, value: Array | float, relative: bool, b: Array, like: _Progress, systems: tuple[int, ...]
    ) -> _Damping:
        """With the norm of b where it is needed."""
        return cls(value, squared_norm(b, systems).reshape(like.norm2.shape) if relative else None)

    def squared(self, initial2: Array) -> Array:
        """The squared parameter, given the squared norm of the gradient at x = 0."""
        return self.value**2 * (1 if self.unit is None else ratio(initial2, self.unit))


def _origin(adjoint: LinearMap, b: Array) -> Array:
    """x = 0."""
    shape = jax.eval_shape(adjoint, b)
    return jnp.zeros(shape.shape, shape.dtype)


def least_squares(
    forward: LinearMap,
    adjoint: LinearMap,
    b: Array,
    *,
    damping: Array | float = 0.0,
    relative: bool = False,
    reference: Array | None = None,
    stopping: Stopping = Stopping(),
    view: View | None = None,
    systems: tuple[int, ...] = (0,),
) -> Solution:
    """argmin ||A x - b||^2 + damping^2 ||x||^2; the one of minimum norm, since the start is x = 0.

    Args:
        forward, adjoint: A and its transpose.
        b: right-hand side, axis 0 = pictures.
        damping: Tikhonov parameter as in SciPy's `lsmr`; a scalar, or one per system shaped to multiply x.
        relative: `damping` is in units of ||A^T c|| / ||c||, the gain of A in the direction that matters.
        reference: that c, and the tolerance is relative to ||A^T c||; b when None.
        view: the map to watch; None: the residual alone says when to stop.
        systems: axes that number independent systems in the unknowns and in b alike.
    """
    x = _origin(adjoint, b)
    progress = _Progress.none(x, systems, view)
    if reference is not None:
        progress = progress._replace(initial2=squared_norm(adjoint(reference), systems))
    damped = _Damping.of(damping, relative, b if reference is None else reference, progress, systems)

    def running(state: tuple[_Progress, Array, Array, Array]) -> Array:
        return jnp.any(state[0].active)

    def step(state: tuple[_Progress, Array, Array, Array]) -> tuple[_Progress, Array, Array, Array]:
        before, x, residual, direction = state
        # in the first iteration x = 0, and the damping follows from what is measured there
        gradient = adjoint(residual) - damped.squared(before.initial2) * x
        progress = before.measured(_dot(gradient, gradient, systems), stopping, x, view)
        direction = gradient + ratio(progress.norm2, before.norm2) * direction
        image = forward(direction)
        curvature = _dot(image, image, systems).reshape(progress.norm2.shape)
        curvature = curvature + damped.squared(progress.initial2) * _dot(direction, direction, systems)
        length = jnp.where(progress.active, ratio(progress.norm2, curvature), 0)
        x = x + length * direction
        return progress, x, residual - _for_output(length, image.ndim) * image, direction

    progress, x, _, _ = jax.lax.while_loop(running, step, (progress, x, b, jnp.zeros_like(x)))
    return progress.solution(x, stopping)


class _Bounded(NamedTuple):
    """What an iteration with bounds hands to the next.

    Attributes:
        x, residual: b - A x.
        gradient: at the x before.
        direction: of the step from there.
        onward: 1, or 0 where that step led nowhere, so that the next one takes nothing from it.
        length: that step's length by Barzilai and Borwein.
    """

    x: Array
    residual: Array
    gradient: Array
    direction: Array
    onward: Array
    length: Array


def bounded_least_squares(
    forward: LinearMap,
    adjoint: LinearMap,
    b: Array,
    low: Array | float,
    high: Array | float,
    *,
    start: Array | None = None,
    damping: Array | float = 0.0,
    relative: bool = False,
    reference: Array | None = None,
    stopping: Stopping = Stopping(),
    view: View | None = None,
    systems: tuple[int, ...] = (0,),
) -> Solution:
    """argmin ||A x - b||^2 + damping^2 ||x||^2 with low <= x <= high.

    With damping the minimiser is unique. Without, it is the one that is reached from `start`.

    Args:
        low, high: scalars or arrays shaped like the unknowns, with low <= high; infinite where there is none.
        start: between the bounds; 0, which must be there too, when None.
        damping, relative, reference, view, systems: as in `least_squares`.
    """
    x, residual = _origin(adjoint, b), b
    whole = b if reference is None else reference
    progress = _Progress.none(x, systems, view)
    if start is not None or reference is not None:
        progress = progress._replace(initial2=squared_norm(adjoint(whole), systems))
    damped = _Damping.of(damping, relative, whole, progress, systems)
    unit = squared_norm(whole, systems).reshape(progress.norm2.shape)
    if start is not None:
        x, residual = start, b - forward(start)

    def running(state: tuple[_Progress, _Bounded]) -> Array:
        return jnp.any(state[0].active)

    def step(state: tuple[_Progress, _Bounded]) -> tuple[_Progress, _Bounded]:
        before, at = state
        gradient = damped.squared(before.initial2) * at.x - adjoint(at.residual)
        # read in the first iteration only, and a pass over the unknowns
        square = jax.lax.cond(
            before.count == 0,
            lambda g: squared_norm(g, systems),
            lambda _: jnp.zeros_like(before.norm2),
            gradient,
        )
        # A's gain bounds the first step from above; the exact search makes it short enough
        length = jnp.where(before.count == 0, ratio(unit, before.reference(square)), at.length)
        # what a step of this length leaves of the gradient: next to nothing where a bound is near
        free = (at.x - jnp.clip(at.x - length * gradient, low, high)) / jnp.maximum(length, TINY)
        free2 = _dot(free, free, systems)
        first = (before.count == 0) & (before.initial2 == 0)
        progress = before.measured(jnp.where(first, square, free2), stopping, at.x, view)
        growth = ratio(free2 - _dot(free, at.gradient, systems), before.norm2)
        # nothing below reads more of the unknowns than it must: passes over them are what a solve takes
        direction = free + jnp.maximum(growth, 0) * at.onward * at.direction
        move = at.x - jnp.clip(at.x - length * direction, low, high)
        slope = _dot(gradient, move, systems)
        image = forward(move)
        norm2 = _dot(move, move, systems)
        curvature = _dot(image, image, systems).reshape(norm2.shape)
        curvature = curvature + damped.squared(progress.initial2) * norm2
        share = jnp.where(progress.active, jnp.clip(ratio(slope, curvature), 0, 1), 0)
        x = at.x - share * move
        residual = at.residual + _for_output(share, image.ndim) * image
        onward = (slope > 0).astype(x.dtype)
        length = jnp.where(curvature > 0, norm2 / jnp.maximum(curvature, TINY), length)
        return progress, _Bounded(x, residual, gradient, direction, onward, length)

    nothing, zero = jnp.zeros_like(x), jnp.zeros_like(unit)
    state = _Bounded(x, residual, nothing, nothing, zero, zero)
    progress, at = jax.lax.while_loop(running, step, (progress, state))
    return progress.solution(jnp.clip(at.x, low, high), stopping)
