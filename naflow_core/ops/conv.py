"""Conv and ConvTranspose in one, two and three dimensions.

Both have an explicit adjoint (see `adjoint`). Dense ones are computed channels-last, where XLA has its
fast kernels; within a solve, which applies them again and again, those of 3x3 and 5x5 in fewer
multiplications (see `winograd`). Those of a single cell are matrix products, and so are those of a few
input channels (first layers), on patches that are written out. Depthwise ones are sums of shifted
multiples of the input, XLA's own being many times slower. All these stay channels-first, because changing
the layout would cost more than it gains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops import depthwise, winograd
from naflow_core.ops.adjoint import apply_linear, as_known
from naflow_core.ops.array import along_channels
from naflow_core.ops.conv_shape import ConvShape
from naflow_core.ops.registry import register
from naflow_core.ops.window import WindowGeometry, gather_from_windows, split_pads, taps

HIGHEST = lax.Precision.HIGHEST
FEW_GROUPS = 16
SMALL_PATCH = 36  # numbers that an output sees, up to which patches are written out
MANY_CELLS = 100  # from here on, one matrix product for each picture
TRANSFORMED_CELLS, TRANSFORMED_CHANNELS = 400, 32  # on either side, from here on fewer multiplications pay
DEEP_CELLS, DEEP_CHANNELS = 150, 512  # or from here on
MOST_TILES = 8 << 20  # numbers in the tiles of a picture, above which passes over them take what was saved
_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def _dense(shape: ConvShape, weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    g = shape.geometry
    return _dense_channels_last(
        shape.group,
        x,
        weights[0],
        window_strides=g.strides,
        padding=list(zip(g.pads_lo, shape.high, strict=True)),
        rhs_dilation=g.dilations,
        dimension_numbers=_LAYOUTS[len(g.kernel)],
    )


def _dense_adjoint(shape: ConvShape, weights: tuple[jax.Array, jax.Array], y: jax.Array) -> jax.Array:
    g = shape.geometry
    sizes = zip(shape.spatial, shape.output, g.strides, g.reach, g.pads_lo, strict=True)
    pads = [(e - 1 - lo, n - 1 + lo - (m - 1) * s) for n, m, s, e, lo in sizes]
    return _dense_channels_last(
        shape.group,
        y,
        weights[1],
        window_strides=(1,) * len(g.kernel),
        padding=pads,
        lhs_dilation=g.strides,
        rhs_dilation=g.dilations,
        dimension_numbers=_LAYOUTS[len(g.kernel)],
    )


def _dense_channels_last(group: int, x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    if group > FEW_GROUPS:
        return lax.conv_general_dilated(x, kernel, feature_group_count=group, precision=HIGHEST, **options)
    return _in_groups(group, x, kernel, partial(lax.conv_general_dilated, precision=HIGHEST, **options))


def _in_groups(
    group: int, x: jax.Array, kernel: jax.Array, convolve: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """Channels-last. A few groups are convolutions of their own: XLA's kernels for groups are slow on
    CPUs."""
    if group == 1:
        return convolve(x, kernel)
    parts = zip(jnp.split(x, group, axis=-1), jnp.split(kernel, group, axis=-1), strict=True)
    return jnp.concatenate([convolve(*part) for part in parts], axis=-1)


def _filtered(shape: ConvShape, weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """As `_dense`, with transformed weights."""
    g = shape.geometry
    convolve = partial(winograd.convolve, size=g.kernel[0], low=g.pads_lo, output=shape.output)
    return _in_groups(shape.group, x, weights[0], convolve)


def _filtered_adjoint(shape: ConvShape, weights: tuple[jax.Array, jax.Array], y: jax.Array) -> jax.Array:
    g = shape.geometry
    low = [size - 1 - before for size, before in zip(g.kernel, g.pads_lo, strict=True)]
    convolve = partial(winograd.convolve, size=g.kernel[0], low=low, output=shape.spatial)
    return _in_groups(shape.group, y, weights[1], convolve)


def _swapped(w: jax.Array, group: int) -> jax.Array:
    """The adjoint's kernel, channels-last, for weights as ONNX has them: flipped in space, input and output
    channels exchanged within each group."""
    outer, inner, *kernel = w.shape
    parts = w.reshape(group, outer // group, inner, *kernel)
    exchanged = jnp.moveaxis(parts, (1, 0, 2), (-3, -2, -1))  # K..., O/g, g, I/g
    exchanged = exchanged.reshape(*kernel, outer // group, group * inner)
    return jnp.flip(exchanged, tuple(range(len(kernel))))


Mixing = tuple[jax.Array, jax.Array]
"""A matrix for each group, [group, outer, inner], and its transpose, which a solve would write out in every
iteration."""


def _pointwise(shape: ConvShape, weights: Mixing, x: jax.Array) -> jax.Array:
    """Channels-first; weights: [group, O/group, I/group]."""
    sizes = zip(shape.output, shape.geometry.strides, strict=True)
    x = x[(..., *(slice(0, (m - 1) * s + 1, s) for m, s in sizes))]
    return _mixed(weights, x)


def _pointwise_adjoint(shape: ConvShape, weights: Mixing, y: jax.Array) -> jax.Array:
    x = _mixed(weights, y, back=True)
    sizes = zip(shape.spatial, shape.output, shape.geometry.strides, strict=True)
    gaps = [(0, n - 1 - (m - 1) * s, s - 1) for n, m, s in sizes]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *gaps])


def _both_ways(matrices: jax.Array) -> Mixing:
    return matrices, jnp.swapaxes(matrices, 1, 2)


def _mixed(weights: Mixing, x: jax.Array, back: bool = False) -> jax.Array:
    """Channels of each cell multiplied by its group's matrix, or by the transpose (`back`)."""
    group, outer, inner = weights[back].shape
    count, spatial = x.shape[0], x.shape[2:]
    cells = math.prod(spatial)
    if group == 1 and cells < MANY_CELLS:
        equation = "io,nip->nop" if back else "oi,nip->nop"
        y = jnp.einsum(equation, weights[0][0], x.reshape(count, inner, cells), precision=HIGHEST)
    else:
        # for many cells XLA's matrix product is faster without the pictures among its columns
        each = jnp.broadcast_to(weights[back], (count, group, outer, inner))
        y = jnp.matmul(each, x.reshape(count, group, inner, cells), precision=HIGHEST)
    return y.reshape(count, group * outer, *spatial)


def _patches(shape: ConvShape, weights: Mixing, x: jax.Array) -> jax.Array:
    """Channels-first; weights: [1, O, kernel offsets * channels]."""
    seen = list(taps(x, shape.geometry, shape.output, 0.0, first=2))
    return _mixed(weights, jnp.concatenate(seen, axis=1))


def _patches_adjoint(shape: ConvShape, weights: Mixing, y: jax.Array) -> jax.Array:
    channels = weights[0].shape[2] // math.prod(shape.geometry.kernel)
    sent = _mixed(weights, y, back=True)

    def send(number: int, seen: jax.Array) -> jax.Array:
        return seen[:, number * channels : (number + 1) * channels]

    return gather_from_windows([sent], [0.0], send, shape.geometry, shape.spatial, first=2)


def is_channels_last(weights: tuple[int, ...], group: int) -> bool:
    """Whether a convolution with weights of this shape, as ONNX has them, is computed channels-last. (One of
    a single cell that is padded is, too, and not counted.)"""
    return math.prod(weights[2:]) > 1 and not (_is_depthwise(weights, group) or _is_small(weights, group))


def _is_depthwise(weights: tuple[int, ...], group: int) -> bool:
    return weights[1] == 1 and group > 1


def _is_small(weights: tuple[int, ...], group: int) -> bool:
    return group == 1 and math.prod(weights[1:]) <= SMALL_PATCH


def _gains_from_transforms(weights: tuple[int, ...], shape: ConvShape) -> bool:
    """Whether a dense convolution with weights of this shape, as ONNX has them, is quicker as `winograd` has
    it, if it is applied many times."""
    g = shape.geometry
    if len(g.kernel) != 2 or len(set(g.kernel)) > 1 or g.kernel[0] not in winograd.KERNELS:
        return False
    if set(g.strides) | set(g.dilations) != {1} or shape.group > FEW_GROUPS:
        return False
    cells, channels = math.prod(shape.output), min(weights[0] // shape.group, weights[1])
    large = cells >= TRANSFORMED_CELLS and channels >= TRANSFORMED_CHANNELS
    deep = cells >= DEEP_CELLS and channels >= DEEP_CHANNELS
    return (large or deep) and _numbers_in_tiles(weights, shape) <= MOST_TILES


def _numbers_in_tiles(weights: tuple[int, ...], shape: ConvShape) -> int:
    """Of one picture, at either end."""
    step = winograd.TILE + 1 - weights[2]
    tiles = math.prod(-(-cells // step) for cells in shape.output)
    return winograd.TILE**2 * tiles * (weights[1] * shape.group + weights[0])


def transformed_numbers(x: tuple[int, ...], w: tuple[int, ...], group: int = 1, **attributes: Any) -> int:
    """How many numbers the transforms hold where a solve applies Conv, given the shapes of its input and
    weights and its attributes: both kernels, and the tiles at either end; 0 where there are none."""
    geometry = WindowGeometry.of(x, **{"kernel_shape": w[2:], **attributes})
    shape = ConvShape(geometry, x[2:], geometry.output_shape(x[2:]), group)
    if not _gains_from_transforms(w, shape):
        return 0
    return 2 * winograd.TILE**2 * math.prod(w[:2]) + x[0] * _numbers_in_tiles(w, shape)


def _convolve(
    shape: ConvShape, w: jax.Array, x: jax.Array, b: Any, *, transposed: bool, in_solve: bool
) -> jax.Array:
    """Conv, or its adjoint, channels-first, with weights as ONNX has them: [O, I/group, kernel...]."""
    rank = len(shape.geometry.kernel)
    if _is_depthwise(w.shape, shape.group):
        maps = [partial(depthwise.apply, shape), partial(depthwise.transpose, shape)]
        stacked = jnp.moveaxis(w.reshape(shape.group, w.shape[0] // shape.group, -1), -1, 0)
        y = apply_linear(*(reversed(maps) if transposed else maps), stacked, x)
    elif shape.is_pointwise:
        maps = [partial(_pointwise, shape), partial(_pointwise_adjoint, shape)]
        mixing = w.reshape(shape.group, w.shape[0] // shape.group, w.shape[1])
        y = apply_linear(*(reversed(maps) if transposed else maps), _both_ways(mixing), x)
    elif _is_small(w.shape, shape.group):
        maps = [partial(_patches, shape), partial(_patches_adjoint, shape)]
        rows = jnp.moveaxis(w.reshape(*w.shape[:2], -1), 2, 1).reshape(1, w.shape[0], -1)
        y = apply_linear(*(reversed(maps) if transposed else maps), _both_ways(rows), x)
    else:
        maps = [partial(_dense, shape), partial(_dense_adjoint, shape)]
        kernel = jnp.transpose(w, (*range(2, 2 + rank), 1, 0))
        weights = kernel, _swapped(w, shape.group)
        last = jnp.moveaxis(x, 1, -1)
        y = apply_linear(*(reversed(maps) if transposed else maps), weights, last)
        if in_solve and _gains_from_transforms(w.shape, shape):
            maps = [partial(_filtered, shape), partial(_filtered_adjoint, shape)]
            transformed = winograd.transform_kernel(weights[0]), winograd.transform_kernel(weights[1])
            quick = apply_linear(*(reversed(maps) if transposed else maps), transformed, last)
            y = as_known(quick, y)
        y = jnp.moveaxis(y, -1, 1)
    return y if b is None else y + along_channels(jnp.asarray(b), y.ndim)


def _check(x: Any, w: Any, kernel_shape: Sequence[int] | None) -> int:
    rank = x.ndim - 2
    if rank not in _LAYOUTS:
        raise Refusal(f"convolutions need an input of rank 3 to 5, this one has shape {tuple(x.shape)}")
    if w.ndim != x.ndim:
        raise Refusal(f"weights of shape {tuple(w.shape)} do not fit an input of shape {tuple(x.shape)}")
    if kernel_shape is not None and tuple(kernel_shape) != tuple(w.shape[2:]):
        raise Refusal(f"kernel_shape {tuple(kernel_shape)} contradicts weights of shape {tuple(w.shape)}")
    return int(rank)


@register("Conv", foldable=False)
def conv(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    in_solve: bool = False,
) -> jax.Array:
    """Convolution of x [N, C, spatial...] with w [O, C/group, kernel...] and b [O]."""
    x, w = jnp.asarray(x), jnp.asarray(w)
    _check(x, w, kernel_shape)
    if x.shape[1] != w.shape[1] * group or w.shape[0] % group:
        raise Refusal(f"{group} groups of weights {w.shape} do not fit an input of shape {x.shape}")
    spatial = x.shape[2:]
    geometry = WindowGeometry.of(
        x.shape, kernel_shape=w.shape[2:], strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad
    )
    shape = ConvShape(geometry, spatial, geometry.output_shape(spatial), group)
    return _convolve(shape, w, x, b, transposed=False, in_solve=in_solve)


@register("ConvTranspose", foldable=False)
def conv_transpose(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    in_solve: bool = False,
) -> jax.Array:
    """The adjoint of a convolution: x [N, C, spatial...], w [C, O/group, kernel...], b [O]."""
    x, w = jnp.asarray(x), jnp.asarray(w)
    rank = _check(x, w, kernel_shape)
    if x.shape[1] != w.shape[0] or w.shape[0] % group:
        raise Refusal(f"{group} groups of weights {w.shape} do not fit an input of shape {x.shape}")
    steps, gaps = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
    extra = tuple(output_padding or (0,) * rank)
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], gaps, strict=True)]
    full = [(m - 1) * s + e + o for m, s, e, o in zip(x.shape[2:], steps, reach, extra, strict=True)]
    low, high = split_pads(pads, rank)
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        # Given the output's size, the padding follows from it; the odd cell goes where auto_pad says. A size
        # beyond what the windows reach leaves cells at the end that only the bias fills.
        wanted = output_shape[-rank:] if output_shape is not None else None
        sizes = wanted or [m * s for m, s in zip(x.shape[2:], steps, strict=True)]
        total = [max(f - n, 0) for f, n in zip(full, sizes, strict=True)]
        less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        low, high = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    elif auto_pad == "VALID":
        low = high = (0,) * rank
    elif auto_pad not in ("NOTSET", ""):
        raise Refusal(f"auto_pad {auto_pad!r} is not one of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    spatial = tuple(f - lo - hi for f, lo, hi in zip(full, low, high, strict=True))
    if output_shape is not None:
        spatial = tuple(output_shape[-rank:])
        if any(n >= f + s for n, f, s in zip(spatial, full, steps, strict=True)):
            raise Refusal(f"output_shape {spatial} is a stride or more beyond the windows' {tuple(full)}")
    if min(spatial) < 1:
        raise Refusal(f"the output would have spatial shape {spatial}")
    geometry = WindowGeometry(tuple(w.shape[2:]), steps, gaps, low, high, (0,) * rank)
    shape = ConvShape(geometry, spatial, tuple(x.shape[2:]), group)
    return _convolve(shape, w, x, b, transposed=True, in_solve=in_solve)
