"""One request in flight: the queue between the compute thread and its reader."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable
from types import TracebackType

import numpy as np

import naflow_core as nf
from naflow_server.engine import failures
from naflow_server.engine.event_queue import EventQueue
from naflow_server.engine.targets import Found
from naflow_server.engine.types import Code, EngineError, Event, ExplainRequest, LayerFlow, Progress
from naflow_server.engine.version import LoadedVersion


class Call(AsyncIterator[Event]):
    """Events of one explanation, in order: Header, then flows and failures, Summary last.

    The iterator raises EngineError where the explanation ends early. Progress events are made while nothing
    else is ready. Leaving `async with call` (or `cancel`) stops the computation between two layers.

    Attributes:
        pictures: in the request.
        admitted: `time.monotonic()` seconds.
        loaded: what computes it; None while its model is being loaded.
        bank: what its target found in a bank, or None.
        batch_key: calls with the same one can be computed together; None: alone.
        batch_pictures: largest batch for it.
        started: whether a compute thread has taken it.
        position: how far the computation is.
        on_room: called when a full queue has room again.
        on_settled: called once, when nothing more is computed.
    """

    def __init__(
        self,
        request: ExplainRequest,
        pictures: int,
        *,
        queue: EventQueue,
        progress_seconds: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.request = request
        self.pictures = pictures
        self.admitted = time.monotonic()
        self.loaded: LoadedVersion | None = None
        self.bank: Found | None = None
        self.batch_key: Hashable = None
        self.batch_pictures = 1
        self.started = False
        self.position = Progress(0, 0, "", 0.0)
        self.on_room: Callable[[Call], None] | None = None
        self.on_settled: Callable[[Call], None] | None = None
        self._events, self._progress_seconds, self._loop = queue, progress_seconds, loop
        self._lock = threading.Lock()
        self._settled = False
        self._error: EngineError | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._gathers = False  # the waiter is not woken for every map

    # Any thread

    @property
    def settled(self) -> bool:
        """Nothing more is computed for this call: it is complete, failed, cancelled or out of time."""
        return self._settled

    @property
    def has_room(self) -> bool:
        """Whether another event fits into the queue."""
        return not self._events.full

    def expired(self, now: float) -> bool:
        """Whether the deadline has passed; the call is then ended."""
        if self.request.deadline is None or now < self.request.deadline or self._settled:
            return False
        self.settle(_deadline_exceeded())
        return True

    def put(self, *events: Event) -> None:
        """Hand events to the reader."""
        with self._lock:
            if self._settled:
                return
            self._events.put(*events)
            if self._gathers and not self._events.worth_taking:
                return
            waiter, self._waiter = self._waiter, None  # woken once: a wake-up costs as much as a message
        if waiter is not None:
            self._wake(waiter)

    def reference_scores(self, output: str) -> np.ndarray:
        """What onnxruntime says about the call's pictures, [N, classes]. Takes its time and the memory of a
        second copy of the model.

        Raises:
            EngineError: onnxruntime refuses the model.
        """
        assert self.loaded is not None, "a call that has its header has its model"
        try:
            inputs = self.loaded.named(dict(self.request.inputs))
            return self.loaded.models[0].reference_scores(inputs, output)
        except nf.NaflowError as error:
            raise failures.from_core(error, self.request) from error

    def settle(self, error: EngineError | None = None) -> None:
        """End the call after the events that are queued, with an error or (None) as complete."""
        with self._lock:
            if self._settled:
                return
            self._settled, self._error = True, error
            waiter, self._waiter = self._waiter, None
        if self.on_settled is not None:
            self.on_settled(self)
        if waiter is not None:
            self._wake(waiter)

    def cancel(self) -> None:
        """Stop the computation at the next layer and forget what was queued. Does nothing at the end."""
        self.settle(EngineError(Code.CANCELLED, "the call was cancelled"))
        with self._lock:
            self._events.clear()

    def _wake(self, waiter: asyncio.Future[bool]) -> None:
        try:
            self._loop.call_soon_threadsafe(_finish, waiter, True)
        except RuntimeError:  # the reader's event loop is closed: nobody will ever read
            with self._lock:
                told, self._settled = self._settled, True
                self._events.clear()
            if not told and self.on_settled is not None:
                self.on_settled(self)

    # The reader's event loop

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            EngineError: the explanation ended early.
        """
        while True:
            with self._lock:
                full = not self.has_room
                event = self._events.take()
                settled, error = self._settled, self._error
            if event is not None:
                if full:
                    self._tell_of_room()
                return event
            if settled:
                if error is not None:
                    raise error
                raise StopAsyncIteration
            if not await self._wait():
                if self.expired(time.monotonic()):
                    continue
                seen = self.position
                return Progress(seen.done, seen.total, seen.tensor, time.monotonic() - self.admitted)

    def waiting(self, room: int) -> list[LayerFlow]:
        """The maps that come next and are there already, as many as have up to `room` bytes together."""
        with self._lock:
            full = not self.has_room
            taken = self._events.take_flows(room)
        if taken and full:
            self._tell_of_room()
        return taken

    async def gather(self, moment: float) -> None:
        """Wait until maps are worth taking together, but not past a moment in `time.monotonic()` seconds, nor
        for a call in which nothing more is computed."""
        if (patience := moment - time.monotonic()) > 0:
            await self._until_woken(patience, gathers=True)

    def _tell_of_room(self) -> None:
        """Call `on_room` when the reader has begun to send what it took: a compute thread that wakes up
        before only fights it for the interpreter."""
        if self.on_room is not None:
            self._loop.call_soon(self.on_room, self)

    async def _wait(self) -> bool:
        """Until something changes (True), the deadline passes or a sign of life is due (False)."""
        patience = self._progress_seconds
        if self.request.deadline is not None:
            patience = min(patience, max(0.0, self.request.deadline - time.monotonic()))
        return await self._until_woken(patience)

    async def _until_woken(self, patience: float, *, gathers: bool = False) -> bool:
        """Until there is an event (with `gathers`: until it is worth coming) or the end (True), or `patience`
        seconds have passed (False)."""
        waiter = self._loop.create_future()
        with self._lock:
            there = self._events.worth_taking if gathers else len(self._events) > 0
            if there or self._settled:  # came in before the waiter was set
                return True
            self._waiter, self._gathers = waiter, gathers
        alarm = self._loop.call_later(patience, _finish, waiter, False)
        try:
            return await waiter
        finally:
            alarm.cancel()
            self._waiter, self._gathers = None, False

    async def __aenter__(self) -> Call:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


def _finish(waiter: asyncio.Future[bool], changed: bool) -> None:
    if not waiter.done():
        waiter.set_result(changed)


def _deadline_exceeded() -> EngineError:
    return EngineError(Code.DEADLINE_EXCEEDED, "the deadline passed before the explanation was complete")
