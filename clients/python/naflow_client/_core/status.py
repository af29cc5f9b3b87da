"""From gRPC status codes and google.rpc details to the client's exceptions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from naflow_client.errors import (
    AccessError,
    BusyError,
    CallCancelledError,
    CallError,
    DeadlineError,
    NotFoundError,
    RequestError,
    ServerError,
    UnavailableError,
    UnsupportedError,
)

DETAILS_KEY = "grpc-status-details-bin"
KINDS: dict[str, type[CallError]] = {
    "CANCELLED": CallCancelledError,
    "INVALID_ARGUMENT": RequestError,
    "FAILED_PRECONDITION": RequestError,
    "OUT_OF_RANGE": RequestError,
    "ALREADY_EXISTS": RequestError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "NOT_FOUND": NotFoundError,
    "PERMISSION_DENIED": AccessError,
    "UNAUTHENTICATED": AccessError,
    "RESOURCE_EXHAUSTED": BusyError,
    "UNIMPLEMENTED": UnsupportedError,
    "UNAVAILABLE": UnavailableError,
}
HINTS = {
    "UNAUTHENTICATED": "give a token with token= or token_file=",
    "UNAVAILABLE": "check the address and whether TLS is on at both ends",
    "DEADLINE_EXCEEDED": "allow more seconds with deadline=",
}


class Failed(Protocol):
    """The failed call as gRPC raises it, sync or async."""

    def code(self) -> Any: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def from_call(failed: Failed, target: str) -> CallError:
    """The exception for a failed call to the server at `target`."""
    status = failed.code().name
    text = failed.details() or ""
    for key, value in failed.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return _built(status, status_pb2.Status.FromString(value), text, target)
            except DecodeError:
                break
    return _built(status, status_pb2.Status(), text, target)


def from_status(status: status_pb2.Status, target: str) -> CallError:
    """The exception for a status that came inside a message."""
    known = code_pb2.Code.DESCRIPTOR.values_by_number
    name = known[status.code].name if status.code in known else "UNKNOWN"
    return _built(name, status, "", target)


def _built(name: str, status: status_pb2.Status, text: str, target: str) -> CallError:
    reason, field, retry_after, metadata = "", "", None, dict[str, str]()
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        try:
            if detail.Unpack(info):
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad) and bad.field_violations:
                field = bad.field_violations[0].field
            elif detail.Unpack(retry):
                retry_after = max(0.0, retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
        except DecodeError:
            continue  # the code and the message still stand
    message = status.message or text or f"no reason given ({name})"
    hint = metadata.pop("hint", "")
    if not reason:
        message, hint = f"{target}: {message}", hint or HINTS.get(name, "")
    elif hint and message.endswith(f" ({hint})"):
        message = message.removesuffix(f" ({hint})")
    return KINDS.get(name, ServerError)(
        message, hint, status=name, reason=reason, field=field, retry_after=retry_after, metadata=metadata
    )
