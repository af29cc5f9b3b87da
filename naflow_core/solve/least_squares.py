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
    start: Array,
    low: Array | float,
    high: Array | float,
    *,
    damping: Array | float = 0.0,
    stopping: Stopping = Stopping(),
    systems: tuple[int, ...] = (0,),
) -> Solution:
    """argmin ||A x - b||^2 + damping^2 ||x||^2 with low <= x <= high, from `start` clipped to the bounds.

    Where the minimiser is not unique the answer is the one reached from `start`: starting at the clipped
    minimum-norm solution keeps it close to that.

    Args:
        low, high: scalars or arrays shaped like the unknowns; infinite where there is no bound.
        damping, systems: as in `least_squares`.
    """
    at_zero = adjoint(b)
    initial = _dot(at_zero, at_zero, systems)
    target = stopping.tolerance**2 * initial

    def objective(residual: Array, x: Array) -> Array:
        fit = _dot(residual, residual, systems).reshape(initial.shape)
        return fit + damping**2 * _dot(x, x, systems)

    def projected(x: Array, gradient: Array) -> Array:
        """Gradient without the part that only pushes unknowns against their bound."""
        return jnp.where(blocked(x, gradient), 0, gradient)

    def blocked(x: Array, move: Array) -> Array:
        return ((x <= low) & (move > 0)) | ((x >= high) & (move < 0))

    def gradient_of(residual: Array, x: Array) -> Array:
        return adjoint(residual) + damping**2 * x

    x = jnp.clip(start, low, high)
    residual = forward(x) - b
    gradient = gradient_of(residual, x)
    direction = projected(x, gradient)
    norm2 = _dot(direction, direction, systems)
    counts = jnp.zeros(initial.shape, jnp.int32)
    state = (x, residual, gradient, direction, norm2, counts, norm2 > target, jnp.int32(0))

    def running(state: tuple[Array, ...]) -> Array:
        return jnp.any(state[6]) & (state[7] < stopping.max_iterations)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, residual, gradient, direction, norm2, counts, active, count = state
        steepest = projected(x, gradient)
        move = jnp.where(blocked(x, direction), 0, direction)
        move = jnp.where(_dot(gradient, move, systems) > 0, move, steepest)
        image = forward(move)
        curvature = _dot(image, image, systems).reshape(initial.shape) + damping**2 * _dot(
            move, move, systems
        )
        length = jnp.where(active, _ratio(_dot(gradient, move, systems), curvature), 0)
        free = x - length * move
        new_x = jnp.clip(free, low, high)
        inside = tuple(i for i in range(x.ndim) if i not in systems)
        hit = jnp.any(new_x != free, axis=inside, keepdims=True)
        new_residual = residual - _for_output(length, image.ndim) * image
        clipped = jax.lax.cond(jnp.any(hit), lambda: forward(new_x) - b, lambda: new_residual)
        new_residual = jnp.where(_for_output(hit, image.ndim), clipped, new_residual)
        # a projected step can overshoot: then go the best part of the way
        worse = hit & (objective(new_residual, new_x) >= objective(residual, x))
        back, back_image = x - new_x, residual - new_residual
        bend = _dot(back_image, back_image, systems).reshape(initial.shape) + damping**2 * _dot(
            back, back, systems
        )
        share = jnp.where(worse, jnp.clip(_ratio(_dot(gradient, back, systems), bend), 0, 1), 1)
        share = jnp.where(active, share, 0)
        new_x = jnp.clip(x - share * back, low, high)
        new_residual = residual - _for_output(share, image.ndim) * back_image
        new_gradient = gradient_of(new_residual, new_x)
        new_steepest = projected(new_x, new_gradient)
        factor = _ratio(_dot(new_steepest, new_steepest - steepest, systems), norm2)
        direction = new_steepest + jnp.maximum(factor, 0) * move
        norm2 = jnp.where(active, _dot(new_steepest, new_steepest, systems), norm2)
        return (
            *(new_x, new_residual, new_gradient, direction, norm2, counts + active),
            *(active & (norm2 > target), count + 1),
        )

    final = jax.lax.while_loop(running, step, state)
    return _solution(final[0], final[5], final[4], initial, stopping)
