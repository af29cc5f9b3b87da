"""Runs explanations for one call: one request, or a stream of them side by side."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from google.rpc import status_pb2

from naflow.v1 import explanation_pb2 as ex
from naflow_server import convert
from naflow_server.calls import Call
from naflow_server.engine.types import Code, EngineError, ExplainRequest, Header, LayerFlow, Summary
from naflow_server.errors import status_of, unexpected_status
from naflow_server.metrics import Metrics
from naflow_server.references import Events, References

LOG = logging.getLogger(__name__)
WAITING_MESSAGES = 2


class Explains(Protocol):
    """What is needed of the engine here."""

    def explain(self, request: ExplainRequest) -> AbstractAsyncContextManager[Events]:
        """Admit a request; leaving the context cancels it.

        Raises:
            EngineError: not admitted.
        """


class Answers:
    """Answers of a server, without the transport's part.

    Args:
        engine: computes.
        metrics: counts.
        side_by_side: requests in flight on one stream.
        default_deadline: seconds for requests that bring none, or None.
        gather_seconds: for which maps are gathered after a message with maps.
        closing: set when streams shall read no further requests.
    """

    def __init__(
        self,
        engine: Explains,
        metrics: Metrics,
        side_by_side: int,
        default_deadline: float | None,
        gather_seconds: float,
        closing: asyncio.Event,
    ) -> None:
        self._engine, self._metrics, self._closing = engine, metrics, closing
        self._side_by_side, self._default_deadline = side_by_side, default_deadline
        self._gather_seconds = gather_seconds
        self._references = References()

    async def one(
        self, message: ex.ExplainRequest, call: Call, request_id: str
    ) -> AsyncGenerator[ex.ExplainEvent, None]:
        """The messages that answer one request.

        Raises:
            EngineError: the request failed as a whole.
        """
        model, code = "", "CANCELLED"
        self._metrics.explaining.inc()
        began = time.monotonic()
        sent = -math.inf  # maps that come together, last
        asked = {"naflow.request_id": request_id, "naflow.model": message.model_name[:128]}
        trace = call.span and call.span.child("explanation", asked)
        try:
            request = convert.explain_request(message, request_id, self._deadline(call))
            request = dataclasses.replace(request, trace=trace)
            answer = convert.Answer(request, message.top_k)
            async with (
                self._engine.explain(request) as computed,
                self._references.beside(computed, request, message.reference_prediction) as events,
            ):
                async for event in events:
                    if isinstance(event, Header):
                        model = event.model
                    room = answer.room(event)
                    more: Sequence[LayerFlow] = ()
                    if room:
                        await computed.gather(sent + self._gather_seconds)
                        more, sent = computed.waiting(room), time.monotonic()
                    self._metrics.event(model, event, len(more))
                    for part in answer.messages(event, *more):
                        yield part
                    if isinstance(event, Summary):
                        code = "OK"
        except EngineError as error:
            code = error.code.name
            raise
        except Exception:
            code = Code.INTERNAL.name
            raise
        finally:
            self._metrics.explaining.dec()
            self._metrics.ended(model, code)
            if trace is not None:
                trace.end(code)
            facts = {"request_id": request_id, "call_id": call.id, "model": message.model_name[:128]}
            LOG.info(
                "explanation", extra={**facts, "code": code, "seconds": round(time.monotonic() - began, 6)}
            )

    async def many(
        self, messages: AsyncIterator[ex.ExplainRequest], call: Call
    ) -> AsyncGenerator[ex.ExplainEvent, None]:
        """The messages that answer a stream of requests, tagged with their request ids.

        Raises:
            EngineError: two requests in flight have the same id, a message is malformed, or the server stops.
        """
        out = _Outbox()
        reader = asyncio.create_task(self._read(messages, call, out))
        reader.add_done_callback(lambda _: out.close())
        try:
            async for message in out:
                yield message
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        if self._closing.is_set():
            raise EngineError(
                Code.UNAVAILABLE, "the server is shutting down", retry_after=1.0, reason="shutting_down"
            )

    async def _read(self, messages: AsyncIterator[ex.ExplainRequest], call: Call, out: _Outbox) -> None:
        """Start an answer for each request, and wait for all of them."""
        slots = asyncio.Semaphore(self._side_by_side)
        running: dict[str, asyncio.Task[None]] = {}
        position = 0

        def ended(task: asyncio.Task[None]) -> None:
            del running[task.get_name()]
            slots.release()

        try:
            async for message in _until(self._closing, messages):
                request_id = convert.checked_id(message.request_id, f"{call.id}/{position}")
                position += 1
                if request_id in running:
                    convert.refuse("request_id", f"{request_id!r} is in flight already on this stream")
                await slots.acquire()
                work = self._pump(message, call, request_id, out)
                running[request_id] = asyncio.create_task(work, name=request_id)
                running[request_id].add_done_callback(ended)
            await asyncio.gather(*running.values())
        finally:
            rest = list(running.values())
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    async def _pump(self, message: ex.ExplainRequest, call: Call, request_id: str, out: _Outbox) -> None:
        """One request of a stream; its failure is its own."""
        try:
            async with contextlib.aclosing(self.one(message, call, request_id)) as answer:
                async for part in answer:
                    await out.put(part)
        except EngineError as error:
            await out.put(_failed(request_id, status_of(error, request_id)))
        except Exception:
            LOG.exception("unexpected error", extra={"rpc": call.rpc, "request_id": request_id})
            await out.put(_failed(request_id, unexpected_status(request_id)))

    def _deadline(self, call: Call) -> float | None:
        if call.deadline is not None or self._default_deadline is None:
            return call.deadline
        return time.monotonic() + self._default_deadline


class _Outbox:
    """A small queue of messages that can be closed even when it is full."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[ex.ExplainEvent | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(WAITING_MESSAGES)

    async def put(self, message: ex.ExplainEvent) -> None:
        """Wait for room and add a message."""
        await self._room.acquire()
        self._messages.put_nowait(message)

    def close(self) -> None:
        """Nothing more will come."""
        self._messages.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[ex.ExplainEvent]:
        while (message := await self._messages.get()) is not None:
            self._room.release()
            yield message


def _failed(request_id: str, status: status_pb2.Status) -> ex.ExplainEvent:
    return ex.ExplainEvent(request_id=request_id, summary=ex.Summary(error=status))


async def _until(
    closing: asyncio.Event, messages: AsyncIterator[ex.ExplainRequest]
) -> AsyncIterator[ex.ExplainRequest]:
    """Messages, until there are no more or `closing` is set."""
    closed = asyncio.create_task(closing.wait())
    try:
        while not closed.done():
            coming = asyncio.ensure_future(anext(messages, None))
            try:
                await asyncio.wait({coming, closed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
            if coming.cancelled() or (message := coming.result()) is None:
                return
            yield message
    finally:
        closed.cancel()
