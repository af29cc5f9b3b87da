"""What a stream knows of itself, sync or async."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from naflow_client._core.events import Item, Session
from naflow_client._core.targets import check_answer
from naflow_client.answers import Flow, Header, LayerFailure, Summary
from naflow_client.errors import CallCancelledError, ClientError
from naflow_client.inputs import Inputs
from naflow_client.results import Result


class StreamState:
    """The part of a stream that does no I/O."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._session = Session(target)
        self._inputs: Inputs | None = None
        self._early: list[Item] = []
        self._call: Any = None
        self._open = False
        self._finished = False
        self._cancelled = False

    @property
    def failures(self) -> tuple[LayerFailure, ...]:
        """Layers without a map so far."""
        return tuple(self._session.failures)

    @property
    def summary(self) -> Summary | None:
        """None until the stream has been read to its end."""
        return self._session.summary

    def cancel(self) -> None:
        """Stop the work on the server. Does nothing to a stream that has ended."""
        if not self._finished:
            self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    def _known_header(self) -> Header:
        header = self._session.header
        if header is None:
            raise ClientError("the stream is not open yet", "enter it with `with` or `async with` first")
        return header

    def _check_header(self) -> None:
        """Refuse an answer that is not to what was asked."""
        if self._inputs is not None:
            check_answer(self._known_header(), self._inputs)

    def _check_not_cancelled(self) -> None:
        if self._cancelled:
            raise cancelled(self._target)

    def result(self, flows: Sequence[Flow]) -> Result:
        """What has been read, put together; for callers that take the flows one by one.

        Raises:
            ClientError: the stream has not been read to its end.
        """
        summary, inputs = self._session.summary, self._inputs
        if summary is None or inputs is None:
            raise ClientError("the stream has not been read to its end", "iterate to the end first")
        ordered = tuple(sorted(flows, key=lambda flow: flow.index))
        return Result(self._known_header(), ordered, self.failures, summary, inputs)


def cancelled(target: str) -> CallCancelledError:
    """The error for a call that this side has ended."""
    return CallCancelledError(
        f"{target}: the call was cancelled", "a stream is read once: call explain again", status="CANCELLED"
    )


def closed(target: str) -> ClientError:
    """The error for a client that is used after its end."""
    return ClientError(f"the connection to {target} is closed", "make a new client")
