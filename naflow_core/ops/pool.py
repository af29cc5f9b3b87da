"""Pooling. The maxima's positions are explicit, so that derivative and inverse need no scatter."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops import ranges
from naflow_core.ops.adjoint import apply_linear
from naflow_core.ops.array import is_known
from naflow_core.ops.reduce import max_over
from naflow_core.ops.registry import register
from naflow_core.ops.window import WindowGeometry, gather_from_windows, taps

PoolGeometry = WindowGeometry

_UNROLLED = 64
"""Most cells of a window that are visited one by one; larger windows are worked through axis by axis."""

__all__ = ["PoolGeometry", "add_up", "gather_at", "hand_back", "max_pool_argmax", "unpool_mean"]


def max_pool_argmax(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """Which kernel offset holds each window's maximum: int32, the shape of the pool's output.

    Offsets count in row-major order; of equal maxima the first wins, padding never does.

    Args:
        x: [N, C, spatial...].
    """
    if _is_large(geometry):
        return _argmax_by_axes(x, geometry)
    output = geometry.output_shape(x.shape[2:])
    best = jnp.full(x.shape[:2] + output, _lowest(x.dtype), x.dtype)
    winner = jnp.broadcast_to(jnp.asarray(_first_inside(geometry, x.shape[2:])), best.shape)
    for number, seen in enumerate(taps(x, geometry, output, _lowest(x.dtype), first=2)):
        better = seen > best
        best, winner = jnp.where(better, seen, best), jnp.where(better, number, winner)
    return winner


def _is_large(geometry: PoolGeometry) -> bool:
    return math.prod(geometry.kernel) > _UNROLLED


def _by_axis(geometry: PoolGeometry) -> list[PoolGeometry]:
    """Windows along one axis each, the last axis first: one after the other they are the whole window."""
    rank = len(geometry.kernel)
    fields = (geometry.kernel, geometry.strides, geometry.dilations)
    edges = (geometry.pads_lo, geometry.pads_hi, geometry.overhang)
    alone = []
    for axis in reversed(range(rank)):
        sizes = (tuple(f[a] if a == axis else 1 for a in range(rank)) for f in fields)
        added = (tuple(e[a] if a == axis else 0 for a in range(rank)) for e in edges)
        alone.append(PoolGeometry(*sizes, *added))
    return alone


def _argmax_by_axes(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """`max_pool_argmax`: the first maximum of the first row that has it is the first in row-major order."""
    best, winner = x, jnp.zeros(x.shape, jnp.int32)
    cells = 1  # of the window, on the axes that are done
    for alone in _by_axis(geometry):
        output = alone.output_shape(best.shape[2:])
        values = taps(best, alone, output, _lowest(x.dtype), first=2)
        places = taps(winner, alone, output, 0, first=2)
        best = jnp.full(x.shape[:2] + output, _lowest(x.dtype), x.dtype)
        winner = jnp.zeros(best.shape, jnp.int32)
        for number, (value, place) in enumerate(zip(values, places, strict=True)):
            better = value > best
            best, winner = jnp.where(better, value, best), jnp.where(better, place + number * cells, winner)
        cells *= math.prod(alone.kernel)
    return jnp.where(best > _lowest(x.dtype), winner, jnp.asarray(_first_inside(geometry, x.shape[2:])))


def _lowest(dtype: Any) -> Any:
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else np.iinfo(dtype).min


def _first_inside(geometry: PoolGeometry, spatial: Sequence[int]) -> np.ndarray:
    """Per window, the first kernel offset that is not padding: the answer where nothing exceeds -inf.

    Raises:
        Refusal: some window sees nothing but padding, so that it has no maximum.
    """
    first = np.zeros((), np.int32)
    axes = zip(spatial, geometry.kernel, geometry.strides, geometry.dilations, geometry.pads_lo, strict=True)
    for (n, k, s, d, lo), windows in zip(axes, geometry.output_shape(spatial), strict=True):
        cells = np.arange(windows)[:, None] * s - lo + np.arange(k) * d
        inside = (cells >= 0) & (cells < n)
        if not inside.any(axis=1).all():
            raise Refusal(f"a window of {k} cells {d} apart lies wholly in the padding of an axis of {n}")
        first = first[..., None] * np.int32(k) + inside.argmax(axis=1).astype(np.int32)
    return first


def gather_at(x: jax.Array, argmax: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """From every window, the value at its argmax. Linear in x; its transpose adds values back in place.

    Args:
        x: [N, C, spatial...].
        argmax: as `max_pool_argmax` returns it.
    """
    forward = partial(_gather, geometry)
    return apply_linear(forward, partial(_put_back, geometry, tuple(x.shape[2:])), argmax, x)


def _gather(geometry: PoolGeometry, argmax: jax.Array, x: jax.Array) -> jax.Array:
    if _is_large(geometry):
        return x.reshape(-1)[_places(argmax, geometry, x.shape, 0)]
    y = jnp.zeros(argmax.shape, x.dtype)
    for number, seen in enumerate(taps(x, geometry, argmax.shape[2:], 0.0, first=2)):
        y = y + jnp.where(argmax == number, seen, 0.0)
    return y


def _put_back(geometry: PoolGeometry, spatial: tuple[int, ...], argmax: jax.Array, y: jax.Array) -> jax.Array:
    if _is_large(geometry):
        shape = y.shape[:2] + spatial
        places = _places(argmax, geometry, shape, 0)
        return jnp.zeros(math.prod(shape), y.dtype).at[places].add(y).reshape(shape)

    def send(number: int, value: jax.Array, chosen: jax.Array) -> jax.Array:
        return jnp.where(chosen == number, value, 0.0)

    return gather_from_windows([y, argmax], [0.0, -1], send, geometry, spatial, first=2)


def unpool_mean(
    y: jax.Array, retained: jax.Array, argmax: jax.Array, geometry: PoolGeometry, input_shape: Sequence[int]
) -> jax.Array:
    """Put pooled values back at the forward argmax; 0 where no retained window chose a cell.

    A cell that several retained windows chose gets the mean of their values.

    Args:
        y: pooled values [N, C, pooled spatial...].
        retained: the windows that count, shape of y; boolean, or zero and non-zero.
        argmax: as `max_pool_argmax` returned it in the forward pass.
        input_shape: shape of the result.
    """
    spatial = tuple(input_shape[2:])
    counts = (retained != 0).astype(y.dtype)
    summed = _put_back(geometry, spatial, argmax, jnp.where(counts > 0, y, 0.0))
    return summed / jnp.maximum(_put_back(geometry, spatial, argmax, counts), 1.0)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    if _is_large(geometry):
        for alone in _by_axis(geometry):
            output = alone.output_shape(x.shape[2:])
            x = functools.reduce(jnp.maximum, taps(x, alone, output, _lowest(x.dtype), first=2))
        return x
    output = geometry.output_shape(x.shape[2:])
    best = jnp.full(x.shape[:2] + output, _lowest(x.dtype), x.dtype)
    for seen in taps(x, geometry, output, _lowest(x.dtype), first=2):
        best = jnp.maximum(best, seen)
    return best


@_max_pool.defjvp
def _max_pool_jvp(geometry: PoolGeometry, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    return _max_pool(x, geometry), gather_at(x_dot, max_pool_argmax(x, geometry), geometry)


def max_pool(x: Any, *, kernel_shape: Sequence[int], storage_order: int = 0, **window: Any) -> jax.Array:
    """Largest value of every window over x [N, C, spatial...]; attributes as those of MaxPool."""
    x = jnp.asarray(x)
    geometry = PoolGeometry.of(x.shape, kernel_shape=kernel_shape, **window)
    _first_inside(geometry, x.shape[2:])
    return _max_pool(x, geometry)


@register("MaxPool", foldable=False, value_range=ranges.keep)
def max_pool_with_indices(
    x: Any,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    outputs: int = 2,
) -> tuple[jax.Array, ...]:
    """`max_pool`, and, if it is read, where in x each maximum lies: its place among all elements of x, int32.

    Places count row by row, with storage_order 1 column by column within each channel.
    """
    x = jnp.asarray(x)
    window: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads}
    window |= {"auto_pad": auto_pad, "ceil_mode": ceil_mode}
    y = max_pool(x, kernel_shape=kernel_shape, **window)
    if outputs == 1:
        return (y,)
    geometry = PoolGeometry.of(x.shape, kernel_shape=kernel_shape, **window)
    winner = max_pool_argmax(lax.stop_gradient(x), geometry)
    return y, _places(winner, geometry, x.shape, storage_order)


def _places(winner: jax.Array, geometry: PoolGeometry, shape: Sequence[int], storage_order: int) -> jax.Array:
    """From kernel offsets per window to flat positions in an input of that shape."""
    channels = np.arange(math.prod(shape[:2])).reshape(tuple(shape[:2]) + (1,) * (len(shape) - 2))
    place = jnp.asarray(channels * math.prod(shape[2:]), jnp.int32)
    offsets = np.array(list(geometry.offsets()), np.int32)
    stride = 1
    for axis in reversed(range(len(shape) - 2)) if not storage_order else range(len(shape) - 2):
        starts = np.arange(winner.shape[2 + axis]) * geometry.strides[axis] - geometry.pads_lo[axis]
        starts = starts.reshape([-1 if a == 2 + axis else 1 for a in range(len(shape))])
        cell = jnp.asarray(starts, jnp.int32) + jnp.asarray(offsets[:, axis])[winner]
        place = place + cell * stride
        stride *= shape[2 + axis]
    return place


def add_up(geometry: PoolGeometry, _: Any, x: jax.Array) -> jax.Array:
    """The sum over every window."""
    if _is_large(geometry):
        for alone in _by_axis(geometry):
            x = functools.reduce(operator.add, taps(x, alone, alone.output_shape(x.shape[2:]), 0.0, first=2))
        return x
    output = geometry.output_shape(x.shape[2:])
    return sum(taps(x, geometry, output, 0.0, first=2), start=jnp.zeros((), x.dtype))


def _as_seen(_number: int, seen: jax.Array) -> jax.Array:
    return seen


def hand_back(geometry: PoolGeometry, spatial: tuple[int, ...], _: Any, y: jax.Array) -> jax.Array:
    """The adjoint of `add_up`: to every cell, the sum of the windows that see it."""
    if not _is_large(geometry):
        return gather_from_windows([y], [0.0], _as_seen, geometry, spatial, first=2)
    cells = list(geometry.output_shape(spatial))
    for axis, alone in zip(reversed(range(len(cells))), _by_axis(geometry), strict=True):
        cells[axis] = spatial[axis]
        y = gather_from_windows([y], [0.0], _as_seen, alone, cells, first=2)
    return y


@register("AveragePool", foldable=False, value_range=ranges.averaged_with_padding)
def average_pool(
    x: Any,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> jax.Array:
    """Mean of every window over x [N, C, spatial...]."""
    x = jnp.asarray(x)
    geometry = PoolGeometry.of(
        x.shape,
        kernel_shape=kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    spatial = tuple(x.shape[2:])
    counts = jnp.asarray(_cells_counted(geometry, spatial, bool(count_include_pad)))
    if math.prod(geometry.output_shape(spatial)) == 1 and geometry.kernel == spatial:
        summed = jnp.sum(x, axis=tuple(range(2, x.ndim)), keepdims=True)
    else:
        summed = apply_linear(partial(add_up, geometry), partial(hand_back, geometry, spatial), (), x)
    return summed / counts


def _cells_counted(geometry: PoolGeometry, spatial: Sequence[int], include_pad: bool) -> np.ndarray:
    """By how many cells each window's sum is divided: [1, 1, pooled spatial...] float32."""
    counted = np.ones((), np.float32)
    axes = zip(
        spatial,
        geometry.output_shape(spatial),
        geometry.kernel,
        geometry.strides,
        geometry.dilations,
        geometry.pads_lo,
        geometry.pads_hi,
        strict=True,
    )
    for n, windows, k, s, d, lo, hi in axes:
        cells = np.arange(windows)[:, None] * s - lo + np.arange(k) * d
        low, high = (-lo, n + hi) if include_pad else (0, n)
        along = ((cells >= low) & (cells < high)).sum(axis=1).astype(np.float32)
        counted = counted[..., None] * along
    return np.maximum(counted, 1.0)[None, None]


def _spatial_axes(x: Any) -> tuple[int, ...]:
    if x.ndim < 3:
        raise Refusal(f"global pooling needs spatial axes, the input has shape {tuple(x.shape)}")
    return tuple(range(2, x.ndim))


@register("GlobalAveragePool", value_range=ranges.keep)
def global_average_pool(x: Any) -> Any:
    """Mean over all spatial axes of x [N, C, spatial...], kept as axes of length 1."""
    return x.mean(axis=_spatial_axes(x), keepdims=True)


@register("GlobalMaxPool", value_range=ranges.keep)
def global_max_pool(x: Any) -> Any:
    """Maximum over all spatial axes of x [N, C, spatial...], kept as axes of length 1."""
    axes = _spatial_axes(x)
    return x.max(axis=axes, keepdims=True) if is_known(x) else max_over(x, axes, keepdims=True)
