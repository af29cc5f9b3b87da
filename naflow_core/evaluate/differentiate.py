"""Values and gradients along a chain of subprograms, in one compiled run."""

from __future__ import annotations

import functools
from typing import Any

import jax

from naflow_core.model.program import Subprogram

Array = Any


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(
    before: Subprogram | None,
    steps: tuple[Subprogram, ...],
    x: Array,
    classes: Array,
    operands_before: tuple[Array, ...],
    operands: tuple[tuple[Array, ...], ...],
) -> list[tuple[Array, Array]]:
    """Value and gradient at the start of every step; the last step ends in the scores."""
    value = x if before is None else before(x, operands_before)[0]
    values, pulls = [], []
    for step, own in zip(steps, operands, strict=True):
        values.append(value)
        value, pull = jax.vjp(functools.partial(_first, step, own), value)
        pulls.append(pull)
    flat = value.reshape(len(value), -1)
    slope = jax.nn.one_hot(classes, flat.shape[1], dtype=flat.dtype).reshape(value.shape)
    slopes = []
    for pull in reversed(pulls):
        (slope,) = pull(slope)
        slopes.append(slope)
    return list(zip(values, reversed(slopes), strict=True))


def _first(step: Subprogram, operands: tuple[Array, ...], value: Array) -> Array:
    return step(value, operands)[0]
