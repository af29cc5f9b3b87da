"""What onnxruntime says about a request's pictures, for requests that ask."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import numpy as np

from naflow_server.engine.types import Code, EngineError, Event, ExplainRequest, Header, LayerFlow, Progress

PATIENCE = 5.0
"""Seconds between signs of life while a header waits."""


class Events(Protocol):
    """The events of one explanation."""

    def __aiter__(self) -> AsyncIterator[Event]: ...
    async def __anext__(self) -> Event: ...
    def waiting(self, room: int) -> Sequence[LayerFlow]:
        """The maps that come next and are there already, as many as have up to `room` bytes together."""

    async def gather(self, moment: float) -> None:
        """Wait for maps that are worth taking together, not past a moment in `time.monotonic()` seconds."""

    def reference_scores(self, output: str) -> np.ndarray:
        """What onnxruntime says about its pictures, [N, classes]; blocks."""


class References:
    """Runs onnxruntime on a thread of its own, for one request at a time: at most one model is in memory a
    second time, and neither the event loop nor a compute thread waits for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="naflow-reference")

    def beside(
        self, events: Events, request: ExplainRequest, wanted: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """The same events; if `wanted`, the header comes with onnxruntime's scores, when they are there."""
        if not wanted:
            return contextlib.nullcontext(events)
        return contextlib.aclosing(self._added(events, request))

    async def _added(self, events: Events, request: ExplainRequest) -> AsyncGenerator[Event, None]:
        began = time.monotonic()
        async for event in events:
            if not isinstance(event, Header):
                yield event
                continue
            loop = asyncio.get_running_loop()
            scores = loop.run_in_executor(self._thread, events.reference_scores, event.prediction.output)
            try:
                while not (await asyncio.wait({scores}, timeout=_patience(request)))[0]:
                    yield Progress(0, 0, "", time.monotonic() - began)
            finally:
                scores.cancel()
            yield dataclasses.replace(event, reference=scores.result())


def _patience(request: ExplainRequest) -> float:
    """Seconds until a sign of life is due, or the deadline.

    Raises:
        EngineError: that has passed.
    """
    if request.deadline is None:
        return PATIENCE
    left = request.deadline - time.monotonic()
    if left <= 0:
        raise EngineError(
            Code.DEADLINE_EXCEEDED, "the deadline passed before onnxruntime had predicted the classes"
        )
    return min(PATIENCE, left)
