"""Tensors of messages to arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from naflow.v1 import tensor_pb2 as te
from naflow_server.convert.tables import DTYPES, refuse


def array(tensor: te.Tensor, field: str) -> np.ndarray:
    """The array of a tensor; it shares the message's memory and is read-only.

    Raises:
        EngineError: INVALID_ARGUMENT for an unknown type, an impossible shape, or bytes that do not fit.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        refuse(f"{field}.dtype", f"{tensor.dtype} is not an element type", "see DataType")
    shape = tuple(tensor.shape)
    if len(shape) > 32 or any(n < 1 for n in shape):
        refuse(f"{field}.shape", f"{short(shape)} is not a shape", "sizes must be at least 1")
    expected = math.prod(shape) * dtype.itemsize
    data = tensor.data
    if len(data) != expected:
        refuse(
            f"{field}.data",
            f"has {len(data)} bytes, shape {short(shape)} of {dtype.name} takes {_count(expected)}",
        )
    values = np.frombuffer(data, np.uint8 if dtype == np.bool_ else dtype)
    if dtype == np.bool_:
        if values.size and values.max() > 1:
            refuse(f"{field}.data", "a boolean is neither 0 nor 1")
        values = values.view(np.bool_)
    return values.astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def short(shape: Sequence[int]) -> str:
    """A shape for a message, however long or large it is."""
    head = ", ".join(_count(n) for n in shape[:8])
    return f"[{head}{', ...' if len(shape) > 8 else ''}]"


def _count(number: int) -> str:
    return str(number) if abs(number) < 10**18 else "over 10^18"
