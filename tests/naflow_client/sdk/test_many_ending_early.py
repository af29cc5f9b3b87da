"""Many inputs over one call that ends early: leaving the block or the loop, a closed client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from itertools import repeat
from typing import Any

import numpy as np
import pytest

from naflow_client import AsyncClient, CallCancelledError, Client, ClientError
from support.explanation_server import MODEL, Event, Scripted, header, tagged
from support.many_inputs import check, inputs, sent, serve_all, whole

Server = tuple[Scripted, str]


def no_threads_left() -> None:
    """Within five seconds."""
    for thread in threading.enumerate():
        if thread.name.startswith("naflow-"):
            thread.join(5)
            assert not thread.is_alive(), thread


def leave_block(stream: Any) -> None:
    with stream:
        pass


def break_loop(stream: Any) -> None:
    for _ in stream:
        break


def break_events(stream: Any) -> None:
    for _ in stream.events():
        break


@pytest.mark.parametrize("how", [break_loop, break_events])
def test_leaving_cancels(server: Server, how: Any) -> None:
    servicer, target = server

    def endless(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        yield from whole(next(requests))
        yield from (event for request in requests for event in tagged([header(sent(0))], request.request_id))

    servicer.play_streams(endless)
    with Client(target) as client:
        stream = client.explain_many(MODEL, repeat(inputs(1)[0]))
        how(stream)
        assert servicer.ended.wait(5)
        with pytest.raises(CallCancelledError):
            next(iter(stream))
        unread = client.explain_many(MODEL, repeat(inputs(1)[0]))
        leave_block(unread)
        with pytest.raises(CallCancelledError):
            list(unread)
    no_threads_left()


def test_leaving_cancels_async(server: Server) -> None:
    servicer, target = server

    def endless(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        yield from whole(next(requests))
        yield from (event for request in requests for event in tagged([header(sent(0))], request.request_id))

    async def run(broken: bool) -> None:
        servicer.play_streams(endless)
        async with AsyncClient(target) as client:

            async def endlessly() -> AsyncIterator[np.ndarray]:
                for x in repeat(inputs(1)[0]):
                    yield x

            source: Any = repeat(inputs(1)[0]) if broken else endlessly()
            async with client.explain_many(MODEL, source, order="completion") as stream:
                async for outcome in stream:
                    check(outcome)
                    break
            assert await asyncio.to_thread(servicer.ended.wait, 5)
            with pytest.raises(CallCancelledError):
                async for _ in stream:
                    pass

    for broken in (True, False):
        asyncio.run(run(broken))
    no_threads_left()


def test_a_closed_client_says_so(driver: Any, server: Server) -> None:
    _, target = server
    with Client(target) as client:
        stream = client.explain_many(MODEL, inputs(2))
    with pytest.raises(ClientError, match="is closed"):
        for _ in stream:
            pass

    async def run() -> None:
        async with AsyncClient(target) as made:
            late = made.explain_many(MODEL, inputs(2))
        with pytest.raises(ClientError, match="is closed"):
            async for _ in late:
                pass

    asyncio.run(run())


def test_a_client_that_is_closed_in_the_middle(server: Server) -> None:
    """Also while the call waits for its next input."""
    servicer, target = server
    servicer.play_streams(serve_all)
    closed = threading.Event()

    def source() -> Iterator[np.ndarray]:
        yield inputs(1)[0]
        closed.wait(10)

    client = Client(target)
    stream = iter(client.explain_many(MODEL, source()))
    check(next(stream))
    timer = threading.Timer(0.1, client.close)
    timer.start()
    with pytest.raises(CallCancelledError):
        next(stream)
    timer.join()
    closed.set()
    no_threads_left()
