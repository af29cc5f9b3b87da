"""Pooling. The maxima's positions are explicit, so that derivative and inverse need no scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.errors import Refusal
from naflow_core.ops import ranges
from naflow_core.ops.adjoint import apply_linear
from naflow_core.ops.array import is_known
from naflow_core.ops.reduce import max_over
from naflow_core.ops.registry import register
from naflow_core.ops.window import WindowGeometry, gather_from_windows, taps

PoolGeometry = WindowGeometry

__all__ = ["PoolGeometry", "gather_at", "max_pool_argmax", "unpool_mean"]


def max_pool_argmax(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """Which kernel offset holds each window's maximum: int32, the shape of the pool's output.

    Offsets count in row-major order; of equal maxima the first wins, padding never does.

    Args:
        x: [N, C, spatial...].
    """
    output = geometry.output_shape(x.shape[2:])
    best = jnp.full(x.shape[:2] + output, _lowest(x.dtype), x.dtype)
    winner = jnp.broadcast_to(jnp.asarray(_first_inside(geometry, x.shape[2:])), best.shape)
    for number, seen in enumerate(taps(x, geometry, output, _lowest(x.dtype), first=2)):
        better = seen > best
        best, winner = jnp.where(better, seen, best), jnp.where(better, number, winner)
    return winner


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
    y = jnp.zeros(argmax.shape, x.dtype)
    for number, seen in enumerate(taps(x, geometry, argmax.shape[2:], 0.0, first=2)):
        y = y + jnp.where(argmax == number, seen, 0.0)
    return y


def _put_back(geometry: PoolGeometry, spatial: tuple[int, ...], argmax: jax.Array, y: jax.Array) -> jax.Array:
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
    output = geometry.output_shape(x.shape[2:])
    best = jnp.full(x.shape[:2] + output, _lowest(x.dtype), x.dtype)
    for seen in taps(x, geometry, output, _lowest(x.dtype), first=2):
        best = jnp.maximum(best, seen)
    return best


@_max_pool.defjvp
def _max_pool_jvp(geometry: PoolGeometry, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    return _max_pool(x, geometry), gather_at(x_dot, max_pool_argmax(x, geometry), geometry)


@register("MaxPool", foldable=False, value_range=ranges.keep)
def max_pool(
    x: Any,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> jax.Array:
    """Largest value of every window over x [N, C, spatial...]; only the first output, without Indices."""
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
    _first_inside(geometry, x.shape[2:])
    return _max_pool(x, geometry)


def _add_up(geometry: PoolGeometry, _: Any, x: jax.Array) -> jax.Array:
    output = geometry.output_shape(x.shape[2:])
    return sum(taps(x, geometry, output, 0.0, first=2), start=jnp.zeros((), x.dtype))


def _hand_back(geometry: PoolGeometry, spatial: tuple[int, ...], _: Any, y: jax.Array) -> jax.Array:
    return gather_from_windows([y], [0.0], lambda _number, seen: seen, geometry, spatial, first=2)


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
        summed = apply_linear(partial(_add_up, geometry), partial(_hand_back, geometry, spatial), (), x)
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
