"""Takes the weights out of an ONNX file before it is parsed, and puts weights into serialised models.

Parsing a model as it is would hold every weight in protobuf's arena next to the array made from it.
Here the protobuf wire format is walked, every large payload is replaced by a short token, and only the
small rest is parsed; payloads are then read straight into their arrays.
Format: https://protobuf.dev/programming-guides/encoding/ ; field numbers: onnx.proto.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import onnx

from naflow_core.errors import ModelError
from naflow_core.model.source import Limits

DETACH_BYTES = 4096
"""Payloads from this size on are taken out."""

_VARINT, _FIXED64, _LEN, _FIXED32 = 0, 1, 2, 5
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR = range(5)
_CHILDREN: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR},
    _TENSOR: {},
}
_FLOAT_DATA, _RAW_DATA = 4, 9
_DATA_FIELDS = frozenset((4, 5, 6, 7, 10, 11, _RAW_DATA))
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER = 7, 1, 5


class WireError(Exception):
    """The bytes are not a protobuf message; the text says at which offset and why."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Tensor bytes left in the file: little-endian, `length` bytes from `offset`. `typed` if they were
    float_data (float32 whatever the storage type), else raw_data."""

    offset: int
    length: int
    typed: bool


@dataclass(frozen=True, slots=True)
class Detached:
    """A model file without its large payloads.

    Attributes:
        light: serialised ModelProto with a token in raw_data where a payload was.
        payloads: in the order they were met.
    """

    light: bytes
    payloads: tuple[Payload, ...]
    token: bytes

    def find(self, tensor: onnx.TensorProto) -> Payload | None:
        """The payload that was taken out of this tensor, or None."""
        if not self.payloads or not tensor.HasField("raw_data"):
            return None
        raw: bytes = tensor.raw_data
        if len(raw) != len(self.token) + 4 or not raw.startswith(self.token):
            return None
        return self.payloads[int.from_bytes(raw[-4:], "little")]


def detach(file: BinaryIO, size: int, limits: Limits) -> Detached:
    """Walk the file and take the large payloads out.

    Raises:
        WireError: the bytes are cut off or not in the wire format.
        ModelError: more nodes or structure than `limits` allow.
    """
    # A random token cannot be forged by a file to make one tensor read another's bytes.
    walker = _Walker(file, limits, os.urandom(16))
    file.seek(0)
    light = b"".join(walker.copy(size, _MODEL))
    return Detached(light, tuple(walker.payloads), walker.token)


class _Walker:
    def __init__(self, file: BinaryIO, limits: Limits, token: bytes) -> None:
        self.file = file
        self.limits = limits
        self.token = token
        self.payloads: list[Payload] = []
        self.position = 0
        self.copied = 0
        self.entries = 0

    def copy(self, end: int, kind: int) -> list[bytes]:
        """The message up to `end` as chunks, with large payloads replaced."""
        chunks: list[bytes] = []
        held: list[tuple[int, int, int]] = []
        while self.position < end:
            number, wire, head = self._tag(end)
            if kind == _GRAPH and number in (_GRAPH_NODE, _GRAPH_INITIALIZER):
                self._count_entry()
            if wire != _LEN:
                chunks.append(head + self._scalar(wire, end))
                continue
            length = self._length(end)
            child = _CHILDREN[kind].get(number)
            if child is not None and (child == _GRAPH or length >= DETACH_BYTES):
                inner = self.copy(self.position + length, child)
                chunks += [head, encode_varint(sum(map(len, inner))), *inner]
            elif kind == _TENSOR and number in _DATA_FIELDS:
                held.append((number, self.position, length))
                self._seek(self.position + length)
            else:
                chunks += [head, encode_varint(length), self._take(length)]
        return chunks + self._replace(held)

    def _replace(self, held: list[tuple[int, int, int]]) -> list[bytes]:
        """The data fields of one tensor: a token if a single large one, else as they are."""
        if len(held) == 1 and held[0][0] in (_FLOAT_DATA, _RAW_DATA) and held[0][2] >= DETACH_BYTES:
            number, offset, length = held[0]
            self.payloads.append(Payload(offset, length, number == _FLOAT_DATA))
            mark = self.token + (len(self.payloads) - 1).to_bytes(4, "little")
            return [encode_field(_RAW_DATA, len(mark)), mark]
        chunks: list[bytes] = []
        end = self.position
        for number, offset, length in held:
            self._seek(offset)
            chunks += [encode_field(number, length), self._take(length)]
        self._seek(end)
        return chunks

    def _count_entry(self) -> None:
        self.entries += 1
        # Initializers are counted with the nodes: a node rarely has more than four.
        if self.entries > 5 * self.limits.nodes:
            raise ModelError(
                f"the graph has more than {5 * self.limits.nodes} nodes and initializers",
                hint="raise Limits.nodes",
            )

    def _take(self, length: int) -> bytes:
        self.copied += length
        if self.copied > self.limits.structure_bytes:
            raise ModelError(
                f"has more than {self.limits.structure_bytes} bytes besides its weights",
                hint="raise Limits.structure_bytes",
            )
        data = self.file.read(length)
        if len(data) != length:
            raise WireError(f"the file ends inside a field at byte {self.position}")
        self.position += length
        return data

    def _seek(self, position: int) -> None:
        self.file.seek(position)
        self.position = position

    def _varint(self, end: int) -> bytes:
        data = b""
        while self.position < end and len(data) < 10:
            byte = self._take(1)
            data += byte
            if byte[0] < 0x80:
                return data
        raise WireError(f"bad number at byte {self.position}")

    def _tag(self, end: int) -> tuple[int, int, bytes]:
        head = self._varint(end)
        value = decode_varint(head)
        if not 0 < value >> 3 < 1 << 29:
            raise WireError(f"bad field number at byte {self.position}")
        return value >> 3, value & 7, head

    def _length(self, end: int) -> int:
        length = decode_varint(self._varint(end))
        if length > end - self.position:
            raise WireError(
                f"a field at byte {self.position} claims {length} bytes, {end - self.position} are left"
            )
        return length

    def _scalar(self, wire: int, end: int) -> bytes:
        if wire == _VARINT:
            return self._varint(end)
        if wire not in (_FIXED32, _FIXED64):
            raise WireError(f"unknown wire type {wire} at byte {self.position}")
        length = 4 if wire == _FIXED32 else 8
        if length > end - self.position:
            raise WireError(f"a number is cut off at byte {self.position}")
        return self._take(length)


def decode_varint(data: bytes) -> int:
    """The value of one complete varint."""
    value = 0
    for shift, byte in enumerate(data):
        value |= (byte & 0x7F) << 7 * shift
    return value


def encode_varint(value: int) -> bytes:
    """A non-negative integer as a varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_field(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited field."""
    return encode_varint(number << 3 | _LEN) + encode_varint(length)


def attach(light: bytes, constants: Mapping[str, np.ndarray]) -> bytes:
    """A serialised ModelProto with `constants` added to its graph's initializers.

    Two concatenated protobuf messages merge, so the weights are written behind the model with one copy
    and no second protobuf message.
    """
    parts: list[bytes | memoryview] = []
    for name, array in constants.items():
        header = onnx.TensorProto(name=name, dims=array.shape)
        header.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        head = header.SerializeToString()
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        raw = encode_field(_RAW_DATA, little.nbytes)
        parts += [encode_field(_GRAPH_INITIALIZER, len(head) + len(raw) + little.nbytes), head, raw]
        if little.nbytes:
            parts.append(little.reshape(-1).view(np.uint8).data)
    total = sum(len(part) for part in parts)
    return b"".join([light, encode_field(_MODEL_GRAPH, total), *parts])
