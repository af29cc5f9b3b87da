"""What may come into a bank."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from naflow_server.engine.banks.refusals import invalid
from naflow_server.sections import BankSettings

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")
BANK_ID = re.compile(r"[0-9a-f]{32}")
LONGEST_APPEND_ID = 128
LABEL_BYTES = 1024
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def check_name(name: str) -> str:
    """A bank's name that stays in its folder.

    Raises:
        EngineError: INVALID_ARGUMENT.
    """
    if not NAME.fullmatch(name):
        shown = name if len(name) <= 64 else f"{name[:64]}..."
        rule = "up to 128 letters, digits, '_', '.' and '-', beginning with a letter, a digit or '_'"
        raise invalid("bank_name", f"{shown!r} is not a bank's name", rule)
    return name


def check_model(sha256: str) -> str:
    """The digest of a model file, in lower case.

    Raises:
        EngineError: INVALID_ARGUMENT.
    """
    if not SHA256.fullmatch(sha256.lower()):
        raise invalid("model_sha256", "must be 64 hexadecimal digits", "it stands in the model's report")
    return sha256.lower()


def check_bank_id(bank_id: str) -> str:
    """A bank's id, or "".

    Raises:
        EngineError: INVALID_ARGUMENT.
    """
    if bank_id and not BANK_ID.fullmatch(bank_id):
        raise invalid("bank_id", "must be 32 lower-case hexadecimal digits")
    return bank_id


def check_dimension(dimension: int, settings: BankSettings) -> int:
    """Numbers in each embedding.

    Raises:
        EngineError: INVALID_ARGUMENT.
    """
    if not 1 <= dimension <= settings.dimension:
        raise invalid("dimension", f"{dimension} must lie between 1 and {settings.dimension}")
    return dimension


def check_append_id(append_id: str) -> str:
    """An append's id, or "".

    Raises:
        EngineError: INVALID_ARGUMENT.
    """
    if len(append_id) > LONGEST_APPEND_ID or not (append_id.isascii() and append_id.isprintable()):
        raise invalid("append_id", f"must be up to {LONGEST_APPEND_ID} printable ASCII characters")
    return append_id


def check_embeddings(embeddings: np.ndarray, dimension: int, settings: BankSettings) -> None:
    """Embeddings that any metric can compare.

    Args:
        embeddings: should be float32 [N, dimension] without a row that is nan, infinite or zero. Rows whose
            squared length is 0 or infinite in float32 count as such: a cosine would divide by it.

    Raises:
        EngineError: INVALID_ARGUMENT; names the first row at fault.
    """
    shape = list(embeddings.shape)
    if embeddings.dtype != np.float32:
        raise invalid("embeddings.dtype", f"is {embeddings.dtype.name}, a bank holds float32")
    if embeddings.ndim != 2 or shape[1] != dimension or not shape[0]:
        raise invalid("embeddings.shape", f"{_short(shape)} is not [N, {dimension}], the bank's dimension")
    if embeddings.nbytes > settings.append_bytes:
        raise invalid(
            "embeddings",
            f"{embeddings.nbytes} bytes are over the limit of {settings.append_bytes}",
            "send several appends",
        )
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", embeddings, embeddings)
    wrong = np.flatnonzero(~np.isfinite(squares) | (squares == 0))
    if not wrong.size:
        return
    row = int(wrong[0])
    field, values = f"embeddings[{row}]", embeddings[row]
    if not np.isfinite(values).all():
        column = int(np.flatnonzero(~np.isfinite(values))[0])
        raise invalid(field, f"number {column} is {values[column]}", "embeddings must be finite")
    if not values.any():
        raise invalid(field, "all its numbers are zero", "a zero vector has no direction to compare")
    kind = "too small" if squares[row] == 0 else "too large"
    raise invalid(field, f"is {kind}: its squared length is {squares[row]:g} in float32", "scale it")


def check_labels(labels: Sequence[str], count: int, settings: BankSettings) -> None:
    """One label for each embedding, or none at all.

    Raises:
        EngineError: INVALID_ARGUMENT; names the first row at fault.
    """
    if labels and len(labels) != count:
        raise invalid("labels", f"{len(labels)} labels for {count} embeddings", "one for each, or none")
    total = 0
    for row, label in enumerate(labels):
        size = len(label.encode("utf-8", "surrogatepass"))
        total += size
        if size > LABEL_BYTES:
            raise invalid(f"labels[{row}]", f"has {size} bytes, at most {LABEL_BYTES}")
        if UNPRINTABLE.search(label):
            raise invalid(f"labels[{row}]", "has a control character")
    if total > settings.append_bytes:
        raise invalid(
            "labels", f"{total} bytes are over the limit of {settings.append_bytes}", "send several appends"
        )


def _short(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape[:8]))}{', ...' if len(shape) > 8 else ''}]"
