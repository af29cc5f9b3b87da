"""The solvers that `solver_refinements.py` compares with the one there is.

`solving` is `cascade.invert` with the solver exchanged, so that rows, right-hand side, units and
anchor are those of the cascade.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core import cascade
from naflow_core.inverse import linearised
from naflow_core.measure import cores
from naflow_core.model.program import Subprogram, look_up
from naflow_core.solve import Solution, Stopping
from naflow_core.solve.least_squares import TINY, ratio, squared_norm

Array = Any
PROBES = 8
HIGHEST = jax.lax.Precision.HIGHEST
PROGRAMS: dict[Hashable, Any] = {}


class Site(NamedTuple):
    """The system that a variant is made for: `function` at `x0`, its rows, and its program."""

    function: Callable[[Array], Array]
    x0: Array
    rows: Array
    subprogram: Subprogram
    operands: tuple[Array, ...]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5, 6))
def solving(
    variant: str, subprogram: Subprogram, rule: Any, position: int, bounds: Any, systems: Any, choices: Any,
    *arrays: Array,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """`cascade.invert` with the solver exchanged while it is traced: preimage, iterations, whether it
    converged, and the rows of the system."""
    seen: list[Array] = []

    def invert(function: Any, x0: Array, y: Array, rows: Array, **options: Any) -> Any:
        seen.append(rows)
        site = Site(function, x0, rows, subprogram, arrays[2])
        solvers: dict[str, Any] = {
            "least_squares": functools.partial(preconditioned, variant, site),
            "bounded_least_squares": functools.partial(scaled_with_bounds, site),
        }
        with mock.patch.multiple(linearised, **solvers):
            return linearised.invert_linearised(function, x0, y, rows, **options)

    with mock.patch.object(cascade, "invert_linearised", invert):
        inverse = cascade.invert.__wrapped__  # type: ignore[attr-defined]  # what jit wraps
        found = inverse(subprogram, rule, position, bounds, systems, choices, *arrays)
    return found.preimage, found.iterations, found.converged, seen[0]


def preconditioned(
    variant: str, site: Site, forward: Any, adjoint: Any, b: Array, *, damping: Array, relative: bool,
    reference: Array | None, stopping: Stopping, view: None, systems: tuple[int, ...],
) -> Solution:  # fmt: skip
    """`least_squares` with a preconditioner, and the stopping rule of the solver without one."""
    assert view is None, "the residual alone says when to stop here"
    whole = b if reference is None else reference
    begin = adjoint(whole)
    initial2 = squared_norm(begin, systems)
    damping2 = damping**2 * (ratio(initial2, squared_norm(whole, systems)) if relative else 1)
    apply = PRECONDITIONERS[variant](site, systems, damping2)

    def step(state: Any) -> Any:
        count, iterations, active, before, norm2, x, residual, direction = state
        gradient = adjoint(residual) - damping2 * x
        norm2 = jnp.where(active, squared_norm(gradient, systems), norm2)
        active = active & (norm2 > stopping.tolerance**2 * initial2) & (count < stopping.max_iterations)
        better = apply(gradient)
        product = dot(gradient, better, systems)
        direction = better + ratio(product, before) * direction
        image = forward(direction)
        curvature = squared_norm(image, systems) + damping2 * squared_norm(direction, systems)
        length = jnp.where(active, ratio(product, curvature), 0)
        x, residual = x + length * direction, residual - length * image
        return count + 1, iterations + active, active, product, norm2, x, residual, direction

    zero = jnp.zeros_like(begin)
    none = jnp.zeros_like(initial2)
    start = (0, none.astype(jnp.int32), none == 0, none, none, zero, b, zero)
    _, iterations, _, _, norm2, x, *_ = jax.lax.while_loop(lambda s: jnp.any(s[2]), step, start)
    return ended(x, iterations, norm2, initial2, stopping)


def scaled_with_bounds(
    site: Site, forward: Any, adjoint: Any, b: Array, low: Array, high: Array, *, start: Array | None,
    damping: Array, relative: bool, reference: Array | None, stopping: Stopping, view: None,
    systems: tuple[int, ...],
) -> Solution:  # fmt: skip
    """`bounded_least_squares` in the variables x / scale, with the stopping rule it has in x."""
    assert view is None, "the residual alone says when to stop here"
    whole = b if reference is None else reference
    begin = adjoint(whole)
    initial2, unit = squared_norm(begin, systems), squared_norm(whole, systems)
    damping2 = damping**2 * (ratio(initial2, unit) if relative else 1)
    scale = jax.lax.rsqrt(jnp.maximum(columns(site) + damping2, TINY))
    z = jnp.zeros_like(begin) if start is None else start / scale
    ends = low / scale, high / scale
    residual = b if start is None else b - forward(start)

    def freely(x: Array, gradient: Array, length: Array, ends: Any) -> Array:
        return (x - jnp.clip(x - length * gradient, *ends)) / jnp.maximum(length, TINY)

    def step(state: Any) -> Any:
        count, iterations, active, before, norm2, z, residual, old, direction, lengths = state
        plain = damping2 * scale * z - adjoint(residual)
        gradient = scale * plain
        first = ratio(unit, squared_norm(gradient, systems)), ratio(unit, squared_norm(plain, systems))
        length, plainly = (jnp.where(count == 0, a, b) for a, b in zip(first, lengths, strict=True))
        free = freely(z, gradient, length, ends)
        norm2 = jnp.where(
            active, squared_norm(freely(scale * z, plain, plainly, (low, high)), systems), norm2
        )
        active = active & (norm2 > stopping.tolerance**2 * initial2) & (count < stopping.max_iterations)
        free2 = squared_norm(free, systems)
        growth = ratio(free2 - dot(free, old, systems), before)
        direction = free + jnp.maximum(growth, 0) * direction
        reached = jnp.clip(z - length * direction, *ends)
        move = z - reached
        slope = dot(gradient, move, systems)
        image = forward(scale * move)
        far2 = squared_norm(scale * move, systems)
        curvature = squared_norm(image, systems) + damping2 * far2
        share = jnp.where(active, jnp.clip(ratio(slope, curvature), 0, 1), 0)
        z = jnp.where(share < 1, z - share * move, reached)
        direction = jnp.where(slope > 0, direction, 0)
        nexts = squared_norm(move, systems), far2
        lengths = tuple(
            jnp.where(curvature > 0, a / jnp.maximum(curvature, TINY), b)
            for a, b in zip(nexts, (length, plainly), strict=True)
        )
        residual = residual + share * image
        return count + 1, iterations + active, active, free2, norm2, z, residual, gradient, direction, lengths

    zero, none = jnp.zeros_like(begin), jnp.zeros_like(initial2)
    state = (0, none.astype(jnp.int32), none == 0, none, none, z, residual, zero, zero, (none, none))
    _, iterations, _, _, norm2, z, *_ = jax.lax.while_loop(lambda s: jnp.any(s[2]), step, state)
    return ended(jnp.clip(scale * z, low, high), iterations, norm2, initial2, stopping)


def ended(x: Array, iterations: Array, norm2: Array, initial2: Array, stopping: Stopping) -> Solution:
    """As `least_squares` ends, for one picture."""
    reference2 = jnp.sum(initial2).reshape(1)
    relative = jnp.sqrt(ratio(jnp.sum(norm2), reference2))
    done = jnp.all(norm2 <= stopping.tolerance**2 * initial2).reshape(1)
    return Solution(x, jnp.max(iterations).reshape(1), relative, done, reference2)


def dot(a: Array, b: Array, systems: tuple[int, ...]) -> Array:
    """Inner products per system, with the summed axes kept as 1."""
    return jnp.sum(a * b, axis=tuple(i for i in range(a.ndim) if i not in systems), keepdims=True)


def transposed(function: Callable[[Array], Array], x0: Array) -> tuple[Any, Callable[[Array], Array]]:
    """The Jacobian at x0 and its transpose."""
    _, jacobian = jax.linearize(function, x0)
    transpose = jax.linear_transpose(jacobian, x0)
    return jacobian, lambda u: transpose(u)[0]


def columns(site: Site) -> Array:
    """Squared norms of the columns of M J; estimated unless it is one convolution."""
    slot = kernel_slot(site.subprogram)
    if slot is not None:
        squared = tuple(a * a if i + 1 == slot else a for i, a in enumerate(site.operands))
        _, pull = transposed(lambda x: site.subprogram(x, squared)[0], site.x0)
        return pull(site.rows**2)
    _, pull = transposed(site.function, site.x0)
    keys = jax.random.split(jax.random.key(0), PROBES)

    def probe(key: Array) -> Array:
        return pull(site.rows * jax.random.rademacher(key, site.rows.shape, site.rows.dtype)) ** 2

    return jnp.mean(jax.lax.map(probe, keys), axis=0)


def kernel_slot(subprogram: Subprogram) -> int | None:
    """Where the weights of a single convolution of its input are; None if it is anything else."""
    only = subprogram.instructions[0]
    slot = only.sources[1] if len(only.sources) > 1 else None
    single = len(subprogram.instructions) == 1 and only.operator.op_type == "Conv" and only.sources[0] == 0
    return slot if single and isinstance(slot, int) else None


def by_columns(site: Site, _systems: tuple[int, ...], damping2: Array) -> Callable[[Array], Array]:
    """Jacobi's preconditioner."""
    inverse = 1 / jnp.maximum(columns(site) + damping2, TINY)
    return lambda gradient: inverse * gradient


def by_frequency(site: Site, _systems: tuple[int, ...], damping2: Array) -> Callable[[Array], Array]:
    """The inverse of K^H C K + damping^2 for each frequency: C the mean square of each channel's rows."""
    slots = {0: site.x0, **dict(enumerate(site.operands, 1))}
    kernel = look_up(site.subprogram.instructions[0].sources, slots)[1]
    count = jnp.mean(site.rows[0] ** 2, axis=tuple(range(1, site.rows.ndim - 1)))
    inner, axes = kernel.shape[1], tuple(range(2, kernel.ndim))
    if math.prod(kernel.shape[2:]) == 1:
        mixing = kernel.reshape(kernel.shape[:2])
        normal = jnp.einsum("oi,o,oj->ij", mixing, count, mixing, precision=HIGHEST)
        inverse = inverted(normal[None] + damping2.reshape(()) * jnp.eye(inner))[0]
        return lambda g: jnp.einsum("ij,nj...->ni...", inverse, g, precision=HIGHEST)
    spatial = site.x0.shape[2:]
    waves = jnp.fft.rfftn(kernel, s=spatial, axes=axes)
    flat = waves.reshape(*waves.shape[:2], -1)
    normal = jnp.einsum("oif,o,ojf->fij", flat, count, jnp.conj(flat), precision=HIGHEST)
    table = inverted(normal + damping2.reshape(()) * jnp.eye(inner))

    def apply(gradient: Array) -> Array:
        seen = jnp.fft.rfftn(gradient, axes=axes)
        last = seen.reshape(*seen.shape[:2], -1)
        made = jnp.einsum("fij,njf->nif", table, last, precision=HIGHEST).reshape(seen.shape)
        return jnp.fft.irfftn(made, s=spatial, axes=axes)

    return apply


def inverted(matrices: Array) -> Array:
    """Inverses of Hermitian positive definite matrices by sweeps over all at once: LAPACK, called for each of
    thousands of small ones, takes many times as long where its threads have to wait for cores."""

    def sweep(k: int, a: Array) -> Array:
        here = jnp.arange(a.shape[-1]) == k
        pivot = a[:, k, k][:, None]
        row = jnp.where(here, 1, a[:, k, :]) / pivot
        column = jnp.where(here, 0, a[:, :, k])
        rest = jnp.where(here[:, None] | here, 0, a)
        return jnp.where(here[:, None], row[:, None, :], rest - column[:, :, None] * row[:, None, :])

    return jax.lax.fori_loop(0, matrices.shape[-1], sweep, matrices)


def by_identity(site: Site, _systems: tuple[int, ...], damping2: Array) -> Callable[[Array], Array]:
    """The inverse for a residual block without its branch."""
    inverse = 1 / (site.rows**2 + damping2)
    return lambda gradient: inverse * gradient


def by_neumann(site: Site, _systems: tuple[int, ...], damping2: Array) -> Callable[[Array], Array]:
    """The same between I - B and its transpose, where the block is I + B: as much work as an iteration."""
    jacobian, pull = transposed(site.function, site.x0)
    inverse = 1 / (site.rows**2 + damping2)

    def apply(gradient: Array) -> Array:
        middle = inverse * (2 * gradient - pull(gradient))
        return 2 * middle - jacobian(middle)

    return apply


PRECONDITIONERS = {
    "diagonal": by_columns,
    "Fourier": by_frequency,
    "identity": by_identity,
    "Neumann": by_neumann,
}


def compile_all(calls: Iterable[tuple[Any, ...]]) -> None:
    """Compile what is new, side by side. Tracing exchanges the solver for all threads: first."""
    waiting = {}
    for call in calls:
        key = key_of(call)
        if key not in PROGRAMS and key not in waiting:
            now = call[0] == "now"
            waiting[key] = cascade.invert.lower(*call[1:]) if now else solving.lower(*call)
    with ThreadPoolExecutor(cores()) as pool:
        PROGRAMS.update(zip(waiting, pool.map(lambda one: one.compile(), waiting.values()), strict=True))


def key_of(call: tuple[Any, ...]) -> Hashable:
    """What tells programs apart."""
    return *call[:7], tuple(np.shape(leaf) for leaf in jax.tree.leaves(call[7:]))


def solved(*call: Any) -> tuple[Array, ...]:
    """Run a variant that has been compiled, or the solver that there is ("now", which gives no rows)."""
    if call[0] == "now":
        found = cascade.invert(*call[1:])
        return found.preimage, found.iterations, found.converged
    return PROGRAMS[key_of(call)](*call[7:])
