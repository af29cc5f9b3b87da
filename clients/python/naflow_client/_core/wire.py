"""Requests as the bytes that travel.

A large input is put in here and not by protobuf, which would copy it into a message and twice more to
serialise that: this takes as long as reading the maps of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from naflow.v1 import explanation_pb2, tensor_pb2
from naflow_client._core.requests import tensor_parts

INPUTS = explanation_pb2.ExplainRequest.DESCRIPTOR.fields_by_name["inputs"].number
DATA = tensor_pb2.Tensor.DESCRIPTOR.fields_by_name["data"].number
KEY, VALUE = 1, 2  # of an entry of any map
LENGTH_DELIMITED = 2

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Request:
    """An ExplainRequest, ready to be sent and sent again.

    Attributes:
        content: the message, serialised.
    """

    request_id: str
    content: bytes

    @classmethod
    def of(cls, message: explanation_pb2.ExplainRequest, inputs: Mapping[str, NDArray[Any]]) -> Request:
        """A message that has everything but its inputs, with these.

        Args:
            inputs: by input name, [N, ...].

        Raises:
            RequestError: a dtype that has no place on the wire, naming the input.
        """
        pieces: list[Piece] = [message.SerializeToString()]
        for name, array in inputs.items():
            head, data = tensor_parts(array, f"inputs[{name!r}]")
            tensor = [head.SerializeToString(), *_field(DATA, data)]
            pieces += _field(INPUTS, *_field(KEY, name.encode()), *_field(VALUE, *tensor))
        return cls(message.request_id, b"".join(pieces))

    def serialised(self) -> bytes:
        """What gRPC sends."""
        return self.content


def _field(number: int, *content: Piece) -> list[Piece]:
    """A field of a message that holds bytes, text or another message: tag, length, content."""
    size = sum(len(piece) for piece in content)
    return [_varint(number << 3 | LENGTH_DELIMITED), _varint(size), *content]


def _varint(value: int) -> bytes:
    """Seven bits in each byte, the lowest first; the eighth says that more follow."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
