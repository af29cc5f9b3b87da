"""Calls that end early: deadlines, leaving the block or the loop, cancellation, a closed client."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from naflow_client import AsyncClient, CallCancelledError, Client, ClientError, DeadlineError
from support.explanation_server import MODEL, Event, Scripted, answer, flow, header, maps

X = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 1, 3, 4)
Server = tuple[Scripted, str]


def stall(sent: list[np.ndarray]) -> Any:
    """A script that sends the first flow and then waits until the call ends."""

    def script(request: Any, context: Any) -> Iterator[Event]:
        ended = threading.Event()
        context.add_callback(ended.set)
        yield header(sent)
        yield from flow(len(sent) - 1, sent[-1])
        ended.wait(20)

    return script


def test_deadline(driver: Any, server: Server) -> None:
    servicer, target = server
    servicer.play(stall(maps(2)))
    begun = time.monotonic()
    with pytest.raises(DeadlineError):
        driver.explain(target, MODEL, X, deadline=0.3)
    with pytest.raises(DeadlineError):
        driver.explain(target, MODEL, X, client={"deadline": 0.3})
    assert time.monotonic() - begun < 5
    with pytest.raises(ClientError, match="deadline"):
        driver.explain(target, MODEL, X, deadline=0)


def leave_block(stream: Any) -> None:
    with stream:
        assert stream.header.prediction.target.index == 1


def break_loop(stream: Any) -> None:
    for item in stream:
        assert item.tensor == "t1"
        break


def cancel(stream: Any) -> None:
    assert stream.header
    stream.cancel()


@pytest.mark.parametrize("how", [leave_block, break_loop, cancel])
def test_leaving_cancels(server: Server, how: Any) -> None:
    servicer, target = server
    servicer.play(stall(maps(2)))
    with Client(target) as client:
        stream = client.explain(MODEL, X)
        how(stream)
        assert servicer.ended.wait(5)
        with pytest.raises(CallCancelledError):
            stream.collect()
        # the client goes on
        servicer.play(answer(maps(1)))
        assert len(client.explain(MODEL, X).collect().flows) == 1


def test_leaving_cancels_async(server: Server) -> None:
    servicer, target = server

    async def block(client: AsyncClient) -> Any:
        stream = client.explain(MODEL, X)
        async with stream:
            assert stream.header.prediction.target.index == 1
        return stream

    async def loop(client: AsyncClient) -> Any:
        stream = client.explain(MODEL, X)
        async for item in stream:
            assert item.tensor == "t1"
            break
        return stream

    async def task(client: AsyncClient) -> Any:
        stream = client.explain(MODEL, X)
        await stream.open()
        waiting = asyncio.ensure_future(stream.collect())
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return stream

    async def other(client: AsyncClient) -> Any:
        stream = client.explain(MODEL, X)
        await stream.open()
        asyncio.get_running_loop().call_later(0.1, stream.cancel)
        with pytest.raises(CallCancelledError):
            await stream.collect()
        return stream

    async def run(how: Any) -> None:
        servicer.play(stall(maps(2)))
        async with AsyncClient(target) as client:
            stream = await how(client)
            gc.collect()
            assert await asyncio.to_thread(servicer.ended.wait, 5), how.__name__
            with pytest.raises(CallCancelledError):
                await stream.collect()

    for how in (block, loop, task, other):
        asyncio.run(run(how))


def test_cancel_from_another_thread(server: Server) -> None:
    servicer, target = server
    servicer.play(stall(maps(2)))
    with Client(target) as client, client.explain(MODEL, X) as stream:
        threading.Timer(0.2, stream.cancel).start()
        with pytest.raises(CallCancelledError):
            stream.collect()


def test_a_closed_client_says_so(server: Server) -> None:
    _, target = server
    with Client(target) as client:
        pass
    with pytest.raises(ClientError, match="is closed"):
        client.explain(MODEL, X).collect()
    with pytest.raises(ClientError, match="is closed"):
        client.list_models()

    async def run() -> None:
        async with AsyncClient(target) as client:
            pass
        with pytest.raises(ClientError, match="is closed"):
            await client.explain(MODEL, X).collect()
        with pytest.raises(ClientError, match="is closed"):
            await client.list_models()
        with pytest.raises(ClientError, match="not open"):
            assert client.explain(MODEL, X).header

    asyncio.run(run())
