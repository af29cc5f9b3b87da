"""Depthwise convolutions, channels-first, as sums of shifted multiples of the input."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.ops.array import along_channels
from naflow_core.ops.conv_shape import ConvShape
from naflow_core.ops.window import WindowGeometry, gather_from_windows, taps


def apply(shape: ConvShape, weights: jax.Array, x: jax.Array) -> jax.Array:
    """Of x [N, C, spatial...], with weights [kernel offsets, C, multiplier]."""
    multiplier = weights.shape[2]
    spread = jnp.repeat(x, multiplier, axis=1) if multiplier > 1 else x
    factors = weights.reshape(len(weights), -1)
    if shape.keeps_size:
        return _shifted(shape.geometry, factors, spread, 1)
    seen = taps(spread, shape.geometry, shape.output, 0.0, first=2)
    return sum(
        (part * along_channels(factor, part.ndim) for part, factor in zip(seen, factors, strict=True)),
        start=jnp.zeros((), x.dtype),
    )


def transpose(shape: ConvShape, weights: jax.Array, y: jax.Array) -> jax.Array:
    """The adjoint of `apply` with the same weights."""
    channels, multiplier = weights.shape[1:]
    factors = weights.reshape(len(weights), -1)
    if shape.keeps_size:
        x = _shifted(shape.geometry, factors, y, -1)
    else:

        def send(number: int, seen: jax.Array) -> jax.Array:
            return seen * along_channels(factors[number], seen.ndim)

        x = gather_from_windows([y], [0.0], send, shape.geometry, shape.spatial, first=2)
    return x.reshape((x.shape[0], channels, multiplier) + shape.spatial).sum(axis=2) if multiplier > 1 else x


def _shifted(geometry: WindowGeometry, factors: jax.Array, x: jax.Array, sign: int) -> jax.Array:
    """Sum over the kernel's offsets of the map moved by each (`sign` 1; -1: moved back) and multiplied by a
    factor for each channel [offsets, C].

    The spatial axes are moved as one, and what comes around the end of a row is left out: where a 1x1
    convolution reads the result, XLA makes both in one loop over cells, and finding row and column of each by
    division would take longer than all the rest.
    """
    spatial = x.shape[2:]
    cells = math.prod(spatial)
    steps = [math.prod(spatial[axis + 1 :]) for axis in range(len(spatial))]
    moves = [
        tuple(sign * (offset - low) for offset, low in zip(offsets, geometry.pads_lo, strict=True))
        for offsets in geometry.offsets()
    ]
    starts = [sum(move * step for move, step in zip(each, steps, strict=True)) for each in moves]
    before, after = max(0, -min(starts)), max(0, *starts)
    padded = jnp.pad(x.reshape(*x.shape[:2], cells), ((0, 0), (0, 0), (before, after)))
    together: dict[tuple[int, ...], jax.Array] = {}  # by what they do within a row
    for start, move, factor in zip(starts, moves, factors, strict=True):
        moved = padded[:, :, before + start : before + start + cells] * along_channels(factor, 3)
        inner = move[1:]
        together[inner] = together[inner] + moved if inner in together else moved
    found = jnp.zeros((), x.dtype)
    for inner, part in together.items():
        found = found + jnp.where(_stays_within(spatial, inner), part, 0)
    return found.reshape(x.shape)


def _stays_within(spatial: tuple[int, ...], inner: tuple[int, ...]) -> np.ndarray:
    """[cells] Whether a move along all axes but the first leads to a cell of the same row."""
    places = np.indices(spatial)[1:].reshape(len(inner), math.prod(spatial))
    moved = places + np.array(inner, int).reshape(-1, 1)
    return np.all((moved >= 0) & (moved < np.array(spatial[1:]).reshape(-1, 1)), axis=0)
