"""Re-arranging: shapes, axes, joining, splitting, slicing, padding, indexing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops import ranges
from naflow_core.ops.array import (
    broadcast_shapes,
    check_growth,
    integers,
    is_known,
    namespace,
    normalise_axes,
    normalise_axis,
)
from naflow_core.ops.registry import register


@register("Shape")
def shape(x: Any, *, start: int = 0, end: int | None = None) -> np.ndarray:
    """The shape of x, or a slice of it, as int64; known even where x is not."""
    return np.array(x.shape[slice(start, end)], np.int64)


@register("Size")
def size(x: Any) -> np.ndarray:
    """Number of elements of x as int64; known even where x is not."""
    return np.array(math.prod(x.shape), np.int64)


@register("Identity", pointwise=True, value_range=ranges.keep)
def identity(x: Any) -> Any:
    """x itself."""
    return x


@register("Dropout", since=12, static=(1, 2), pointwise=True, value_range=ranges.keep)
def dropout(
    x: Any, ratio: Any = None, training_mode: Any = None, *, seed: int | None = None
) -> tuple[Any, Any]:
    """x itself and a mask of ones: inference only."""
    if training_mode is not None and np.any(training_mode):
        raise Refusal("training mode is not implemented; export the model for inference")
    return x, namespace(x).ones(x.shape, bool)


@register("Reshape", since=5, static=(1,), value_range=ranges.keep)
def reshape(x: Any, target: Any, *, allowzero: int = 0) -> Any:
    """x in another shape: 0 keeps the dimension (unless allowzero), -1 takes what is left."""
    wanted = list(integers(target))
    if not allowzero:
        for position, length in enumerate(wanted):
            if length == 0:
                if position >= len(x.shape):
                    raise Refusal(
                        f"shape {tuple(wanted)} copies dimension {position} of a tensor of shape {x.shape}"
                    )
                wanted[position] = x.shape[position]
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1:
        raise Refusal(f"shape {tuple(wanted)} is not a valid target")
    count, fixed = math.prod(x.shape), math.prod(n for n in wanted if n != -1)
    if -1 in wanted and fixed and count % fixed == 0:
        wanted[wanted.index(-1)] = count // fixed
    if -1 in wanted or math.prod(wanted) != count:
        raise Refusal(f"{count} elements of shape {tuple(x.shape)} do not fit shape {integers(target)}")
    return x.reshape(tuple(wanted))


@register("Flatten", value_range=ranges.keep)
def flatten(x: Any, *, axis: int = 1) -> Any:
    """x as a matrix: axes before `axis` to rows, the others to columns."""
    rank = len(x.shape)
    axis = rank if axis == rank else normalise_axis(axis, rank)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@register("Squeeze", since=13, static=(1,), value_range=ranges.keep)
def squeeze(x: Any, axes: Any = None) -> Any:
    """x without the given axes of length 1 (all of them by default)."""
    rank = len(x.shape)
    chosen = normalise_axes(axes, rank) if axes is not None else [a for a in range(rank) if x.shape[a] == 1]
    if any(x.shape[a] != 1 for a in chosen):
        raise Refusal(f"axes {tuple(chosen)} of shape {tuple(x.shape)} are not all of length 1")
    return x.reshape(tuple(n for a, n in enumerate(x.shape) if a not in chosen))


@register("Unsqueeze", since=13, static=(1,), value_range=ranges.keep)
def unsqueeze(x: Any, axes: Any) -> Any:
    """x with axes of length 1 put in, counted in the result."""
    rank = len(x.shape) + np.size(axes)
    chosen = normalise_axes(axes, rank)
    lengths = iter(x.shape)
    return x.reshape(tuple(1 if a in chosen else next(lengths) for a in range(rank)))


@register("Transpose", value_range=ranges.keep)
def transpose(x: Any, *, perm: Sequence[int] | None = None) -> Any:
    """x with its axes in another order (reversed by default)."""
    return x.transpose(tuple(perm) if perm is not None else tuple(range(len(x.shape)))[::-1])


@register("Expand", since=8, static=(1,), value_range=ranges.keep)
def expand(x: Any, target: Any) -> Any:
    """x repeated to the broadcast of its shape and the target."""
    result = broadcast_shapes(x.shape, integers(target))
    check_growth(result, x.dtype)
    return namespace(x).broadcast_to(x, result)


@register("Tile", since=6, static=(1,), value_range=ranges.keep)
def tile(x: Any, repeats: Any) -> Any:
    """x repeated along each axis."""
    times = integers(repeats)
    if len(times) != len(x.shape) or min(times, default=0) < 0:
        raise Refusal(f"repeats {times} do not fit a tensor of shape {tuple(x.shape)}")
    check_growth([n * t for n, t in zip(x.shape, times, strict=True)], x.dtype)
    return namespace(x).tile(x, times)


@register("Concat", since=4, value_range=ranges.hull_of_inputs)
def concat(*parts: Any, axis: int) -> Any:
    """The parts joined along one axis."""
    xp = namespace(*parts)
    dtype = np.result_type(*parts) if xp is np else jnp.result_type(*parts)
    axis = normalise_axis(axis, np.ndim(parts[0]))
    total = sum(part.shape[axis] for part in parts)
    check_growth((*parts[0].shape[:axis], total, *parts[0].shape[axis + 1 :]), dtype)
    return xp.concatenate([xp.asarray(part, dtype) for part in parts], axis=axis)


@register("Split", since=13, static=(1,), value_range=ranges.keep)
def split(x: Any, sizes: Any = None, *, axis: int = 0, num_outputs: int | None = None) -> tuple[Any, ...]:
    """Consecutive pieces of x along one axis, of the given sizes or as equal as `num_outputs` allows."""
    axis = normalise_axis(axis, len(x.shape))
    length = x.shape[axis]
    if sizes is not None:
        pieces = integers(sizes)
    elif num_outputs is not None:
        each = -(-length // num_outputs)
        pieces = tuple(max(min(each, length - i * each), 0) for i in range(num_outputs))
    else:
        raise Refusal("neither sizes nor num_outputs is given")
    if sum(pieces) != length or min(pieces, default=0) < 0:
        raise Refusal(f"pieces {pieces} do not add up to {length} cells of axis {axis}")
    edges = list(itertools.accumulate(pieces, initial=0))
    return tuple(cut(x, {axis: (a, b, 1)}) for a, b in itertools.pairwise(edges))


def cut(x: Any, by_axis: dict[int, tuple[int, int, int]]) -> Any:
    """x[start:stop:step] on some axes, everything else whole; all counts from the start, step > 0."""
    if is_known(x):
        return x[tuple(slice(*by_axis.get(a, (0, n, 1))) for a, n in enumerate(x.shape))]
    bounds = [by_axis.get(a, (0, n, 1)) for a, n in enumerate(x.shape)]
    starts, stops, steps = zip(*bounds, strict=True)
    return lax.slice(x, starts, [max(a, b) for a, b in zip(starts, stops, strict=True)], steps)


@register("Slice", since=10, static=(1, 2, 3, 4), value_range=ranges.keep)
def slice_(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """x[start:end:step] on the given axes (the first ones by default), clamped as in ONNX."""
    first, last = integers(starts), integers(ends)
    chosen = normalise_axes(axes if axes is not None else range(len(first)), len(x.shape))
    strides = integers(steps) if steps is not None else (1,) * len(first)
    if not len(first) == len(last) == len(chosen) == len(strides):
        raise Refusal("starts, ends, axes and steps have different lengths")
    cuts, mirrored = {}, []
    for start, end, axis, step in zip(first, last, chosen, strides, strict=True):
        if step == 0:
            raise Refusal("a step is 0")
        n = x.shape[axis]
        start, end = (start + n if start < 0 else start), (end + n if end < 0 else end)
        if step < 0:
            # Going down over n cells is going up over the mirrored axis.
            mirrored.append(axis)
            start, end, step = n - 1 - start, n - 1 - end, -step
        low, high = min(max(start, 0), n), min(max(end, 0), n)
        cuts[axis] = (low, max(low, high), step)
    return cut(namespace(x).flip(x, tuple(mirrored)) if mirrored else x, cuts)


_PAD_MODES = ("constant", "reflect", "edge", "wrap")


@register("Pad", since=11, static=(1, 2, 3), value_range=ranges.padded)
def pad(x: Any, pads: Any, value: Any = None, axes: Any = None, *, mode: str = "constant") -> Any:
    """x with cells added before and after the given axes (all by default); negative counts remove cells."""
    if mode not in _PAD_MODES:
        raise Refusal(f"mode {mode!r} is not one of {', '.join(_PAD_MODES)}")
    rank = len(x.shape)
    chosen = normalise_axes(axes, rank) if axes is not None else tuple(range(rank))
    counts = integers(pads)
    if len(counts) != 2 * len(chosen):
        raise Refusal(f"pads has {len(counts)} entries for {len(chosen)} axes")
    widths = [(0, 0)] * rank
    for position, axis in enumerate(chosen):
        widths[axis] = counts[position], counts[position + len(chosen)]
    cuts = {
        a: (max(-lo, 0), x.shape[a] - max(-hi, 0), 1) for a, (lo, hi) in enumerate(widths) if min(lo, hi) < 0
    }
    if any(start > stop for start, stop, _ in cuts.values()):
        raise Refusal(f"pads {counts} remove more cells than a tensor of shape {tuple(x.shape)} has")
    x = cut(x, cuts) if cuts else x
    added = [(max(lo, 0), max(hi, 0)) for lo, hi in widths]
    check_growth([n + lo + hi for n, (lo, hi) in zip(x.shape, added, strict=True)], x.dtype)
    xp = namespace(x)
    if mode != "constant":
        return xp.pad(x, added, mode=mode)
    fill = 0 if value is None or np.size(value) == 0 else np.asarray(value).reshape(())
    return xp.pad(x, added, constant_values=xp.asarray(fill, x.dtype))


@register("Gather", value_range=ranges.keep)
def gather(x: Any, indices: Any, *, axis: int = 0) -> Any:
    """Slices of x at the given positions along one axis; negative positions count from the end."""
    axis = normalise_axis(axis, np.ndim(x))
    check_growth((*np.shape(x)[:axis], *np.shape(indices), *np.shape(x)[axis + 1 :]), x.dtype)
    if is_known(x, indices):
        return np.take(x, indices, axis=axis)
    return jnp.take(jnp.asarray(x), jnp.asarray(indices), axis=axis)


@register("GatherElements", since=11, value_range=ranges.keep)
def gather_elements(x: Any, indices: Any, *, axis: int = 0) -> Any:
    """Single elements of x: position along `axis` from the indices, elsewhere their own."""
    xp = namespace(x, indices)
    axis = normalise_axis(axis, np.ndim(x))
    same = tuple(slice(n) if a != axis else slice(None) for a, n in enumerate(np.shape(indices)))
    return xp.take_along_axis(xp.asarray(x)[same], xp.asarray(indices), axis=axis)


@register("DepthToSpace", value_range=ranges.keep)
def depth_to_space(x: Any, *, blocksize: int, mode: str = "DCR") -> Any:
    """Blocks of channels of x [N, C, H, W] laid out in space."""
    n, c, h, w = x.shape
    b = blocksize
    if c % (b * b):
        raise Refusal(f"{c} channels do not divide into blocks of {b} x {b}")
    if mode == "DCR":
        y = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    elif mode == "CRD":
        y = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        raise Refusal(f"mode {mode!r} is not one of DCR, CRD")
    return y.reshape(n, c // (b * b), h * b, w * b)


@register("SpaceToDepth", value_range=ranges.keep)
def space_to_depth(x: Any, *, blocksize: int, mode: str = "DCR") -> Any:
    """Blocks of space of x [N, C, H, W] laid out in channels: the inverse of DepthToSpace."""
    n, c, h, w = x.shape
    b = blocksize
    if h % b or w % b:
        raise Refusal(f"{h} x {w} cells do not divide into blocks of {b} x {b}")
    if mode not in ("DCR", "CRD"):
        raise Refusal(f"mode {mode!r} is not one of DCR, CRD")
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).transpose(order).reshape(n, c * b * b, h // b, w // b)
