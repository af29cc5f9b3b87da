"""How a bank's file is made up, and what of it counts after a crash.

A file begins with a prologue: magic, a random marker of 8 bytes, and the bank's facts. A frame follows for
each append: a header that begins with the marker and carries a CRC-32C of itself and one of its payload, then
the payload: the embeddings row by row (little-endian float32), then their labels (JSON; absent when there are
none).

An append is written in one go and is on disk before the next one begins, so a crash can only harm the last
frame, and that one was not acknowledged: it is cut off. Harm anywhere else is another matter (a failing disk,
a foreign hand), and cutting there would drop acknowledged embeddings: it is reported. The marker tells the
two apart, because after a torn frame there is no other one; being random, it cannot be slipped into an
embedding.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np

from naflow_server.engine.banks.view import FileView

MAGIC = b"NAFBANK1"
MARKER_BYTES = 8
PREFIX = struct.Struct("<8s8sII")  # magic, marker, length of the facts, their CRC-32C
LARGEST_FACTS = 4096
# marker, bytes of embeddings, bytes of labels, version, position of the first row, rows, labelled rows, hash
# of the append's id, digest of the payload, CRC-32C of the payload
HEADER = struct.Struct("<8sIIQQII16s16sI")
CHECK = struct.Struct("<I")
HEADER_BYTES = HEADER.size + CHECK.size
NO_ID = bytes(16)


class DamagedError(Exception):
    """A bank's file that is not what was written: one line that says where."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a bank is made for."""

    name: str
    id: str
    dimension: int
    model_sha256: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of one append.

    Attributes:
        offset: of the header in the file.
        rows, labels: bytes of the payload's two parts.
        version: that the append made; 1 is the first.
        first, count, labelled: position of its first embedding, embeddings, and those with a label.
        key: hash of the append's id; `NO_ID` when it had none.
        digest: of the payload, to tell a repetition from another append under the same id.
        check: CRC-32C of the payload.
    """

    offset: int
    rows: int
    labels: int
    version: int
    first: int
    count: int
    labelled: int
    key: bytes
    digest: bytes
    check: int

    @property
    def payload(self) -> int:
        """Offset of the payload."""
        return self.offset + HEADER_BYTES

    @property
    def end(self) -> int:
        """Offset just after it."""
        return self.payload + self.rows + self.labels


@dataclass(frozen=True, slots=True)
class Payload:
    """Embeddings and labels of one append, as they are written."""

    content: bytes
    rows: int
    count: int
    labelled: int

    @property
    def digest(self) -> bytes:
        """16 bytes that stand for the content."""
        return hashlib.blake2b(self.content, digest_size=16).digest()


def prologue(facts: Facts, marker: bytes) -> bytes:
    """The beginning of a file."""
    text = json.dumps(
        {"name": facts.name, "id": facts.id, "dimension": facts.dimension, "model": facts.model_sha256}
    ).encode()
    return PREFIX.pack(MAGIC, marker, len(text), google_crc32c.value(marker + text)) + text


def read_prologue(view: FileView) -> tuple[Facts, bytes, int]:
    """What a bank is made for, its marker, and the offset of its first frame.

    Raises:
        DamagedError: it is no bank, or its beginning is not what was written.
    """
    if len(view) < PREFIX.size or view[: len(MAGIC)] != MAGIC:
        raise DamagedError("the file is not a bank")
    _, marker, length, check = PREFIX.unpack(view[: PREFIX.size])
    text = view[PREFIX.size : PREFIX.size + min(length, LARGEST_FACTS)]
    if len(text) != length or google_crc32c.value(marker + text) != check:
        raise DamagedError("the beginning of the file is damaged")
    facts = json.loads(text)
    found = Facts(facts["name"], facts["id"], facts["dimension"], facts["model"])
    return found, marker, PREFIX.size + length


def key_of(append_id: str) -> bytes:
    """What is kept of an append's id."""
    return hashlib.blake2b(append_id.encode(), digest_size=16).digest() if append_id else NO_ID


def pack(embeddings: np.ndarray, labels: Sequence[str]) -> Payload:
    """The payload of an append.

    Args:
        embeddings: float32 [N, dimension].
        labels: N, or none.
    """
    rows = np.ascontiguousarray(embeddings, "<f4").tobytes()
    labelled = sum(map(bool, labels))
    text = json.dumps(list(labels), ensure_ascii=False).encode() if labelled else b""
    return Payload(rows + text, len(rows), len(embeddings), labelled)


def frame(marker: bytes, payload: Payload, *, version: int, first: int, key: bytes) -> bytes:
    """An append as it is written."""
    fields = HEADER.pack(
        marker,
        payload.rows,
        len(payload.content) - payload.rows,
        version,
        first,
        payload.count,
        payload.labelled,
        key,
        payload.digest,
        google_crc32c.value(payload.content),
    )
    return fields + CHECK.pack(google_crc32c.value(fields)) + payload.content


def header_at(view: FileView, offset: int, marker: bytes) -> Frame | None:
    """The header at an offset; None if there is none that is whole."""
    raw = view[offset : offset + HEADER_BYTES]
    if len(raw) < HEADER_BYTES or raw[:MARKER_BYTES] != marker:
        return None
    fields = raw[: HEADER.size]
    if CHECK.unpack(raw[HEADER.size :])[0] != google_crc32c.value(fields):
        return None
    return Frame(offset, *HEADER.unpack(fields)[1:])


def payload_of(view: FileView, found: Frame) -> bytes | None:
    """A frame's payload; None if it is not what was written."""
    content = view[found.payload : found.end]
    return content if google_crc32c.value(content) == found.check else None


def unpack(content: bytes, found: Frame) -> tuple[np.ndarray, list[str]]:
    """Embeddings, [count, dimension], and their labels, "" where there is none."""
    embeddings = np.frombuffer(content, "<f4", found.rows // 4).reshape(found.count, -1)
    labels = json.loads(content[found.rows :]) if found.labels else [""] * found.count
    return embeddings, labels


def frames(view: FileView, start: int, marker: bytes, dimension: int) -> Iterator[Frame]:
    """All frames that count, oldest first. What lies after the last one is a torn append.

    Of the payloads only the last one is checked; `payload_of` checks the others where they are read.

    Raises:
        DamagedError: harm that no crash explains.
    """
    size, offset, version, rows = len(view), start, 0, 0
    while offset < size:
        found = header_at(view, offset, marker)
        if found is None:
            if view.find(marker, offset + 1) >= 0:
                raise DamagedError(f"the file is damaged at byte {offset}")
            return
        if found.end > size or (found.end == size and payload_of(view, found) is None):
            return
        if (found.version, found.first, found.rows) != (version + 1, rows, found.count * dimension * 4):
            raise DamagedError(f"the append at byte {offset} does not follow the one before it")
        yield found
        offset, version, rows = found.end, found.version, rows + found.count
