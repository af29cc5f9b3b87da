"""The sliding window that pools and convolutions share: its geometry, its taps and their adjoint.

Arrays here have their spatial axes at `first, first + 1, ...` (2 for channels-first, 1 for
channels-last layouts). Offsets count through the kernel in row-major order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from naflow_core.errors import Refusal


@dataclass(frozen=True, slots=True)
class WindowGeometry:
    """How a window slides over the spatial axes; every tuple has one entry per axis.

    Attributes:
        kernel, strides, dilations: as in ONNX, filled in where the node leaves them out.
        pads_lo, pads_hi: cells of padding before and after, auto_pad resolved.
        overhang: cells beyond `pads_hi` that the last window reaches into under ceil_mode; unlike
            padding they never count in an average.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_lo: tuple[int, ...]
    pads_hi: tuple[int, ...]
    overhang: tuple[int, ...]

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        *,
        kernel_shape: Sequence[int],
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        **_others: Any,
    ) -> WindowGeometry:
        """The geometry that a node's attributes mean for an input of that shape [N, C, spatial...].

        Attributes that do not bear on the geometry (count_include_pad, storage_order, group) are ignored.

        Raises:
            Refusal: attributes of the wrong length or sign, or a window larger than the padded input.
        """
        spatial = tuple(shape[2:])
        rank = len(spatial)
        kernel = _per_axis("kernel_shape", kernel_shape, rank)
        steps = _per_axis("strides", strides or (1,) * rank, rank)
        gaps = _per_axis("dilations", dilations or (1,) * rank, rank)
        reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True))
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            total = [
                max((-(-n // s) - 1) * s + e - n, 0) for n, s, e in zip(spatial, steps, reach, strict=True)
            ]
            less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
            low, high = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
        elif auto_pad == "VALID":
            low = high = (0,) * rank
        elif auto_pad in ("NOTSET", ""):
            low, high = split_pads(pads, rank)
        else:
            raise Refusal(f"auto_pad {auto_pad!r} is not one of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
        over = []
        for n, s, e, lo, hi in zip(spatial, steps, reach, low, high, strict=True):
            room = n + lo + hi - e
            if room < 0:
                raise Refusal(f"a window of {e} cells does not fit an axis of {n} with padding {lo} and {hi}")
            extra = -room % s if ceil_mode else 0
            # A last window that would start in the padding at the far end is dropped.
            if extra and room + extra >= n + lo:
                extra = 0
            over.append(extra)
        return cls(kernel, steps, gaps, low, high, tuple(over))

    @property
    def reach(self) -> tuple[int, ...]:
        """Cells from the first to the last tap of one window, both included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def output_shape(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Number of windows per axis over an input of that spatial shape."""
        sizes = zip(spatial, self.pads_lo, self.pads_hi, self.overhang, self.reach, self.strides, strict=True)
        return tuple((n + lo + hi + over - e) // s + 1 for n, lo, hi, over, e, s in sizes)

    def offsets(self) -> Iterator[tuple[int, ...]]:
        """Position of each tap relative to its window's first one, dilations applied."""
        return product(*(range(0, k * d, d) for k, d in zip(self.kernel, self.dilations, strict=True)))


def _per_axis(name: str, values: Sequence[int], rank: int) -> tuple[int, ...]:
    if len(values) != rank:
        raise Refusal(f"{name} has {len(values)} entries for {rank} spatial axes")
    if min(values, default=1) < 1:
        raise Refusal(f"{name} {tuple(values)} must be positive")
    return tuple(int(v) for v in values)


def split_pads(pads: Sequence[int] | None, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """ONNX's (begin..., end...) list as two tuples; missing means none.

    Raises:
        Refusal: wrong length or a negative entry.
    """
    pads = tuple(int(p) for p in pads) if pads else (0,) * (2 * rank)
    if len(pads) != 2 * rank:
        raise Refusal(f"pads has {len(pads)} entries for {rank} spatial axes")
    if min(pads, default=0) < 0:
        raise Refusal(f"negative pads {pads} are not implemented for windows")
    return pads[:rank], pads[rank:]


def pad_spatial(x: jax.Array, low: Sequence[int], high: Sequence[int], value: float, first: int) -> jax.Array:
    """x padded (or, where negative, cropped) on its spatial axes."""
    config = [(0, 0, 0)] * x.ndim
    for axis, (lo, hi) in enumerate(zip(low, high, strict=True), start=first):
        config[axis] = (lo, hi, 0)
    if not any(lo or hi for lo, hi, _ in config):
        return x
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def taps(
    x: jax.Array, geometry: WindowGeometry, output: Sequence[int], fill: float, first: int
) -> Iterator[jax.Array]:
    """For each kernel offset, the value every window sees there: arrays with the output's spatial shape."""
    spatial = x.shape[first : first + len(output)]
    sizes = zip(output, geometry.strides, geometry.reach, spatial, geometry.pads_lo, strict=True)
    high = [(m - 1) * s + e - n - lo for m, s, e, n, lo in sizes]
    padded = pad_spatial(x, geometry.pads_lo, high, fill, first)
    for offset in geometry.offsets():
        start, limit, step = [0] * x.ndim, list(padded.shape), [1] * x.ndim
        for axis, (o, m, s) in enumerate(zip(offset, output, geometry.strides, strict=True), start=first):
            start[axis], limit[axis], step[axis] = o, o + (m - 1) * s + 1, s
        yield lax.slice(padded, start, limit, step)


def gather_from_windows(
    arrays: Sequence[jax.Array],
    fills: Sequence[float],
    combine: Callable[..., jax.Array],
    geometry: WindowGeometry,
    spatial: Sequence[int],
    first: int,
) -> jax.Array:
    """The adjoint of `taps`: for each input cell, the sum over the windows that see it.

    `arrays` have the output's spatial shape; `combine(o, *values)` gives what a window with those
    values sends to the cell it sees at kernel offset number `o`. Only gathers are used: cells are
    split by their remainder modulo the stride, so no work is spent on zeros between strides.
    """
    rank = len(spatial)
    output = arrays[0].shape[first : first + rank]
    lows, highs, shifts, counts = [], [], [], []
    axes = zip(spatial, output, geometry.strides, geometry.reach, geometry.pads_lo, strict=True)
    for n, m, s, e, lo in axes:
        farthest = (e - 1) // s
        first_group, last_group = lo // s, (lo + n - 1) // s
        lows.append(farthest - first_group)
        highs.append(last_group - (m - 1))
        shifts.append(farthest)
        counts.append(last_group - first_group + 1)
    padded = [pad_spatial(a, lows, highs, fill, first) for a, fill in zip(arrays, fills, strict=True)]
    phases: dict[tuple[int, ...], jax.Array] = {}
    for number, offset in enumerate(geometry.offsets()):
        remainder = tuple(o % s for o, s in zip(offset, geometry.strides, strict=True))
        seen = []
        for a in padded:
            start, limit = [0] * a.ndim, list(a.shape)
            for axis in range(rank):
                start[first + axis] = shifts[axis] - offset[axis] // geometry.strides[axis]
                limit[first + axis] = start[first + axis] + counts[axis]
            seen.append(lax.slice(a, start, limit))
        term = combine(number, *seen)
        phases[remainder] = phases[remainder] + term if remainder in phases else term
    return _interleave(phases, geometry, spatial, first)


def _interleave(
    phases: dict[tuple[int, ...], jax.Array], geometry: WindowGeometry, spatial: Sequence[int], first: int
) -> jax.Array:
    some = next(iter(phases.values()))
    rank, strides = len(spatial), geometry.strides
    if max(strides) > 1:
        empty = jnp.zeros_like(some)
        stack = jnp.stack([phases.get(r, empty) for r in product(*(range(s) for s in strides))])
        stack = stack.reshape(strides + some.shape)
        order = [rank + a for a in range(first)]
        for axis in range(rank):
            order += [rank + first + axis, axis]
        order += list(range(rank + first + rank, rank + some.ndim))
        grouped = some.shape[first : first + rank]
        merged = tuple(c * s for c, s in zip(grouped, strides, strict=True))
        some = stack.transpose(order).reshape(some.shape[:first] + merged + some.shape[first + rank :])
    start, limit = [0] * some.ndim, list(some.shape)
    for axis, (n, s, lo) in enumerate(zip(spatial, strides, geometry.pads_lo, strict=True), start=first):
        start[axis] = lo % s
        limit[axis] = start[axis] + n
    return lax.slice(some, start, limit)
