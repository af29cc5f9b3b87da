"""The prediction by onnxruntime: only when asked for, off the event loop, within the deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from naflow_server import convert, references
from naflow_server.engine.types import (
    Code,
    EngineError,
    Event,
    ExplainRequest,
    Header,
    LayerFlow,
    LayerInfo,
    Progress,
)
from naflow_server.references import References

SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], np.float32)
REQUEST = ExplainRequest("tiny", {"": np.zeros((2, 1), np.float32)})


class Slow:
    """A header, whose reference takes until `released`; how many are computed at once, and where."""

    released = threading.Event()

    def __init__(self, error: EngineError | None = None) -> None:
        self.error = error
        self.outputs: list[str] = []
        self.threads: set[int] = set()

    async def __anext__(self) -> Event:
        raise StopAsyncIteration

    async def __aiter__(self) -> AsyncIterator[Event]:
        target = np.array([1, 0])
        prediction = nf.Prediction("y", SCORES, SCORES, "", target, SCORES.max(axis=1))
        yield Header("tiny", "1", "0" * 64, prediction, (LayerInfo(0, "t", (2, 1, 1)),))
        yield Progress(1, 1, "t", 0.5)

    def waiting(self, room: int) -> tuple[LayerFlow, ...]:
        return ()

    async def gather(self, moment: float) -> None:
        return

    def reference_scores(self, output: str) -> np.ndarray:
        self.threads.add(threading.get_ident())
        self.outputs.append(output)
        assert self.released.wait(10)
        if self.error is not None:
            raise self.error
        return SCORES[:, ::-1].copy()


@pytest.fixture
def slow() -> Slow:
    Slow.released = threading.Event()
    return Slow()


async def events(slow: Slow, wanted: bool, request: ExplainRequest = REQUEST) -> list[Event]:
    async with References().beside(slow, request, wanted) as found:
        return [event async for event in found]


def test_who_does_not_ask_pays_nothing(slow: Slow) -> None:
    header, _ = asyncio.run(events(slow, wanted=False))
    assert isinstance(header, Header)
    assert header.reference is None
    assert slow.outputs == []


def test_the_event_loop_goes_on(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "PATIENCE", 0.02)

    async def run() -> list[Event]:
        loop = asyncio.get_running_loop()
        loop.call_later(0.15, Slow.released.set)
        return await events(slow, wanted=True)

    *alive, header, last = asyncio.run(run())
    assert 2 <= len(alive) <= 8
    assert all(isinstance(event, Progress) and event.total == 0 for event in alive)
    assert isinstance(header, Header)
    np.testing.assert_array_equal(header.reference, SCORES[:, ::-1])
    assert isinstance(last, Progress)
    assert slow.outputs == ["y"]
    assert threading.get_ident() not in slow.threads
    (message,) = convert.Answer(REQUEST, top_k=2).messages(header)
    first, second = message.header.predictions
    assert [row.class_index for row in first.reference.best] == [1, 0]
    assert list(first.reference.scores) == [SCORES[0, 1], SCORES[0, 0]]
    assert first.reference.largest_difference == pytest.approx(0.1 / 0.7)
    assert [row.class_index for row in second.best] == [0, 2]
    assert list(second.reference.scores) == [SCORES[1, 2], SCORES[1, 0]]


def test_one_at_a_time_and_forgotten_when_left(slow: Slow) -> None:
    async def run() -> None:
        shared = References()

        async def one(who: Slow) -> Any:
            async with shared.beside(who, REQUEST, True) as found:
                return [event async for event in found][-2]

        other, left = Slow(), Slow()
        first, second, third = (asyncio.create_task(one(who)) for who in (slow, left, other))
        while not slow.outputs:
            await asyncio.sleep(0.005)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert other.outputs == []
        Slow.released.set()
        for task in (first, third):
            assert (await task).reference is not None
        assert left.outputs == []
        assert slow.threads == other.threads

    asyncio.run(run())


def test_deadline_and_refusal(slow: Slow) -> None:
    late = ExplainRequest("tiny", REQUEST.inputs, deadline=time.monotonic() + 0.1)
    with pytest.raises(EngineError) as caught:
        asyncio.run(events(slow, True, late))
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    Slow.released.set()
    refusing = Slow(EngineError(Code.FAILED_PRECONDITION, "onnxruntime cannot run the model"))
    with pytest.raises(EngineError, match="onnxruntime cannot run"):
        asyncio.run(events(refusing, True))
