"""Tensors made from attributes and shapes rather than from data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from naflow_core.errors import Refusal
from naflow_core.ops.array import check_growth, integers, is_known, normalise_axis, scalar
from naflow_core.ops.registry import register


def _as_carried(value: np.ndarray) -> np.ndarray:
    """Floats of every width are carried as float32, everything else as it is."""
    return value.astype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value


@register("Constant")
def constant(
    *,
    value: np.ndarray | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> np.ndarray:
    """The tensor in whichever attribute is given."""
    if value is not None:
        return _as_carried(np.asarray(value))
    for number in (value_float, value_floats):
        if number is not None:
            return np.array(number, np.float32)
    for number in (value_int, value_ints):
        if number is not None:
            return np.array(number, np.int64)
    raise Refusal("the node carries no numeric value")


@register("ConstantOfShape", since=9, static=(0,))
def constant_of_shape(shape: Any, *, value: np.ndarray | None = None) -> np.ndarray:
    """A tensor of that shape, filled with one value (float32 0 by default)."""
    fill = np.zeros((), np.float32) if value is None else _as_carried(np.asarray(value)).reshape(-1)[0]
    lengths = integers(shape)
    check_growth(lengths, fill.dtype)
    filled: np.ndarray = np.full(lengths, fill, fill.dtype)
    return filled


@register("Range", since=11, static=(0, 1, 2))
def range_(start: Any, limit: Any, delta: Any, *, stash_type: int = 1) -> np.ndarray:
    """start, start + delta, ... up to but without limit."""
    first, last, step = scalar(start, "start"), scalar(limit, "limit"), scalar(delta, "delta")
    if step == 0:
        raise Refusal("the step is 0")
    count = max(math.ceil((last - first) / step), 0)
    dtype = np.asarray(start).dtype
    check_growth((count,), dtype)
    steps: np.ndarray = (first + np.arange(count) * step).astype(dtype)
    return steps


@register("OneHot", since=11, static=(1, 2))
def one_hot(indices: Any, depth: Any, values: Any, *, axis: int = -1) -> Any:
    """values[1] where a new axis of length `depth` equals the index, values[0] elsewhere."""
    length = int(scalar(depth, "depth"))
    off, on = np.asarray(values)
    rank = np.ndim(indices) + 1
    axis = normalise_axis(axis, rank)
    shape = (*np.shape(indices)[:axis], length, *np.shape(indices)[axis:])
    check_growth(shape, values.dtype)
    positions = np.arange(length).reshape([-1 if a == axis else 1 for a in range(rank)])
    if is_known(indices):
        wrapped = np.where(indices < 0, indices + length, indices)
        return np.where(np.expand_dims(wrapped, axis) == positions, on, off)
    wrapped = jnp.where(indices < 0, indices + length, indices).astype(jnp.int32)
    return jnp.where(
        jnp.expand_dims(wrapped, axis) == jnp.asarray(positions), jnp.asarray(on), jnp.asarray(off)
    )


@register("EyeLike", since=9)
def eye_like(x: Any, *, dtype: int | None = None, k: int = 0) -> np.ndarray:
    """A matrix of x's shape with ones on the k-th diagonal; known even where x is not."""
    if np.ndim(x) != 2:
        raise Refusal(f"EyeLike needs a matrix, got shape {tuple(np.shape(x))}")
    check_growth(x.shape, np.float32)
    kind = np.dtype(x.dtype) if dtype is None else np.dtype(tensor_dtype_to_np_dtype(dtype))
    return _as_carried(np.eye(int(x.shape[0]), int(x.shape[1]), k=k).astype(kind))
