"""Matrix-free least squares, batched: conjugate gradients on the normal equations, with and without bounds.

This package knows nothing of ONNX: it sees a linear map A as two functions. Axis 0 (and any further axis in
`systems`) numbers independent systems; each has its own scalars and stops at its own residual, so that a
system's answer does not depend on what it is batched with.

Sources: CGLS after Hestenes and Stiefel (1952) and Björck (1996). The bounded solver is the nonlinear
conjugate gradient method of Polak, Ribière and Polyak on the projected gradient: the step of a free conjugate
gradient iteration is projected onto the bounds, and cut by an exact line search where that would raise the
objective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = Any
LinearMap = Callable[[Array], Array]


class Solution(NamedTuple):
    """What a solve gives back.

    Attributes:
        x: the solution.
        iterations: [N] applications of A and its transpose, per picture.
        relative_residual: [N] norm of the (projected) gradient over its norm at x = 0: the relative residual
            of the normal equations.
        converged: [N] whether that is at most the tolerance.
    """

    x: Array
    iterations: Array
    relative_residual: Array
    converged: Array


class Stopping(NamedTuple):
    """When to stop: relative residual of the normal equations, and a cap on iterations."""

    tolerance: Array | float = 1e-3
    max_iterations: Array | int = 100


def _dot(a: Array, b: Array, systems: tuple[int, ...]) -> Array:
    """Inner products per system, with the summed axes kept as 1."""
    axes = tuple(i for i in range(a.ndim) if i not in systems)
    return jnp.sum(a * b, axis=axes, keepdims=True)


def squared_norm(a: Array, systems: tuple[int, ...] = (0,)) -> Array:
    """||a||^2 per system, with the summed axes kept as 1."""
    return _dot(a, a, systems)


def _ratio(a: Array, b: Array) -> Array:
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def _for_output(scalars: Array, rank: int) -> Array:
    """Scalars per system shaped for the rows of A, whose rank may differ from that of the unknowns."""
    return scalars.reshape(scalars.shape[:1] + (1,) * (rank - 1)) if scalars.ndim != rank else scalars


def _per_picture(scalars: Array) -> Array:
    return jnp.sum(scalars.reshape(scalars.shape[0], -1), axis=1)


def _solution(x: Array, iterations: Array, gradient2: Array, initial2: Array, stopping: Stopping) -> Solution:
    relative = jnp.sqrt(_ratio(_per_picture(gradient2), _per_picture(initial2)))
    done = jnp.all((gradient2 <= stopping.tolerance**2 * initial2).reshape(len(relative), -1), axis=1)
    counts = jnp.max(iterations.reshape(len(relative), -1), axis=1)
    return Solution(x, counts, relative, done & jnp.isfinite(relative))


def least_squares(
    forward: LinearMap,
    adjoint: LinearMap,
    b: Array,
    *,
    damping: Array | float = 0.0,
    stopping: Stopping = Stopping(),
    systems: tuple[int, ...] = (0,),
) -> Solution:
    """argmin ||A x - b||^2 + damping^2 ||x||^2; the one of minimum norm, since the start is x = 0.

    Args:
        forward, adjoint: A and its transpose.
        b: right-hand side, axis 0 = pictures.
        damping: Tikhonov parameter as in SciPy's `lsmr`; a scalar, or one per system shaped to multiply x.
        systems: axes that number independent systems in the unknowns and in b alike.
    """
    gradient = adjoint(b)
    gamma = _dot(gradient, gradient, systems)
    target = stopping.tolerance**2 * gamma
    zero = jnp.zeros_like(gradient)
    state = (zero, b, gradient, gamma, jnp.zeros(gamma.shape, jnp.int32), gamma > 0, jnp.int32(0))

    def running(state: tuple[Array, ...]) -> Array:
        return jnp.any(state[5]) & (state[6] < stopping.max_iterations)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, residual, direction, gamma, iterations, active, count = state
        image = forward(direction)
        curvature = _dot(image, image, systems).reshape(gamma.shape)
        curvature = curvature + damping**2 * _dot(direction, direction, systems)
        length = jnp.where(active, _ratio(gamma, curvature), 0)
        x = x + length * direction
        residual = residual - _for_output(length, image.ndim) * image
        gradient = adjoint(residual) - damping**2 * x
        new_gamma = jnp.where(active, _dot(gradient, gradient, systems), gamma)
        direction = jnp.where(active, gradient + _ratio(new_gamma, gamma) * direction, direction)
        iterations = iterations + active
        return x, residual, direction, new_gamma, iterations, active & (new_gamma > target), count + 1

    final = jax.lax.while_loop(running, step, state)
    return _solution(final[0], final[4], final[3], gamma, stopping)


def bounded_least_squares(
    forward: LinearMap,
    adjoint: LinearMap,
    b: Array,
    low: Array | float,
    high: Array | float,
    *,
    damping: Array | float = 0.0,
    stopping: Stopping = Stopping(),
    systems: tuple[int, ...] = (0,),
) -> Solution:
    """argmin ||A x - b||^2 + damping^2 ||x||^2 with low <= x <= high.

    Each system is first solved without bounds from x = 0, then clipped and solved with them, in one loop (one
    loop is one compiled body). Where the minimiser is not unique, the answer is thus the one reached from the
    clipped solution of minimum norm. Each of the two parts has `max_iterations`.

    Args:
        low, high: scalars or arrays shaped like the unknowns, with low <= high; infinite where there is none.
        damping, systems: as in `least_squares`.
    """

    def dot(a: Array, c: Array) -> Array:
        return _dot(a, c, systems)

    def objective(residual: Array, x: Array) -> Array:
        return dot(residual, residual).reshape(initial.shape) + damping**2 * dot(x, x)

    gradient = -adjoint(b)
    initial = dot(gradient, gradient)
    target = stopping.tolerance**2 * initial
    inside = tuple(i for i in range(gradient.ndim) if i not in systems)
    counts = jnp.zeros(initial.shape, jnp.int32)
    state = (jnp.zeros_like(gradient), -b, gradient, gradient, initial, counts, initial < 0, initial > 0)

    def running(carry: tuple[tuple[Array, ...], Array]) -> Array:
        return jnp.any(carry[0][7]) & (carry[1] < 2 * stopping.max_iterations + 1)

    def step(carry: tuple[tuple[Array, ...], Array]) -> tuple[tuple[Array, ...], Array]:
        (x, residual, gradient, direction, norm2, counts, bounded, active), count = carry
        entering = active & ~bounded & ((norm2 <= target) | (counts >= stopping.max_iterations))
        bounded = bounded | entering
        floor, ceiling = jnp.where(bounded, low, -jnp.inf), jnp.where(bounded, high, jnp.inf)

        def unblocked(x: Array, move: Array) -> Array:
            """`move` without what only pushes unknowns against their bound."""
            return jnp.where(((x <= floor) & (move > 0)) | ((x >= ceiling) & (move < 0)), 0, move)

        steepest, move = unblocked(x, gradient), unblocked(x, direction)
        move = jnp.where(dot(gradient, move) > 0, move, steepest)
        image = forward(move)
        curvature = dot(image, image).reshape(initial.shape) + damping**2 * dot(move, move)
        length = jnp.where(active & ~entering, _ratio(dot(gradient, move), curvature), 0)
        free = x - length * move
        new_x = jnp.clip(free, floor, ceiling)
        hit = jnp.any(new_x != free, axis=inside, keepdims=True)
        new_residual = residual - _for_output(length, image.ndim) * image
        clipped = jax.lax.cond(jnp.any(hit), lambda: forward(new_x) - b, lambda: new_residual)
        new_residual = jnp.where(_for_output(hit, image.ndim), clipped, new_residual)
        # a clipped step can overshoot: then go the best part of the way
        worse = hit & ~entering & (objective(new_residual, new_x) >= objective(residual, x))
        back, back_image = x - new_x, residual - new_residual
        bend = dot(back_image, back_image).reshape(initial.shape) + damping**2 * dot(back, back)
        share = jnp.where(worse, jnp.clip(_ratio(dot(gradient, back), bend), 0, 1), 1)
        share = jnp.where(active, share, 0)
        new_x = jnp.clip(x - share * back, floor, ceiling)
        new_residual = residual - _for_output(share, image.ndim) * back_image
        gradient = adjoint(new_residual) + damping**2 * new_x
        new_steepest = unblocked(new_x, gradient)
        factor = jnp.maximum(_ratio(dot(new_steepest, new_steepest - steepest), norm2), 0)
        direction = new_steepest + jnp.where(entering, 0, factor) * move
        norm2 = jnp.where(active, dot(new_steepest, new_steepest), norm2)
        counts, active = counts + active, active & (~bounded | (norm2 > target))
        return (new_x, new_residual, gradient, direction, norm2, counts, bounded, active), count + 1

    (x, _, _, _, norm2, counts, _, _), _ = jax.lax.while_loop(running, step, (state, jnp.int32(0)))
    return _solution(jnp.clip(x, low, high), counts, norm2, initial, stopping)
