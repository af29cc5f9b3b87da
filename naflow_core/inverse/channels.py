"""Layers whose channels are systems of their own, solved a few at a time.

A depthwise convolution has one small system per channel. Few channels of a large map stay in a CPU's cache
while a solver passes over them again and again, and a channel that takes many iterations holds up only those
it is solved with. What a channel gets does not depend on them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from naflow_core.inverse.linearised import LinearisedInverse, invert_linearised
from naflow_core.model.program import Subprogram
from naflow_core.solve import Solution
from naflow_core.solve.least_squares import ratio

Array = Any
TOGETHER_BYTES = 128 << 10


def channels_at_a_time(shape: tuple[int, ...]) -> int | None:
    """How many channels of a float32 input [N, C, ...] are solved together, a divisor of C; None for all."""
    pictures, channels, *spatial = shape
    most = TOGETHER_BYTES // max(1, 4 * pictures * math.prod(spatial))
    size = max((size for size in range(1, min(most, channels) + 1) if channels % size == 0), default=1)
    return None if size == channels else size


def invert_some_channels(
    subprogram: Subprogram,
    operands: tuple[Array, ...],
    x0: Array,
    y: Array,
    rows: Array,
    *,
    size: int,
    **options: Any,
) -> LinearisedInverse:
    """`invert_linearised` of a layer in which channel c of the output is made of channel c of the input.

    Args:
        subprogram: a depthwise convolution or a pooling.
        operands: weights and bias, axis 0 = channels.
        x0, y, rows: as in `invert_linearised`, axis 1 = channels.
        size: how many channels at a time, a divisor of their number.
        options: the other arguments of `invert_linearised`.
    """
    narrow = _with_groups(subprogram, size)

    def some(parts: tuple[Array, ...]) -> LinearisedInverse:
        x0, y, rows, *own = parts
        return invert_linearised(lambda x: narrow(x, own)[0], x0, y, rows, systems=(0, 1), **options)

    maps = (_split(values, 1, size) for values in (x0, y, rows))
    found, offset = jax.lax.map(some, (*maps, *(_split(values, 0, size) for values in operands)))
    reference2 = jnp.sum(found.reference2, axis=0)
    left = jnp.sum(jnp.square(found.relative_residual) * found.reference2, axis=0)
    solution = Solution(
        _joined(found.x),
        jnp.max(found.iterations, axis=0),
        jnp.sqrt(ratio(left, reference2)),
        jnp.all(found.converged, axis=0),
        reference2,
    )
    return LinearisedInverse(solution, _joined(offset))


def _with_groups(subprogram: Subprogram, count: int) -> Subprogram:
    """The same layer for so many channels."""
    (only,) = subprogram.instructions
    attributes = tuple((name, count if name == "group" else value) for name, value in only.attributes)
    return dataclasses.replace(subprogram, instructions=(dataclasses.replace(only, attributes=attributes),))


def _split(values: Array, axis: int, size: int) -> Array:
    """Parts of `size` along an axis, numbered by axis 0."""
    shape = (*values.shape[:axis], -1, size, *values.shape[axis + 1 :])
    return jnp.moveaxis(values.reshape(shape), axis, 0)


def _joined(parts: Array) -> Array:
    """Parts of axis 1 put together again."""
    whole = jnp.moveaxis(parts, 0, 1)
    return whole.reshape(whole.shape[0], -1, *whole.shape[3:])
