"""Reference banks: messages to arguments of the engine, and its answers to messages."""

from __future__ import annotations

from typing import Any

from naflow.v1 import reference_bank_pb2 as rb
from naflow.v1 import tensor_pb2 as te
from naflow_server.convert.tensors import array
from naflow_server.engine.banks import Appended, BankInfo


def append_arguments(message: rb.AppendReferencesRequest) -> dict[str, Any]:
    """What to append, as arguments of the engine's `append`; the embeddings share the message's memory.

    Raises:
        EngineError: INVALID_ARGUMENT, the embeddings are no tensor.
    """
    return {
        "name": message.bank_name,
        "embeddings": array(message.embeddings, "embeddings"),
        "labels": list(message.labels),
        "model_sha256": message.model_sha256,
        "append_id": message.append_id,
    }


def bank_status(info: BankInfo) -> rb.BankStatus:
    """A bank."""
    return rb.BankStatus(
        bank_name=info.name,
        bank_id=info.id,
        dimension=info.dimension,
        dtype=te.DATA_TYPE_UNSPECIFIED if info.reason else te.DATA_TYPE_FLOAT,
        model_sha256=info.model_sha256,
        version=info.version,
        embedding_count=info.count,
        labelled_count=info.labelled,
        size_bytes=info.bytes,
        reason=info.reason,
    )


def append_response(done: Appended) -> rb.AppendReferencesResponse:
    """What became of an append."""
    return rb.AppendReferencesResponse(
        bank=bank_status(done.bank),
        version=done.version,
        first_index=done.first,
        repeated=done.repeated,
    )
