"""Requests about reference banks, and reading their answers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from naflow.v1 import reference_bank_pb2 as wire
from naflow_client._core.requests import tensor, whole
from naflow_client.banks import Appended, BankStatus
from naflow_client.errors import RequestError

Done = tuple[NDArray[np.int64], wire.BankStatus]
BATCH_BYTES = 8 << 20
LABEL_BYTES = 1024
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
LONGEST_ID = 100  # the server takes 128, and batches are numbered at its end


def create_request(bank: str, dimension: int, model_sha256: str) -> wire.CreateBankRequest:
    """A bank with an id of our choice: the call may be repeated."""
    return wire.CreateBankRequest(
        bank_name=bank,
        dimension=whole(dimension, "dimension", 1, (1 << 32) - 1),
        model_sha256=model_sha256,
        bank_id=uuid.uuid4().hex,
    )


def list_request() -> wire.ListBanksRequest:
    """All banks."""
    return wire.ListBanksRequest()


def get_request(bank: str) -> wire.GetBankRequest:
    """One bank."""
    return wire.GetBankRequest(bank_name=bank)


def delete_request(bank: wire.BankStatus) -> wire.DeleteBankRequest:
    """This bank, and no other of its name: the call may be repeated."""
    return wire.DeleteBankRequest(bank_name=bank.bank_name, bank_id=bank.bank_id, allow_missing=True)


def batches(
    bank: str,
    embeddings: ArrayLike,
    labels: Sequence[str | None] | None,
    model_sha256: str,
    append_id: str | None,
) -> Iterator[wire.AppendReferencesRequest]:
    """The appends that embeddings are sent in; the same ones for the same arguments.

    Raises:
        RequestError: no table of numbers, numbers or labels that do not fit, or an impossible id.
    """
    rows = _table(embeddings)
    if isinstance(labels, str):
        raise RequestError("labels is a single text", "give one label for each embedding", field="labels")
    names = [_label(label, row) for row, label in enumerate(labels)] if labels is not None else []
    if names and len(names) != len(rows):
        raise RequestError(
            f"{len(names)} labels for {len(rows)} embeddings", "one for each, or none", field="labels"
        )
    if append_id is not None and not 1 <= len(append_id) <= LONGEST_ID:
        raise RequestError(f"append_id must have 1 to {LONGEST_ID} characters", field="append_id")
    chosen = append_id or uuid.uuid4().hex
    return _cut(bank, rows, names, model_sha256, chosen)


def positions(request: wire.AppendReferencesRequest, answer: wire.AppendReferencesResponse) -> Done:
    """Where the embeddings of a batch are, and the bank after it."""
    first, count = answer.first_index, request.embeddings.shape[0]
    return np.arange(first, first + count, dtype=np.int64), answer.bank


def appended(done: Sequence[Done]) -> Appended:
    """What became of all batches."""
    return Appended(bank_status(done[-1][1]), np.concatenate([rows for rows, _ in done]))


def bank_status(message: wire.BankStatus) -> BankStatus:
    """One bank."""
    return BankStatus(
        bank=message.bank_name,
        id=message.bank_id,
        dimension=message.dimension,
        model_sha256=message.model_sha256,
        version=message.version,
        count=message.embedding_count,
        labelled=message.labelled_count,
        size_bytes=message.size_bytes,
        reason=message.reason,
    )


def _cut(
    bank: str, rows: NDArray[np.float32], labels: list[str], model_sha256: str, append_id: str
) -> Iterator[wire.AppendReferencesRequest]:
    sizes = np.full(len(rows), rows.shape[1] * 4, np.int64)
    if labels:
        sizes += [len(label.encode()) + 4 for label in labels]
    ends = np.cumsum(sizes)
    begin = number = 0
    while begin < len(rows):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        yield wire.AppendReferencesRequest(
            bank_name=bank,
            model_sha256=model_sha256,
            embeddings=tensor(rows[begin:end], "embeddings"),
            labels=labels[begin:end],
            append_id=f"{append_id}/{number}" if (begin, end) != (0, len(rows)) else append_id,
        )
        begin, number = end, number + 1


def _label(label: str | None, row: int) -> str:
    field = f"labels[{row}]"
    if label is not None and not isinstance(label, str):
        raise RequestError(f"{field} is of type {type(label).__name__}", "labels are text", field=field)
    if label and UNPRINTABLE.search(label):
        raise RequestError(f"{field} has a control character, or is not valid Unicode", field=field)
    if label and len(label.encode()) > LABEL_BYTES:
        raise RequestError(f"{field} has {len(label.encode())} bytes, at most {LABEL_BYTES}", field=field)
    return label or ""


def _table(embeddings: ArrayLike) -> NDArray[np.float32]:
    """The embeddings as float32 [N, dimension]. Rows are checked here too, before any batch is sent."""
    given = np.asarray(embeddings)
    if given.ndim != 2 or not given.size:
        raise RequestError(
            f"embeddings has shape {list(given.shape)}", "give [N, dimension]", field="embeddings"
        )
    if given.dtype.kind not in "fiu":
        raise RequestError(f"embeddings has dtype {given.dtype}", "give real numbers", field="embeddings")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        table = given.astype(np.float32, copy=False)
        squares = np.einsum("ij,ij->i", table, table)
    wrong = np.flatnonzero(~np.isfinite(squares) | (squares == 0))
    if wrong.size:
        row = int(wrong[0])
        raise RequestError(
            f"embeddings[{row}] has the squared length {squares[row]:g} in float32",
            "give rows that are finite and not zero",
            field=f"embeddings[{row}]",
        )
    return table
