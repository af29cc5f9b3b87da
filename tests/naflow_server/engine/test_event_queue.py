"""What waits between a compute thread and a reader, and when the reader comes for it."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from naflow_server.engine import Call, EventQueue, types
from support.answers import FAILURE, answer

MIB = 1 << 20


def a_call(queue: EventQueue) -> Call:
    """Of the loop that runs."""
    loop = asyncio.get_running_loop()
    return Call(types.ExplainRequest("tiny", {}), 1, queue=queue, progress_seconds=5.0, loop=loop)


@pytest.mark.parametrize(
    ("events", "gathered", "sides", "fits"),
    [
        (4, 0, [8] * 6, 4),  # one by one
        (4, 6 * 256, [8] * 12, 6 + 4),  # behind those that are put together
        (4, 6 * 256 - 1, [8] * 12, 5 + 4),
        (2, 3 * 256, [16] * 5, 2),  # 1 KiB each: too large to be put together
    ],
)
def test_a_queue_is_full_with_so_many_events_behind_a_message(
    events: int, gathered: int, sides: list[int], fits: int
) -> None:
    queue = EventQueue(events, gathered)
    _, *flows, summary = answer(sides)
    taken = 0
    while not queue.full:
        queue.put(flows[taken])
        taken += 1
    assert len(queue) == taken == fits
    assert queue.worth_taking
    assert queue.take() is flows[0]
    assert not queue.full
    queue.put(*flows[taken:], summary)
    assert queue.take_flows(MIB) == flows[1:]
    assert [queue.take(), queue.take()] == [summary, None]
    queue.put(*flows)
    queue.clear()
    assert (len(queue), queue.full, queue.worth_taking) == (0, False, False)


async def woken_after(call: Call, seconds: float, *events: types.Event) -> float:
    """How long `gather` waits for `seconds` at most when these events come."""
    began = time.monotonic()
    gathering = asyncio.create_task(call.gather(began + seconds))
    await asyncio.sleep(0)
    for event in events:
        await asyncio.to_thread(call.put, event)
    await asyncio.wait_for(gathering, 20)
    return time.monotonic() - began


def test_maps_are_gathered_until_half_the_queue_or_something_else_waits() -> None:
    _, *flows, summary = answer([8] * 6)

    async def work() -> None:
        call = a_call(EventQueue(8))
        assert await woken_after(call, 0.15, *flows[:3]) >= 0.15
        assert call.waiting(MIB) == flows[:3]
        assert await woken_after(call, 15, *flows[:4]) < 10
        assert call.waiting(MIB) == flows[:4]
        assert await woken_after(call, 15, flows[0], summary) < 10
        assert await woken_after(call, 15) < 10  # the summary is there already
        assert (call.waiting(MIB), await anext(call)) == (flows[:1], summary)
        assert await woken_after(call, -1) < 10
        ending = asyncio.create_task(woken_after(call, 15, flows[0]))
        await asyncio.sleep(0.05)
        call.cancel()
        assert await ending < 10
        assert await woken_after(call, 15) < 10  # nothing more will come

    asyncio.run(work())


def test_a_reader_of_single_maps_is_woken_for_each() -> None:
    _, *flows, _summary = answer([8] * 3)

    async def work() -> None:
        call = a_call(EventQueue(8, MIB))
        for flow in flows:
            reading = asyncio.ensure_future(anext(call))
            await asyncio.sleep(0)
            await asyncio.to_thread(call.put, flow)
            assert await asyncio.wait_for(reading, 4) is flow

    asyncio.run(work())


def test_what_waits_is_taken_up_to_a_size() -> None:
    async def work() -> None:
        told: list[Call] = []
        call = a_call(EventQueue(4))
        call.on_room = told.append
        header, *flows = answer([8] * 3)[:-1]
        assert call.waiting(MIB) == []
        call.put(header, *flows)
        assert call.waiting(MIB) == []  # the header comes first
        assert await anext(call) is header
        assert call.waiting(255) == []
        assert call.waiting(2 * 256) == flows[:2]
        assert call.waiting(MIB) == flows[2:]
        await asyncio.sleep(0)
        assert told == [call]  # full once
        call.put(*flows, FAILURE, *flows)
        assert call.waiting(MIB) == flows
        await asyncio.sleep(0)
        assert told == [call] * 2
        call.cancel()
        assert call.waiting(MIB) == []
        with contextlib.suppress(types.EngineError):
            await anext(call)

    asyncio.run(work())
