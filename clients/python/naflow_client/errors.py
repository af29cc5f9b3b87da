"""Exceptions of the client package.

`str(error)` is one line that a user can act on: what is wrong, naming the file or setting, and in
brackets what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping


class ClientError(Exception):
    """Base of all public exceptions of `naflow_client`.

    Attributes:
        code: stable machine-readable name.
        message: what is wrong, naming the file or the setting.
        hint: what to do about it; may be empty.
    """

    code = "client_error"

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class PictureError(ClientError):
    """A picture cannot be read, or cannot be fitted to the model."""

    code = "picture_invalid"


class PreprocessingError(ClientError):
    """A preprocessing setting has an unknown name or an impossible value."""

    code = "preprocessing_invalid"


class MapError(ClientError):
    """A layer map cannot be drawn: wrong shape, or values that are nan or infinite."""

    code = "map_invalid"


class OutputError(ClientError):
    """A file cannot be written."""

    code = "output_failed"


class CallError(ClientError):
    """A call to the server failed.

    Attributes:
        status: canonical gRPC code, such as "INVALID_ARGUMENT"; "" if the client found the failure itself.
        reason: the server's stable name of what is wrong (ErrorInfo.reason); may be empty.
        field: path of the request field that is wrong; may be empty.
        retry_after: seconds after which the server would like to be asked again, or None.
        metadata: further facts from the server, such as the node that is not supported.
    """

    code = "call_failed"

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        status: str = "",
        reason: str = "",
        field: str = "",
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.reason = reason
        self.field = field
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})


class RequestError(CallError):
    """The server refuses the request as it is: a tensor, option or name in it is wrong."""

    code = "request_invalid"


class NotFoundError(CallError):
    """There is no such model, version or bank."""

    code = "not_found"


class UnsupportedError(CallError):
    """The model holds an operator, or the server a method, that is not supported."""

    code = "unsupported"


class AccessError(CallError):
    """The server does not accept the caller: token or client certificate is missing, wrong, or not enough."""

    code = "access_denied"


class BusyError(CallError):
    """The server's queue or another of its limits is exhausted."""

    code = "server_busy"


class DeadlineError(CallError):
    """The deadline passed before the call was finished."""

    code = "deadline_exceeded"


class UnavailableError(CallError):
    """The server cannot be reached, or is shutting down."""

    code = "server_unavailable"


class CallCancelledError(CallError):
    """The call was cancelled, by this side or by the server."""

    code = "cancelled"


class ServerError(CallError):
    """The server failed at its own work."""

    code = "server_failed"


class BrokenStreamError(CallError):
    """The stream ended without its summary, or what came does not fit together."""

    code = "stream_broken"
