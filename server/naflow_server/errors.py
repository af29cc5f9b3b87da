"""Failures as gRPC statuses with google.rpc details.

Details travel in the response's trailing metadata, where about 8 KiB is all that some clients take: past it
the real code is lost. So they are cut to 4096 bytes.
"""

from __future__ import annotations

import math
from typing import NoReturn
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2, message
from google.rpc import error_details_pb2, status_pb2

from naflow_server.engine.types import Code, EngineError, LayerFailure

DOMAIN = "naflow"
DETAIL_BYTES = 4096
TEXT_BYTES = 1024
DETAILS_KEY = "grpc-status-details-bin"

CODES = {code: grpc.StatusCode[code.name] for code in Code}


def status_of(error: EngineError, request_id: str) -> status_pb2.Status:
    """The status of a failed request, of at most 4096 bytes.

    ErrorInfo is always there (reason, request id, hint); BadRequest when a field is to blame; RetryInfo when
    trying again later makes sense.
    """
    return _status(CODES[error.code], str(error), error.reason, request_id, error)


def layer_status(failure: LayerFailure, request_id: str) -> status_pb2.Status:
    """The status of one layer that has no map."""
    return _status(CODES[failure.code], failure.message, failure.reason, request_id, None)


def plain_status(
    code: grpc.StatusCode, text: str, reason: str, request_id: str, retry_after: float | None = None
) -> status_pb2.Status:
    """A status that the transport itself gives, such as UNAUTHENTICATED."""
    status = _status(code, text, reason, request_id, None)
    if retry_after is not None:
        _add_retry(status, retry_after)
    return status


def unexpected_status(request_id: str) -> status_pb2.Status:
    """The status of a defect: nothing of it leaves the server but where to look."""
    text = f"unexpected error; the server's log has it under request id {request_id}"
    return plain_status(grpc.StatusCode.INTERNAL, text, "internal", request_id)


async def abort(
    context: grpc.aio.ServicerContext,
    status: status_pb2.Status,
    metadata: tuple[tuple[str, str], ...] = (),
) -> NoReturn:
    """End the call with `status` and its details; `metadata` goes along."""
    code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
    await context.abort(code, status.message, (*metadata, (DETAILS_KEY, status.SerializeToString())))
    raise AssertionError("abort returned")  # it raises; type checkers do not know


def _status(
    code: grpc.StatusCode, text: str, reason: str, request_id: str, error: EngineError | None
) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(
        reason=_cut((reason or code.name).upper(), 63), domain=DOMAIN, metadata={"request_id": request_id}
    )
    status = status_pb2.Status(code=code.value[0], message=_cut(text, TEXT_BYTES))
    if error is not None and error.hint:
        info.metadata["hint"] = _cut(error.hint, TEXT_BYTES // 2)
    _add(status, info)
    if error is not None and error.retry_after is not None:
        _add_retry(status, error.retry_after)
    if error is not None and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(error.field, TEXT_BYTES // 2), description=_cut(error.message, TEXT_BYTES)
        )
        _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
    return status


def _add_retry(status: status_pb2.Status, seconds: float) -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(max(1, math.ceil(seconds * 1000)))
    _add(status, retry)


def _add(status: status_pb2.Status, detail: message.Message) -> None:
    """Append a detail unless the status would grow past its limit."""
    packed = any_pb2.Any()
    packed.Pack(detail)
    if status.ByteSize() + packed.ByteSize() + 8 <= DETAIL_BYTES:
        status.details.append(packed)


def _cut(text: str, limit: int) -> str:
    """One line of at most `limit` bytes; a status message travels percent-encoded, so that counts."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    if len(quote(line)) <= limit:
        return line
    kept = line[: limit - 3]
    while len(quote(kept)) > limit - 3:
        kept = kept[: len(kept) * (limit - 3) // len(quote(kept))]
    return kept + "..."
