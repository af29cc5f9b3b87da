"""Sampling at computed positions: GridSample, AffineGrid, RoiAlign, DeformConv."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops.array import along_channels, check_growth, integers, is_known, namespace
from naflow_core.ops.registry import register
from naflow_core.ops.window import WindowGeometry

Inside = Callable[[jax.Array, int], tuple[jax.Array, Any]]
"""From integer cells of an axis of n to (cells inside it, weight that they count with)."""


def _reflected(x: jax.Array, low: float, high: float) -> jax.Array:
    """x folded back and forth between two ends."""
    span = high - low
    if span <= 0:
        return jnp.full_like(x, low)
    distance = jnp.mod(jnp.abs(x - low), 2 * span)
    return low + jnp.where(distance > span, 2 * span - distance, distance)


def _zero_outside(cell: jax.Array, n: int) -> tuple[jax.Array, Any]:
    inside = (cell >= 0) & (cell < n)
    return jnp.clip(cell, 0, n - 1), inside.astype(jnp.float32)


def _clamped(cell: jax.Array, n: int) -> tuple[jax.Array, Any]:
    return jnp.clip(cell, 0, n - 1), None


def _mirrored(align_corners: bool) -> Inside:
    def inside(cell: jax.Array, n: int) -> tuple[jax.Array, Any]:
        low, high = (0.0, n - 1.0) if align_corners else (-0.5, n - 0.5)
        folded = _reflected(cell.astype(jnp.float32), low, high)
        return jnp.clip(folded.astype(jnp.int32), 0, n - 1), None

    return inside


def _cubic(part: jax.Array, a: float = -0.75) -> list[jax.Array]:
    """Weights of the cells -1, 0, 1, 2 away, for a position `part` of a cell further on."""
    far, near = part + 1, 2 - part
    return [
        ((a * far - 5 * a) * far + 8 * a) * far - 4 * a,
        ((a + 2) * part - (a + 3)) * part * part + 1,
        ((a + 2) * (1 - part) - (a + 3)) * (1 - part) ** 2 + 1,
        ((a * near - 5 * a) * near + 8 * a) * near - 4 * a,
    ]


def sample(x: jax.Array, positions: Sequence[jax.Array], mode: str, inside: Inside) -> jax.Array:
    """x [N, C, spatial...] interpolated at fractional positions, one array [N, P] per spatial axis.

    Differentiable by x and, except for the mode "nearest", by the positions. Result: [N, C, P].
    """
    spatial = x.shape[2:]
    per_axis: list[list[tuple[jax.Array, jax.Array | None]]] = []
    for position in positions:
        if mode == "nearest":
            per_axis.append([(lax.stop_gradient(jnp.round(position)), None)])
            continue
        base = lax.stop_gradient(jnp.floor(position))
        part = position - base
        shares = [1 - part, part] if mode == "linear" else _cubic(part)
        first = 0 if mode == "linear" else -1
        per_axis.append([(base + first + i, weight) for i, weight in enumerate(shares)])
    flat = x.reshape(*x.shape[:2], -1)
    terms = []
    for corner in itertools.product(*per_axis):
        cell: Any = None
        weights = []
        for (place, share), n in zip(corner, spatial, strict=True):
            limited = jnp.clip(place, -1e9, 1e9)  # far outside, conversion to integers would wrap
            index, counts = inside(limited.astype(jnp.int32), n)
            cell = index if cell is None else cell * n + index
            weights += [w for w in (share, counts) if w is not None]
        seen = jnp.take_along_axis(flat, cell[:, None, :], axis=2)
        terms.append(math.prod((w[:, None, :].astype(x.dtype) for w in weights), start=seen))
    return functools.reduce(operator.add, terms)


_MODES = {
    "linear": "linear",
    "bilinear": "linear",
    "nearest": "nearest",
    "cubic": "cubic",
    "bicubic": "cubic",
}


@register("GridSample", since=16, foldable=False)
def grid_sample(
    x: Any, grid: Any, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> jax.Array:
    """x [N, C, spatial...] at the positions of grid [N, output..., rank]: -1 to 1 across each axis, the
    last axis of x first."""
    x, grid = jnp.asarray(x), jnp.asarray(grid)
    rank = x.ndim - 2
    if grid.ndim != x.ndim or grid.shape[-1] != rank or grid.shape[0] != x.shape[0]:
        raise Refusal(f"a grid of shape {grid.shape} does not fit an input of shape {x.shape}")
    if mode not in _MODES or (_MODES[mode] == "cubic" and rank != 2):
        raise Refusal(f"mode {mode!r} is not one of nearest, linear, and over two axes cubic")
    ways: dict[str, Inside] = {
        "zeros": _zero_outside,
        "border": _clamped,
        "reflection": _mirrored(bool(align_corners)),
    }
    if padding_mode not in ways:
        raise Refusal(f"padding_mode {padding_mode!r} is not one of {', '.join(ways)}")
    check_growth((*x.shape[:2], *grid.shape[1:-1]), x.dtype)
    points = grid.reshape(x.shape[0], -1, rank)
    positions = []
    for axis, n in enumerate(x.shape[2:]):
        at = points[..., rank - 1 - axis]
        at = (at + 1) / 2 * (n - 1) if align_corners else ((at + 1) * n - 1) / 2
        low, high = (0.0, n - 1.0) if align_corners else (-0.5, n - 0.5)
        if padding_mode == "border" and _MODES[mode] != "cubic":
            at = jnp.clip(at, 0.0, n - 1.0)
        elif padding_mode == "reflection" and _MODES[mode] != "cubic":
            at = _reflected(at, low, high)
        positions.append(at)
    y = sample(x, positions, _MODES[mode], ways[padding_mode])
    return y.reshape(*x.shape[:2], *grid.shape[1:-1])


@register("AffineGrid", since=20, static=(1,))
def affine_grid(theta: Any, size: Any, *, align_corners: int = 0) -> Any:
    """Where theta [N, rank, rank + 1] moves the cells of an image of that size: [N, spatial..., rank]."""
    spatial = integers(size)[2:]
    if tuple(theta.shape[1:]) != (len(spatial), len(spatial) + 1):
        raise Refusal(f"theta of shape {tuple(theta.shape)} does not fit an image of size {integers(size)}")
    check_growth((theta.shape[0], *spatial, len(spatial)), theta.dtype)
    axes = []
    for n in spatial:
        cells = np.arange(n, dtype=np.float32)
        even = cells * (2 / max(n - 1, 1)) - 1 if align_corners else (2 * cells + 1) / n - 1
        axes.append(even.astype(np.float32))
    middle = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1).reshape(-1, len(spatial))
    points = np.concatenate([middle, np.ones_like(middle[:, :1])], 1).astype(np.float32)
    if is_known(theta):
        moved = np.einsum("nij,pj->npi", theta, points)
    else:
        moved = jnp.einsum("nij,pj->npi", theta, points, precision=lax.Precision.HIGHEST)
    return moved.reshape(theta.shape[0], *spatial, len(spatial)).astype(theta.dtype)


@register("RoiAlign", since=16, foldable=False)
def roi_align(
    x: Any,
    rois: Any,
    batch_indices: Any,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> jax.Array:
    """x [N, C, H, W] averaged over the cells of boxes rois [R, 4] (x1, y1, x2, y2): [R, C, height, width].

    With sampling_ratio 0 the number of samples follows from each box, which must then be constant.
    """
    x = jnp.asarray(x)
    if mode not in ("avg", "max"):
        raise Refusal(f"mode {mode!r} is not one of avg, max")
    shifted = coordinate_transformation_mode == "half_pixel"
    if not shifted and coordinate_transformation_mode != "output_half_pixel":
        raise Refusal(f"coordinate_transformation_mode {coordinate_transformation_mode!r} is not known")
    if sampling_ratio == 0 and not is_known(rois):
        raise Refusal("sampling_ratio 0 with boxes that depend on the model's input is not implemented")
    xp = namespace(rois)
    corners = rois * np.float32(spatial_scale) - np.float32(0.5 if shifted else 0.0)
    begin, extent = corners[:, [1, 0]], corners[:, [3, 2]] - corners[:, [1, 0]]
    extent = extent if shifted else xp.maximum(extent, np.float32(1))
    bins = np.array([output_height, output_width], np.float32)
    size = extent / bins[None]
    picked = x[jnp.asarray(batch_indices)]
    rows = []
    counts = _samples(size, sampling_ratio, len(rois))
    for group in sorted(set(counts)):
        members = np.array([i for i, count in enumerate(counts) if count == group])
        if 0 in group:  # an empty box
            rows.append(jnp.zeros((len(members), x.shape[1], output_height, output_width), x.dtype))
            continue
        rows.append(_boxes(picked[members], begin[members], size[members], bins.astype(int), group, mode))
    order = np.argsort(
        np.array([i for group in sorted(set(counts)) for i, c in enumerate(counts) if c == group]),
        kind="stable",
    )
    return jnp.concatenate(rows)[order] if rows else jnp.zeros((0, x.shape[1], *bins.astype(int)), x.dtype)


def _samples(size: Any, ratio: int, boxes: int) -> list[tuple[int, int]]:
    """How many samples per output cell, down and across, for every box."""
    if ratio > 0:
        return [(ratio, ratio)] * boxes
    return [(max(math.ceil(h), 0), max(math.ceil(w), 0)) for h, w in np.asarray(size)]


def _boxes(
    x: jax.Array, begin: Any, size: Any, bins: np.ndarray, samples: tuple[int, int], mode: str
) -> jax.Array:
    """Boxes with the same number of samples: x [R, C, H, W] is each box's own picture."""
    along = []
    for axis in range(2):
        steps = (np.arange(samples[axis], dtype=np.float32) + np.float32(0.5)) / np.float32(samples[axis])
        cells = (np.arange(bins[axis], dtype=np.float32)[:, None] + steps).reshape(-1)
        along.append(jnp.asarray(begin[:, axis : axis + 1] + cells[None] * size[:, axis : axis + 1]))
    down, across = along
    shape = (len(x), down.shape[1], across.shape[1])
    points = [jnp.broadcast_to(down[:, :, None], shape), jnp.broadcast_to(across[:, None, :], shape)]
    beyond: Any = False
    flat = []
    for point, n in zip(points, x.shape[2:], strict=True):
        beyond = beyond | (point < -1) | (point > n)
        flat.append(jnp.clip(point, 0.0, n - 1.0).reshape(len(x), -1))
    y = _largest_corner(x, flat) if mode == "max" else sample(x, flat, "linear", _clamped)
    y = jnp.where(beyond.reshape(len(x), 1, -1), 0.0, y)
    grouped = y.reshape(len(x), x.shape[1], int(bins[0]), samples[0], int(bins[1]), samples[1])
    return grouped.max(axis=(3, 5)) if mode == "max" else grouped.mean(axis=(3, 5))


def _largest_corner(x: jax.Array, flat: Sequence[jax.Array]) -> jax.Array:
    """Like `sample`, but the largest of the four weighted corners instead of their sum, as ONNX has it."""
    base = [lax.stop_gradient(jnp.floor(p)) for p in flat]
    pieces = []
    for corner in itertools.product((0, 1), repeat=2):
        weight: Any = 1.0
        for position, low, side in zip(flat, base, corner, strict=True):
            weight = weight * ((position - low) if side else (1 - (position - low)))
        cells = [low + side for low, side in zip(base, corner, strict=True)]
        pieces.append(sample(x, cells, "nearest", _clamped) * weight[:, None, :])
    return jnp.stack(pieces).max(axis=0)


@register("DeformConv", since=19, foldable=False)
def deform_conv(
    x: Any,
    w: Any,
    offset: Any,
    b: Any = None,
    mask: Any = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> jax.Array:
    """Convolution of x [N, C, H, W] whose taps are moved by offset [N, 2 * groups * kernel, H', W'] and
    weighted by mask [N, groups * kernel, H', W']."""
    x, w, offset = jnp.asarray(x), jnp.asarray(w), jnp.asarray(offset)
    if x.ndim != 4:
        raise Refusal(f"only pictures are implemented, the input has shape {x.shape}")
    geometry = WindowGeometry.of(
        x.shape, kernel_shape=w.shape[2:], strides=strides, dilations=dilations, pads=pads
    )
    output = geometry.output_shape(x.shape[2:])
    batch, channels, taps = x.shape[0], x.shape[1], math.prod(w.shape[2:])
    if channels % offset_group or offset.shape != (batch, 2 * offset_group * taps, *output):
        raise Refusal(f"offsets of shape {offset.shape} do not fit an input of shape {x.shape}")
    moves = offset.reshape(batch, offset_group, taps, 2, *output)
    corners = np.meshgrid(
        *(np.arange(m) * s - lo for m, s, lo in zip(output, geometry.strides, geometry.pads_lo, strict=True)),
        indexing="ij",
    )
    taken = np.array(list(geometry.offsets()), np.float32)
    parts = x.reshape(batch * offset_group, channels // offset_group, *x.shape[2:])
    positions = []
    for axis in range(2):
        fixed = corners[axis][None].astype(np.float32) + taken[:, axis].reshape(-1, 1, 1)
        positions.append((moves[:, :, :, axis] + fixed[None, None]).reshape(batch * offset_group, -1))
    seen = sample(parts, positions, "linear", _zero_outside)
    seen = seen.reshape(batch, offset_group, channels // offset_group, taps, *output)
    if mask is not None:
        seen = seen * jnp.asarray(mask).reshape(batch, offset_group, 1, taps, *output)
    grouped = seen.reshape(batch, group, channels // group, taps, *output)
    weights = w.reshape(group, w.shape[0] // group, channels // group, taps)
    y = jnp.einsum("ngcthw,goct->ngohw", grouped, weights, precision=lax.Precision.HIGHEST)
    y = y.reshape(batch, w.shape[0], *output)
    return y if b is None else y + along_channels(jnp.asarray(b), 4)
