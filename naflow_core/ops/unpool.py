"""Windows beyond plain pooling: p-norm pooling, MaxUnpool and Col2Im."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.errors import Refusal
from naflow_core.ops.adjoint import apply_linear
from naflow_core.ops.array import check_growth, integers
from naflow_core.ops.elementwise import absolute
from naflow_core.ops.pool import add_up, hand_back
from naflow_core.ops.registry import register
from naflow_core.ops.window import WindowGeometry, gather_from_windows, split_pads

NON_NEGATIVE = (0.0, math.inf)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _root(x: jax.Array, p: int) -> jax.Array:
    return jnp.sqrt(x) if p == 2 else jnp.power(x, 1.0 / p)


@_root.defjvp
def _root_jvp(p: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """Derivative 0 at 0: a dead window must not make coefficients infinite."""
    (x,), (x_dot,) = primals, tangents
    y = _root(x, p)
    slope = jnp.where(x > 0, y / jnp.where(x > 0, p * x, 1.0), 0.0)
    return y, slope * x_dot


def _raised(x: jax.Array, p: int) -> jax.Array:
    if p < 1:
        raise Refusal(f"p = {p} is not a positive integer")
    return absolute(x) if p == 1 else x * x if p == 2 else absolute(x) ** p


@register("LpPool", since=2, foldable=False, value_range=NON_NEGATIVE)
def lp_pool(
    x: Any,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> jax.Array:
    """p-norm of every window over x [N, C, spatial...]."""
    x = jnp.asarray(x)
    geometry = WindowGeometry.of(
        x.shape,
        kernel_shape=kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    adjoint = partial(hand_back, geometry, tuple(x.shape[2:]))
    summed = apply_linear(partial(add_up, geometry), adjoint, (), _raised(x, p))
    return summed if p == 1 else _root(summed, p)


@register("GlobalLpPool", since=2, foldable=False, value_range=NON_NEGATIVE)
def global_lp_pool(x: Any, *, p: int = 2) -> jax.Array:
    """p-norm over all spatial axes of x [N, C, spatial...], kept as axes of length 1."""
    x = jnp.asarray(x)
    summed = jnp.sum(_raised(x, p), axis=tuple(range(2, x.ndim)), keepdims=True)
    return summed if p == 1 else _root(summed, p)


@register("MaxUnpool", since=9, static=(2,), foldable=False)
def max_unpool(
    x: Any,
    indices: Any,
    output_shape: Any = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> jax.Array:
    """x [N, C, spatial...] at the positions that MaxPool's Indices name, 0 elsewhere.

    Indices count through the whole result. Without `output_shape` it has the size that MaxPool would need.
    """
    x, indices = jnp.asarray(x), jnp.asarray(indices)
    if x.shape != indices.shape:
        raise Refusal(f"indices of shape {indices.shape} do not fit an input of shape {x.shape}")
    rank = x.ndim - 2
    low, high = split_pads(pads, rank)
    steps = tuple(strides or (1,) * rank)
    if len(steps) != rank or len(kernel_shape) != rank:
        raise Refusal(f"strides {steps} and kernel_shape {tuple(kernel_shape)} do not fit shape {x.shape}")
    sizes = zip(x.shape[2:], steps, kernel_shape, low, high, strict=True)
    inferred = x.shape[:2] + tuple((n - 1) * s + k - lo - hi for n, s, k, lo, hi in sizes)
    shape = integers(output_shape) if output_shape is not None and np.size(output_shape) else inferred
    if len(shape) != x.ndim or shape[:2] != x.shape[:2]:
        raise Refusal(f"output_shape {shape} does not fit an input of shape {x.shape}")
    check_growth(shape, x.dtype)
    flat = jnp.zeros(math.prod(shape), x.dtype)
    return flat.at[indices.reshape(-1)].set(x.reshape(-1), mode="drop").reshape(shape)


@register("Col2Im", since=18, static=(1, 2), foldable=False)
def columns_to_image(
    x: Any,
    image_shape: Any,
    block_shape: Any,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> jax.Array:
    """Blocks x [N, C * block, windows] added up where they overlap: [N, C, image...]."""
    x = jnp.asarray(x)
    image, block = integers(image_shape), integers(block_shape)
    cells = math.prod(block)
    if x.ndim != 3 or x.shape[1] % cells:
        raise Refusal(f"an input of shape {x.shape} does not hold blocks of shape {block}")
    shape = (x.shape[0], x.shape[1] // cells, *image)
    check_growth(shape, x.dtype)
    geometry = WindowGeometry.of(shape, kernel_shape=block, strides=strides, dilations=dilations, pads=pads)
    windows = geometry.output_shape(image)
    if math.prod(windows) != x.shape[2]:
        raise Refusal(f"{x.shape[2]} windows are given, an image of shape {image} has {math.prod(windows)}")
    parts = jnp.moveaxis(x.reshape(*shape[:2], cells, *windows), 2, 0)
    return gather_from_windows(
        list(parts), [0.0] * cells, lambda number, *seen: seen[number], geometry, image, first=2
    )
