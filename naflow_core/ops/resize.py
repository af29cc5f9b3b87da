"""Resize: separable interpolation, one small known matrix per axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops.array import check_growth, integers, is_known, namespace, normalise_axes
from naflow_core.ops.registry import REALS, Interval, register

_F = np.float32


def _half_pixel(x: np.ndarray, scale: np.float32, source: int, target: int) -> np.ndarray:
    return (x + _F(0.5)) / scale - _F(0.5)


def _half_pixel_symmetric(x: np.ndarray, scale: np.float32, source: int, target: int) -> np.ndarray:
    centre = _F(source) / 2
    return centre * (1 - _F(target) / (scale * _F(source))) + _half_pixel(x, scale, source, target)


def _pytorch_half_pixel(x: np.ndarray, scale: np.float32, source: int, target: int) -> np.ndarray:
    return _half_pixel(x, scale, source, target) if target > 1 else np.zeros_like(x)


def _align_corners(x: np.ndarray, scale: np.float32, source: int, target: int) -> np.ndarray:
    return x * _F(source - 1) / _F(target - 1) if target > 1 else np.zeros_like(x)


def _asymmetric(x: np.ndarray, scale: np.float32, source: int, target: int) -> np.ndarray:
    return x / scale


# From a cell of the result to a position in the source; float32 as in onnxruntime, because the choice
# of the nearest cell hangs on the last bit.
_COORDINATES: dict[str, Callable[[np.ndarray, np.float32, int, int], np.ndarray]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
}

_CROP = "tf_crop_and_resize"


def _cropped(x: np.ndarray, source: int, start: np.float32, end: np.float32) -> np.ndarray:
    """From the first to the last cell of the region that runs from `start` to `end` as shares of the axis."""
    if len(x) < 2:
        return np.full_like(x, (start + end) * _F(source - 1) / 2)
    return start * _F(source - 1) + x * ((end - start) * _F(source - 1) / _F(len(x) - 1))


def _region(roi: Any, count: int) -> list[tuple[np.float32, np.float32]]:
    bounds = np.zeros(0, np.float32) if roi is None else np.asarray(roi, np.float32).reshape(-1)
    if len(bounds) != 2 * count:
        raise Refusal(f"roi has {len(bounds)} entries for {count} axes")
    return list(zip(bounds[:count], bounds[count:], strict=True))


_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - _F(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + _F(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _weights(positions: np.ndarray, source: int, mode: str, a: float, exclude_outside: int) -> np.ndarray:
    """Interpolation matrix [target, source] for the linear and cubic modes."""
    base = np.floor(positions)
    part = (positions - base).astype(np.float64)
    offsets: tuple[int, ...]
    values: tuple[np.ndarray, ...]
    if mode == "linear":
        offsets, values = (0, 1), (1 - part, part)
    else:
        far, near = part + 1, 2 - part
        offsets = (-1, 0, 1, 2)
        values = (
            ((a * far - 5 * a) * far + 8 * a) * far - 4 * a,
            ((a + 2) * part - (a + 3)) * part * part + 1,
            ((a + 2) * (1 - part) - (a + 3)) * (1 - part) ** 2 + 1,
            ((a * near - 5 * a) * near + 8 * a) * near - 4 * a,
        )
    matrix = np.zeros((len(positions), source))
    for offset, value in zip(offsets, values, strict=True):
        cell = base.astype(np.int64) + offset
        kept = np.where((cell < 0) | (cell >= source), 0.0, value) if exclude_outside else value
        np.add.at(matrix, (np.arange(len(positions)), np.clip(cell, 0, source - 1)), kept)
    if exclude_outside:
        matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix.astype(np.float32)


def _antialiased(
    positions: np.ndarray, source: int, mode: str, a: float, exclude_outside: int, scale: float
) -> np.ndarray:
    """Interpolation matrix [target, source] for making an axis smaller by `scale` < 1: the kernel is as much
    wider, so that every cell of the source counts."""
    reach = (1 if mode == "linear" else 2) / scale
    margin = math.ceil(reach)
    cells = np.arange(-margin, source + margin)
    away = np.abs(cells - positions[:, None].astype(np.float64)) * scale
    if mode == "linear":
        weights = np.maximum(1 - away, 0.0)
    else:
        near = ((a + 2) * away - (a + 3)) * away * away + 1
        far = ((a * away - 5 * a) * away + 8 * a) * away - 4 * a
        weights = np.where(away <= 1, near, np.where(away < 2, far, 0.0))
    if exclude_outside:
        weights[:, (cells < 0) | (cells >= source)] = 0.0
    matrix = np.zeros((len(positions), source))
    np.add.at(matrix.T, np.clip(cells, 0, source - 1), weights.T)
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)


def _pick(x: Any, cells: np.ndarray, axis: int) -> Any:
    """x at the given cells of one axis; whole multiples become a repetition, which transposes to a sum."""
    factor, rest = divmod(len(cells), x.shape[axis])
    if rest == 0 and np.array_equal(cells, np.arange(len(cells)) // factor):
        return namespace(x).repeat(x, factor, axis=axis)
    if is_known(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return namespace(x).take(x, cells, axis=axis)
    return _mix(x, np.eye(x.shape[axis], dtype=np.float32)[cells], axis)


def _mix(x: Any, matrix: np.ndarray, axis: int) -> Any:
    """The matrix applied along one axis."""
    xp = namespace(x)
    last = xp.moveaxis(x, axis, -1)
    if xp is np:
        mixed = np.matmul(last, matrix.T).astype(x.dtype)
    else:
        mixed = jnp.tensordot(last, jnp.asarray(matrix), axes=((-1,), (1,)), precision=lax.Precision.HIGHEST)
    return xp.moveaxis(mixed, -1, axis)


def _targets(
    shape: Sequence[int], axes: tuple[int, ...], scales: Any, sizes: Any, policy: str
) -> list[tuple[int, np.float32]]:
    """Per resized axis, its new length and the scale that the coordinates use."""
    lengths = [shape[a] for a in axes]
    if scales is not None and np.size(scales):
        factors = np.asarray(scales, np.float32).reshape(-1)
        if len(factors) != len(axes):
            raise Refusal(f"{len(factors)} scales are given for {len(axes)} axes")
        return [(math.floor(n * float(f)), f) for n, f in zip(lengths, factors, strict=True)]
    if sizes is None or not np.size(sizes):
        raise Refusal("neither scales nor sizes is given")
    wanted = integers(sizes)
    if len(wanted) != len(axes):
        raise Refusal(f"{len(wanted)} sizes are given for {len(axes)} axes")
    ratios = [_F(w) / _F(n) for w, n in zip(wanted, lengths, strict=True)]
    if policy == "stretch":
        return list(zip(wanted, ratios, strict=True))
    if policy not in ("not_larger", "not_smaller"):
        raise Refusal(f"keep_aspect_ratio_policy {policy!r} is not one of stretch, not_larger, not_smaller")
    common = min(ratios) if policy == "not_larger" else max(ratios)
    return [(math.floor(float(common) * n + 0.5), common) for n in lengths]


def _range(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    if attributes.get("mode") == "cubic":
        return REALS
    if attributes.get("coordinate_transformation_mode") != _CROP:
        return inputs[0]
    outside = float(attributes.get("extrapolation_value", 0.0))
    return min(inputs[0][0], outside), max(inputs[0][1], outside)


@register("Resize", since=11, static=(1, 2, 3), value_range=_range)
def resize(
    x: Any,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Any:
    """x interpolated to other lengths along the given axes (all by default).

    `roi` counts for tf_crop_and_resize only, where cells from outside of x are `extrapolation_value`.
    """
    coordinates = _COORDINATES.get(coordinate_transformation_mode)
    if coordinates is None and coordinate_transformation_mode != _CROP:
        raise Refusal(
            f"coordinate_transformation_mode {coordinate_transformation_mode!r} is not one of "
            + ", ".join((*_COORDINATES, _CROP))
        )
    if mode not in ("nearest", "linear", "cubic"):
        raise Refusal(f"mode {mode!r} is not one of nearest, linear, cubic")
    if mode == "nearest" and nearest_mode not in _NEAREST:
        raise Refusal(f"nearest_mode {nearest_mode!r} is not one of {', '.join(_NEAREST)}")
    chosen = normalise_axes(axes, len(x.shape)) if axes is not None else tuple(range(len(x.shape)))
    plan = _targets(x.shape, chosen, scales, sizes, keep_aspect_ratio_policy)
    result = list(x.shape)
    for axis, (target, _) in zip(chosen, plan, strict=True):
        result[axis] = target
    check_growth(result, x.dtype)
    region = [] if coordinates else _region(roi, len(chosen))
    outside = np.zeros((1,) * len(x.shape), bool)
    for number, (axis, (target, scale)) in enumerate(zip(chosen, plan, strict=True)):
        source, place = x.shape[axis], np.arange(target, dtype=np.float32)
        if coordinates is None:
            positions = _cropped(place, source, *region[number])
            beyond = (positions < 0) | (positions > source - 1)
            outside = outside | beyond.reshape([-1 if a == axis else 1 for a in range(len(x.shape))])
        elif target == source and scale == 1:
            continue
        else:
            positions = coordinates(place, scale, source, target)
        if mode == "nearest":
            cells = np.clip(_NEAREST[nearest_mode](positions), 0, source - 1).astype(np.int64)
            x = _pick(x, cells, axis)
        elif antialias and scale < 1:
            matrix = _antialiased(positions, source, mode, cubic_coeff_a, exclude_outside, float(scale))
            x = _mix(x, matrix, axis)
        else:
            x = _mix(x, _weights(positions, source, mode, cubic_coeff_a, exclude_outside), axis)
    if outside.any():
        xp = namespace(x)
        x = xp.where(outside, xp.asarray(extrapolation_value, x.dtype), x)
    return x
