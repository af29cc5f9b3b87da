"""TensorProto to numpy, checked against the bytes that are really there before anything is allocated."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto

from naflow_core.errors import ModelError
from naflow_core.model.source import Limits
from naflow_core.model.wire import Detached

ALIGNMENT = 64
"""Of buffers that JAX takes without a copy, in bytes."""
_MAX_RANK = 32
_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True, slots=True)
class _Element:
    """How one ONNX element type is stored: little-endian dtype and the typed field it may be in."""

    dtype: str
    field: str


_ELEMENTS: dict[int, _Element] = {
    TensorProto.FLOAT: _Element("<f4", "float_data"),
    TensorProto.DOUBLE: _Element("<f8", "double_data"),
    TensorProto.FLOAT16: _Element("<f2", "int32_data"),
    TensorProto.BFLOAT16: _Element("<u2", "int32_data"),
    TensorProto.BOOL: _Element("<u1", "int32_data"),
    TensorProto.UINT8: _Element("<u1", "int32_data"),
    TensorProto.INT8: _Element("<i1", "int32_data"),
    TensorProto.UINT16: _Element("<u2", "int32_data"),
    TensorProto.INT16: _Element("<i2", "int32_data"),
    TensorProto.INT32: _Element("<i4", "int32_data"),
    TensorProto.UINT32: _Element("<u4", "uint64_data"),
    TensorProto.INT64: _Element("<i8", "int64_data"),
    TensorProto.UINT64: _Element("<u8", "uint64_data"),
}
WIDENED = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))
"""Element types that are computed in float32."""


def dtype_name(data_type: int) -> str:
    """ONNX's lower-case name of an element type, e.g. "float"; "type 99" for an unknown number."""
    try:
        return str(TensorProto.DataType.Name(data_type)).lower()
    except ValueError:
        return f"type {data_type}"


class TensorReader:
    """Reads the tensors of one model file and keeps count of what they cost.

    Args:
        file, detached: the model file and what was taken out of it.
        folder: where external data may lie; None for a model that is not a file.
    """

    def __init__(self, file: BinaryIO, detached: Detached, folder: Path | None, limits: Limits) -> None:
        self._file = file
        self._detached = detached
        self._folder = folder
        self._limits = limits
        self._total = 0

    def is_large(self, tensor: onnx.TensorProto) -> bool:
        """True if the values are not in the parsed message: taken out, or in an external file."""
        return self._detached.find(tensor) is not None or _is_external(tensor)

    def read(self, tensor: onnx.TensorProto, label: str) -> np.ndarray:
        """The values as a read-only array; float16, bfloat16 and float64 become float32.

        Args:
            label: how messages call it, e.g. "initializer 'w'".

        Raises:
            ModelError: unsupported type, dims that do not fit the data, external data outside the folder
                or too short, or over a limit.
        """
        element, shape = self._check(tensor, label)
        count = math.prod(shape)
        payload = self._detached.find(tensor)
        if _is_external(tensor):
            values = self._read_external(tensor, element, count, label)
        elif payload is not None:
            if payload.typed and element.field != "float_data":
                raise ModelError(f"{label} has float_data but is of type {dtype_name(tensor.data_type)}")
            if any(len(getattr(tensor, field)) for field in _TYPED_FIELDS):
                raise ModelError(f"{label} has its values twice")
            _check_length(label, shape, element, payload.length)
            values = _read_exact(self._file, payload.offset, count, element.dtype, label)
        else:
            values = _read_inside(tensor, element, count, label)
        array = _computed(values, tensor.data_type).reshape(shape)
        array.flags.writeable = False
        return array

    def _check(self, tensor: onnx.TensorProto, label: str) -> tuple[_Element, tuple[int, ...]]:
        element = _ELEMENTS.get(tensor.data_type)
        if element is None:
            raise ModelError(
                f"{label} is of type {dtype_name(tensor.data_type)}, which is not supported",
                hint="supported: float, float16, bfloat16, double, bool and integers of 8 to 64 bits",
            )
        if tensor.HasField("segment"):
            raise ModelError(f"{label} is stored in segments, which is not supported")
        shape = tuple(tensor.dims)
        if any(size < 0 for size in shape):
            raise ModelError(f"{label} has a negative dimension: {list(shape)}")
        if len(shape) > _MAX_RANK:
            raise ModelError(f"{label} has {len(shape)} dimensions, at most {_MAX_RANK} are supported")
        limits = self._limits
        width = 4 if tensor.data_type in WIDENED else np.dtype(element.dtype).itemsize
        cost = math.prod(shape) * width
        if cost > limits.tensor_bytes:
            raise ModelError(
                f"{label} with dims {list(shape)} needs {cost} bytes, over the limit {limits.tensor_bytes}",
                hint="raise Limits.tensor_bytes if the model is trusted",
            )
        self._total += cost
        if self._total > limits.total_bytes:
            raise ModelError(
                f"the constants up to {label} need {self._total} bytes, over the limit {limits.total_bytes}",
                hint="raise Limits.total_bytes if the model is trusted",
            )
        return element, shape

    def _read_external(
        self, tensor: onnx.TensorProto, element: _Element, count: int, label: str
    ) -> np.ndarray:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if self._folder is None:
            raise ModelError(
                f"{label} has its data in an external file ({location!r})",
                hint="only a model loaded from a path can have that: pass its path, or save it in one file",
            )
        path = _inside(self._folder, location, label)
        offset = _count(entries.get("offset", "0"), "offset", label)
        expected = count * np.dtype(element.dtype).itemsize
        length = _count(entries["length"], "length", label) if "length" in entries else expected
        if length != expected:
            raise ModelError(
                f"{label} with dims {list(tensor.dims)} needs {expected} bytes, its external length is"
                f" {length}"
            )
        try:
            size = path.stat().st_size
            if offset + expected > size:
                raise ModelError(
                    f"{label} needs bytes {offset} to {offset + expected} of {location!r}, which has {size}",
                    hint="the external data file is cut off or belongs to another model",
                )
            with path.open("rb") as file:
                return _read_exact(file, offset, count, element.dtype, label)
        except OSError as error:
            reason = error.strerror or error
            raise ModelError(f"{label}: external data {location!r} cannot be read: {reason}") from None


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _inside(folder: Path, location: str, label: str) -> Path:
    """The external file's real path, which must be a regular file inside the model's folder."""
    if not location:
        raise ModelError(f"{label} has external data without a location")
    try:
        path = Path(os.path.realpath(folder / location, strict=True))
    except FileNotFoundError:
        raise ModelError(
            f"{label}: external data file {location!r} does not exist",
            hint="keep it beside the model, under the name it was exported with",
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"{label}: external data location {location[:80]!r} is not usable: {reason}"
        ) from None
    if Path(location).is_absolute() or not path.is_relative_to(os.path.realpath(folder)):
        raise ModelError(
            f"{label}: external data location {location!r} leads out of the model's folder",
            hint="put the data file itself (not a link to it) beside the model",
        )
    if not path.is_file():
        raise ModelError(f"{label}: external data {location!r} is not a regular file")
    return path


def _count(text: str, what: str, label: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"{label} has a bad external {what}: {text[:40]!r}")
    return int(text)


def _check_length(label: str, shape: tuple[int, ...], element: _Element, length: int) -> None:
    expected = math.prod(shape) * np.dtype(element.dtype).itemsize
    if length != expected:
        raise ModelError(f"{label} with dims {list(shape)} needs {expected} bytes, the file has {length}")


def _read_exact(file: BinaryIO, offset: int, count: int, dtype: str, label: str) -> np.ndarray:
    values = _aligned(count, np.dtype(dtype))
    view = values.view(np.uint8).data
    file.seek(offset)
    done = 0
    while done < len(view):
        step = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not step:
            raise ModelError(f"{label}: the file ended while it was read")
        done += step
    values.flags.writeable = False  # programs read it where it lies
    return values


def _aligned(count: int, dtype: np.dtype[Any]) -> np.ndarray:
    """An array that JAX can use on a CPU as it lies, without a copy."""
    length = count * dtype.itemsize
    room = np.empty(length + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    return room[begin : begin + length].view(dtype)


def _read_inside(tensor: onnx.TensorProto, element: _Element, count: int, label: str) -> np.ndarray:
    """Values that are in the parsed message: raw_data or the typed field of this type."""
    shape = tuple(tensor.dims)
    present = [field for field in _TYPED_FIELDS if len(getattr(tensor, field))]
    raw = tensor.raw_data
    if raw:
        if present:
            raise ModelError(f"{label} has values in raw_data and in {present[0]}")
        _check_length(label, shape, element, len(raw))
        return np.frombuffer(raw, element.dtype)
    if present and present != [element.field]:
        kind = dtype_name(tensor.data_type)
        raise ModelError(f"{label} of type {kind} has values in {' and '.join(present)}")
    field = getattr(tensor, element.field)
    if len(field) != count:
        raise ModelError(f"{label} with dims {list(shape)} needs {count} values, the file has {len(field)}")
    if element.field == "int32_data":
        wide = np.fromiter(field, np.int64, count)
        storage = np.dtype("<u2") if element.dtype == "<f2" else np.dtype(element.dtype)
        bounds = np.iinfo(storage)
        if count and (wide.min() < bounds.min or wide.max() > bounds.max):
            raise ModelError(f"{label} has values outside {dtype_name(tensor.data_type)}")
        return wide.astype(storage).view(element.dtype)
    if element.dtype == "<u4":
        unsigned = np.fromiter(field, np.uint64, count)
        if count and unsigned.max() > np.iinfo(np.uint32).max:
            raise ModelError(f"{label} has values outside uint32")
        return unsigned.astype(element.dtype)
    return np.fromiter(field, element.dtype, count)


def _computed(values: np.ndarray, data_type: int) -> np.ndarray:
    """Stored values as the program computes with them, in the machine's byte order."""
    if data_type == TensorProto.BFLOAT16:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if data_type == TensorProto.BOOL:
        return values.astype(np.bool_)
    if data_type in WIDENED:
        # A float64 beyond float32's range becomes an infinity, as any float32 runtime has it.
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
