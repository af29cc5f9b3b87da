"""Many inputs over one call, for asyncio programs: the same names as in `naflow_client.many`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self

from naflow_client.exchange import Exchange
from naflow_client.outcomes import Outcome, Part

END = object()


class AsyncInputs:
    """An asynchronous iterable of inputs, read on its event loop for a thread."""

    def __init__(self, source: AsyncIterable[Any]) -> None:
        self._source = source
        self._loop: asyncio.AbstractEventLoop | None = None
        self._coming: Future[Any] | None = None
        self._stopped = False

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """Where to read."""
        self._loop = loop

    def stop(self) -> None:
        """Wait for no further input."""
        self._stopped = True
        if self._coming is not None:
            self._coming.cancel()

    def __iter__(self) -> Iterator[Any]:
        assert self._loop is not None, "the loop is known when reading begins"
        source = aiter(self._source)

        async def following() -> Any:
            return await anext(source, END)

        while not self._stopped:
            coming = following()
            try:
                self._coming = asyncio.run_coroutine_threadsafe(coming, self._loop)
            except RuntimeError:  # the loop is closed: nobody waits any more
                coming.close()
                return
            try:
                given = self._coming.result()
            except CancelledError:
                return
            if given is END:
                return
            yield given


class AsyncManyStream:
    """The answers to one `explain_many`: iterate with `async for` over it for an `Outcome` of each input.

    Leaving the `async with` block or the loop cancels the call. The inputs are read on the event loop, or if
    the iterable is an ordinary one in a thread, never more than `in_flight` ahead of the outcomes that were
    taken.
    """

    def __init__(self, exchange: Exchange, inputs: AsyncInputs | None) -> None:
        self._exchange, self._inputs = exchange, inputs
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        exchange.listener = self._tell

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    async def __aiter__(self) -> AsyncIterator[Outcome]:
        exchange = self._exchange
        try:
            while (part := await self._next_part()) is not None:
                for outcome in exchange.gather(part):
                    exchange.handed_on(outcome.index)
                    yield outcome
        finally:
            self.cancel()

    async def events(self) -> AsyncIterator[Part]:
        """Everything as it comes, of all inputs in turn; nothing is collected.

        Raises:
            ClientError: the call failed for good; what was unanswered has come back with that error before.
        """
        try:
            while (part := await self._next_part()) is not None:
                if part.last:
                    self._exchange.handed_on(part.index)
                yield part
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop the work on the server and read no more inputs. Does nothing to a stream that has ended."""
        self._exchange.cancel()
        if self._inputs is not None:
            self._inputs.stop()

    def _start(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            if self._inputs is not None:
                self._inputs.use(self._loop)
        self._exchange.start()

    async def _next_part(self) -> Part | None:
        """The next part, or None at the end."""
        if not self._exchange.finished:
            self._start()
        while True:
            self._changed.clear()
            part = self._exchange.poll()
            if part is not None or self._exchange.finished:
                return part
            await self._changed.wait()

    def _tell(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._changed.set)
