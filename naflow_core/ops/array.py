"""Which array module to compute with, and small helpers shared by the operator families."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from naflow_core.errors import Refusal

fold_limit_bytes: ContextVar[int] = ContextVar("fold_limit_bytes", default=1 << 30)
"""Most bytes one operator may make out of small inputs; set it around loading to allow more or less."""


def is_known(*arrays: Any) -> bool:
    """True if every array (None ignored) is known when the program is built."""
    return all(a is None or isinstance(a, np.ndarray | np.generic) for a in arrays)


def namespace(*arrays: Any) -> ModuleType:
    """numpy if every array is known when the program is built, else jax.numpy."""
    return np if is_known(*arrays) else jnp


def normalise_axis(axis: int, rank: int) -> int:
    """A negative ONNX axis counted from the end.

    Raises:
        Refusal: the axis lies outside the rank.
    """
    if not -rank <= axis < rank:
        raise Refusal(f"axis {axis} lies outside a tensor of rank {rank}")
    return axis + rank if axis < 0 else axis


def normalise_axes(axes: Any, rank: int) -> tuple[int, ...]:
    """Several axes (numpy array or sequence) counted from the start; repeated ones are refused."""
    found = tuple(normalise_axis(int(axis), rank) for axis in np.asarray(axes).reshape(-1))
    if len(set(found)) != len(found):
        raise Refusal(f"axes {tuple(int(a) for a in np.asarray(axes).reshape(-1))} name one axis twice")
    return found


def integers(values: Any) -> tuple[int, ...]:
    """A known 1-D (or scalar) integer tensor as a tuple of python ints."""
    return tuple(int(v) for v in np.asarray(values).reshape(-1))


def scalar(value: Any, name: str) -> Any:
    """The single element of a known tensor.

    Raises:
        Refusal: it holds more than one element.
    """
    array = np.asarray(value)
    if array.size != 1:
        raise Refusal(f"{name} must be a scalar, it has shape {array.shape}")
    return array.reshape(()).item()


def check_growth(shape: Sequence[int], dtype: Any) -> None:
    """Refuse a result larger than `fold_limit_bytes` before any memory is taken for it."""
    size = math.prod(int(n) for n in shape) * np.dtype(dtype).itemsize
    limit = fold_limit_bytes.get()
    if size > limit:
        raise Refusal(f"its result of shape {tuple(shape)} would take {size} bytes, the limit is {limit}")


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The ONNX (numpy) broadcast of the shapes.

    Raises:
        Refusal: the shapes do not fit together.
    """
    try:
        return np.broadcast_shapes(*(tuple(s) for s in shapes))
    except ValueError:
        raise Refusal(f"shapes {', '.join(str(tuple(s)) for s in shapes)} do not broadcast") from None


def aligned(*arrays: Any) -> list[Any]:
    """The operands of one broadcasting operator: same module, same rank, same element type.

    ONNX wants equal element types; they only differ here where a float64 or int64 tensor has become
    float32 or int32 on the device. Ranks are made equal so that strict rank promotion stays usable.
    """
    shape = broadcast_shapes(*(np.shape(a) for a in arrays))
    if is_known(*arrays):
        check_growth(shape, np.result_type(*arrays))
        return [np.asarray(a) for a in arrays]
    dtype: Any = jnp.result_type(*(jnp.asarray(a).dtype for a in arrays))
    if jnp.issubdtype(dtype, jnp.inexact):
        wide = any(not is_known(a) and a.dtype == np.float64 for a in arrays)  # a reference to measure by
        dtype = jnp.float64 if wide else jnp.float32
    check_growth(shape, dtype)
    rank = len(shape)
    return [jnp.asarray(a).astype(dtype).reshape((1,) * (rank - np.ndim(a)) + np.shape(a)) for a in arrays]


def along_channels(values: Any, rank: int, axis: int = 1) -> Any:
    """A vector reshaped so that it broadcasts along `axis` of a tensor of that rank."""
    shape = [1] * rank
    shape[axis] = -1
    return namespace(values).reshape(values, tuple(shape))
