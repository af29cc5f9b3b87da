"""Where a model comes from: path, bytes or protobuf message, behind one seekable file."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import EncodeError

from naflow_core.errors import ModelError

_MIB = 1 << 20
_GIB = 1 << 30
_HASH_BLOCK = _MIB

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model may cost before it is refused. All are inclusive upper bounds.

    Attributes:
        file_bytes: size of the model file itself (protobuf cannot hold more than 2 GiB).
        structure_bytes: the file without its weights: nodes, names, small constants. Parsed structure
            takes several times its size in memory, weights do not.
        nodes: nodes in the graph, after model-local functions are inlined.
        tensor_bytes: any one constant, as computed with (float16 counts as float32).
        total_bytes: all constants together, external files included, as computed with.
        folded_bytes: what the program builder may compute ahead from known values.
    """

    file_bytes: int = 2 * _GIB
    structure_bytes: int = 64 * _MIB
    nodes: int = 50_000
    tensor_bytes: int = 2 * _GIB
    total_bytes: int = 4 * _GIB
    folded_bytes: int = 1 * _GIB


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What was read: `name` is the file name, "<bytes>" or "<ModelProto>"; `path` is None unless it was a
    file; `sha256` is the hex digest of the file's bytes (of the deterministic serialisation of a
    ModelProto; external data is not part of it); `size` is in bytes."""

    name: str
    path: Path | None
    sha256: str
    size: int


def source_name(source: Source) -> str:
    """The name that every message about this source begins with."""
    if isinstance(source, onnx.ModelProto):
        return "<ModelProto>"
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>"
    return Path(os.fsdecode(source)).name or "<no file name>"


@contextmanager
def open_source(source: Source, limits: Limits) -> Iterator[tuple[BinaryIO, Path | None, int]]:
    """The source as a seekable binary file (closed on leaving), its path if it has one, and its size.

    Raises:
        ModelError: missing, unreadable, not a regular file, empty, or over `limits.file_bytes`.
    """
    path: Path | None = None
    file: BinaryIO
    if isinstance(source, onnx.ModelProto):
        file = io.BytesIO(_serialise(source, limits))
    elif isinstance(source, bytes | bytearray | memoryview):
        _check_size(memoryview(source).nbytes, limits)
        file = io.BytesIO(source)
    else:
        path = Path(os.fsdecode(source))
        file = _open_regular(path)
    with file:
        size = file.seek(0, os.SEEK_END)
        _check_size(size, limits)
        yield file, path, size


def _serialise(proto: onnx.ModelProto, limits: Limits) -> bytes:
    try:
        _check_size(proto.ByteSize(), limits)
        return bytes(proto.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise ModelError(
            f"the message cannot be serialised: {error}",
            hint="messages over 2 GiB need external data: save to a file and pass its path",
        ) from None


def _open_regular(path: Path) -> BinaryIO:
    try:
        # Opening a pipe would block, so the kind of file is looked at first.
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelError("is a directory, not a model file", hint="pass the .onnx file inside it")
        if not stat.S_ISREG(mode):
            raise ModelError("is not a regular file")
        return path.open("rb")
    except FileNotFoundError:
        raise ModelError(f"no such file: {path}", hint="check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"cannot be read: {reason}") from None


def _check_size(size: int, limits: Limits) -> None:
    if size == 0:
        raise ModelError("is empty (0 bytes)", hint="export or download the model again")
    if size > limits.file_bytes:
        raise ModelError(
            f"has {size} bytes, the limit is {limits.file_bytes}", hint="raise Limits.file_bytes"
        )


def sha256(file: BinaryIO) -> str:
    """Hex digest of the whole file."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_HASH_BLOCK):
        digest.update(block)
    return digest.hexdigest()


_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "a Keras HDF5 file", "export to ONNX first, e.g. with tf2onnx"),
    (4, b"TFL3", "a TensorFlow Lite file", "convert it to ONNX first, e.g. with tf2onnx"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file it points to", "run `git lfs pull`"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"<", "an HTML or XML text", "the download probably gave an error page"),
    (0, b"\x93NUMPY", "a NumPy array", "pass it as an input, not as the model"),
    (4, b"ORTM", "an onnxruntime .ort file", "pass the .onnx file it was made from"),
    (8, b'{"', "a safetensors file", "it has weights but no graph: export the model to ONNX first"),
)
_TORCH_HINT = "export to ONNX first with torch.onnx.export"


def guess_format(file: BinaryIO) -> tuple[str, str] | None:
    """What a file that is not ONNX looks like and what to do, or None if nothing is recognised."""
    file.seek(0)
    head = file.read(4096)
    if head[:4] == b"PK\x03\x04":
        if b".pkl" in head or b"/byteorder" in head or b"/version" in head or b"/code/" in head:
            return "a PyTorch file", _TORCH_HINT
        if b"metadata.json" in head or b"config.json" in head:
            return "a Keras file", "export to ONNX first, e.g. with tf2onnx"
        return "a zip archive", "unpack it and pass the .onnx file inside"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle (a PyTorch file?)", _TORCH_HINT
    for offset, magic, what, hint in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return what, hint
    if len(head) >= 4 and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head[:512]):
        return "a text file", "pass a binary .onnx file"
    return None
