"""Maps that wait for a reader come together where it asked; nothing else about an answer changes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

import naflow_core as nf
from naflow.v1 import explanation_pb2 as ex
from naflow_server.engine import types
from naflow_server.engine.call import Call
from naflow_server.engine.event_queue import EventQueue
from support.benchmarks import script
from support.grpc_server import (
    Running,
    Stubs,
    TinyEngine,
    apart,
    assembled,
    diagnostics,
    request,
    running,
    settings,
    stubs,
)

CODE = grpc.StatusCode
MIB = 1 << 20
SCORES = np.array([[0.25, 0.75]], np.float32)
FAILURE = types.LayerFailure(2, "t2", types.Code.INTERNAL, "not finite", "numerical")


def flow(index: int, side: int) -> types.LayerFlow:
    values = np.random.default_rng(index).random((1, side, side), np.float32)
    return types.LayerFlow(nf.Flow(index, f"t{index}", values, diagnostics(1)))


def answer(sides: Sequence[int]) -> list[types.Event]:
    """A whole answer, with a map of each side, in the order of the stream."""
    numbered = [*zip(reversed(range(len(sides))), sides, strict=True)]
    flows: list[types.Event] = [flow(index, side) for index, side in numbered]
    layers = [types.LayerInfo(index, f"t{index}", (1, side, side)) for index, side in numbered]
    prediction = nf.Prediction("y", SCORES, SCORES, "", np.array([1]), SCORES[:, 1])
    header = types.Header("tiny", "1", "0" * 64, prediction, tuple(reversed(layers)))
    return [header, *flows, types.Summary(len(sides), 0, types.Seconds(0.0, 0.0, 0.0, 0.0), 0, 1)]


class Queued(TinyEngine):
    """Answers through the queue of a call, in which all `events` wait when the reader comes.

    Attributes:
        end: how a call ends when they are out; False: it does not.
        calls: those that were made.
        room: of a call's queue, in events and bytes.
    """

    room = (4, 0)

    def __init__(self) -> None:
        super().__init__()
        self.events: list[types.Event] = []
        self.end: types.EngineError | bool = True
        self.calls: list[Call] = []

    def explain(self, request: types.ExplainRequest) -> Any:
        """As the engine's."""
        loop = asyncio.get_running_loop()
        call = Call(request, 1, queue=EventQueue(*self.room), progress_seconds=5.0, loop=loop)
        self.calls.append(call)
        self.fill(call)
        return call

    def fill(self, call: Call) -> None:
        """Put everything into the queue."""
        call.put(*self.events)
        if self.end:
            call.settle(None if self.end is True else self.end)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Queued, Running, Stubs]]:
    engine = Queued()
    with running(settings(), lambda _: engine) as server, stubs(server.address) as stub:
        yield engine, server, stub


@pytest.fixture
def engine(served: tuple[Queued, Running, Stubs]) -> Queued:
    served[0].events, served[0].end, served[0].calls = answer([3] * 4), True, []
    return served[0]


@pytest.fixture
def stub(served: tuple[Queued, Running, Stubs]) -> Stubs:
    return served[2]


def explain(stub: Stubs, grouped: bool, **fields: Any) -> list[ex.ExplainEvent]:
    return list(stub.explanation.Explain(request(request_id="r", grouped_flows=grouped, **fields)))


def groups(events: Sequence[ex.ExplainEvent]) -> list[int]:
    """Maps in each group."""
    return [len(event.layer_flows.flows) for event in events if event.HasField("layer_flows")]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([3] * 7, [7]),
        ([3], []),
        ([], []),
        ([256] * 7, [4, 3]),  # four have 1 MiB
        ([256, 256, 256, 257, 256], [3, 2]),
        ([362] * 3, [2]),
        ([363] * 3, []),
        ([512, 3, 3, 512], [2]),
        ([3, 3, 513, 3, 3], [2, 2]),  # the third comes in pieces
        ([513, 513, 3], []),
    ],
)
def test_a_grouped_answer_is_the_same_answer(
    sides: list[int], expected: list[int], engine: Queued, stub: Stubs
) -> None:
    engine.events = answer(sides)
    alone, together = explain(stub, False), explain(stub, True)
    assert groups(alone) == []
    assert groups(together) == expected
    assert list(apart(together)) == alone
    maps = assembled(together)
    for event in engine.events[1:-1]:
        assert isinstance(event, types.LayerFlow)
        assert maps[event.flow.index].tobytes() == event.flow.map.tobytes()
    for event in together:
        assert sum(len(item.data) for item in event.layer_flows.flows) <= MIB
        assert len(event.layer_flows.flows) != 1


def test_everything_else_keeps_its_own_message_and_its_place(engine: Queued, stub: Stubs) -> None:
    header, *flows, summary = answer([3] * 5)
    alive = types.Progress(3, 5, "t3", 0.5)
    engine.events = [header, *flows[:2], FAILURE, *flows[3:4], alive, *flows[4:], summary]
    alone, together = explain(stub, False), explain(stub, True)
    assert [event.WhichOneof("event") for event in together] == [
        "header",
        "layer_flows",
        "layer_error",
        "layer_flow",
        "progress",
        "layer_flow",
        "summary",
    ]
    assert list(apart(together)) == alone


def test_a_map_never_waits_for_the_next(engine: Queued, stub: Stubs) -> None:
    header, *rest = answer([3] * 4)
    engine.events, engine.end = [header], False
    call = stub.explanation.Explain(request(grouped_flows=True))
    assert next(call).HasField("header")
    for event in rest[:-1]:
        engine.calls[0].put(event)
        assert isinstance(event, types.LayerFlow)
        assert next(call).layer_flow.index == event.flow.index
    engine.calls[0].put(*rest[-1:])
    engine.calls[0].settle()
    assert next(call).HasField("summary")
    assert list(call) == []


def test_every_map_of_a_group_is_counted(
    engine: Queued, stub: Stubs, served: tuple[Queued, Running, Stubs]
) -> None:
    counted = {"model": "tiny", "outcome": "sent"}
    before = served[1].gauge("naflow_layers_total", **counted)
    assert groups(explain(stub, True)) == [4]
    assert served[1].gauge("naflow_layers_total", **counted) == before + 4


def test_a_reference_does_not_change_the_groups(
    engine: Queued, stub: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Call, "reference_scores", lambda self, output: SCORES)
    alone, together = (explain(stub, grouped, reference_prediction=True) for grouped in (False, True))
    assert together[0].header.predictions[0].HasField("reference")
    assert groups(together) == [4]
    assert list(apart(together)) == alone


def test_each_request_of_a_stream_gets_what_it_asked_for(engine: Queued, stub: Stubs) -> None:
    engine.events = answer([256] * 7)
    asked = {f"{n}": n % 2 == 0 for n in range(8)}
    sent = (request(request_id=name, grouped_flows=grouped) for name, grouped in asked.items())
    events = list(stub.explanation.ExplainStream(sent))
    for name, grouped in asked.items():
        own = [event for event in events if event.request_id == name]
        assert groups(own) == ([4, 3] if grouped else [])
        kinds = [event.WhichOneof("event") for event in apart(own)]
        assert kinds == ["header", *["layer_flow"] * 7, "summary"]
        assert sorted(assembled(own)) == list(range(7))


def cancelled(call: Any) -> None:
    call.cancel()


def out_of_time(call: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == CODE.DEADLINE_EXCEEDED


@pytest.mark.parametrize("end", [cancelled, out_of_time])
@pytest.mark.parametrize("rpc", ["Explain", "ExplainStream"])
def test_an_end_between_groups_ends_the_work(
    rpc: str, end: Callable[[Any], None], engine: Queued, stub: Stubs
) -> None:
    engine.events, engine.end = engine.events[:-1], False
    message, goes_on = request(grouped_flows=True), threading.Event()

    def stream() -> Iterator[ex.ExplainRequest]:
        yield message
        goes_on.wait(20)

    argument = message if rpc == "Explain" else stream()
    call = getattr(stub.explanation, rpc)(argument, timeout=0.4 if end is out_of_time else 20)
    try:
        assert next(call).HasField("header")
        assert len(next(call).layer_flows.flows) == 4
        end(call)
        patience = time.monotonic() + 10
        while not engine.calls[0].settled and time.monotonic() < patience:
            time.sleep(0.005)
        assert engine.calls[0].settled
    finally:
        goes_on.set()


def test_an_error_comes_after_the_maps_before_it(engine: Queued, stub: Stubs) -> None:
    engine.events = engine.events[:-1]
    engine.end = types.EngineError(types.Code.RESOURCE_EXHAUSTED, "no memory", reason="out_of_memory")
    call = stub.explanation.Explain(request(grouped_flows=True))
    assert next(call).HasField("header")
    assert len(next(call).layer_flows.flows) == 4
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() == CODE.RESOURCE_EXHAUSTED


class Fed(Queued):
    """Its events come from a thread that waits for room, as a computation does."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0
        self.feeder = script("service_overhead").Feeder()
        self.feeder.start()

    def fill(self, call: Call) -> None:
        """Hand the call over to the thread."""

        def counted() -> Iterator[types.Event]:
            for event in self.events:
                self.taken += 1
                yield event

        self.feeder.add(call, counted())


def test_a_reader_that_stalls_holds_few_maps() -> None:
    engine = Fed()
    engine.events = answer([128] * 600)  # 64 KiB each
    with running(settings(), lambda _: engine) as server, stubs(server.address) as stub:
        call = stub.explanation.Explain(request(grouped_flows=True))
        events = [next(call)]
        before = -1
        while before != engine.taken:
            before = engine.taken
            time.sleep(0.2)
        assert before < 256  # 16 MiB, nearly all in the transport's buffers
        events += call
    assert sorted(assembled(events)) == list(range(600))
    assert max(groups(events)) <= 5  # what waits, and the one that came with it


def a_call(queue: EventQueue) -> Call:
    """Of the loop that runs."""
    loop = asyncio.get_running_loop()
    return Call(types.ExplainRequest("tiny", {}), 1, queue=queue, progress_seconds=5.0, loop=loop)


@pytest.mark.parametrize(
    ("events", "size", "sides", "fits"),
    [
        (4, 0, [8] * 6, 4),  # by count
        (4, 6 * 256, [8] * 9, 6),  # small maps by their bytes
        (2, 3 * 256, [16] * 5, 2),  # 1 KiB each: the bytes are reached before the count
        (2, 3 * 256, [8, 16, 8], 2),
    ],
)
def test_a_queue_is_full_by_count_and_by_bytes(events: int, size: int, sides: list[int], fits: int) -> None:
    queue = EventQueue(events, size)
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
        call = a_call(EventQueue(8, 0))
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


class Trickling(Queued):
    """Its maps come one after the other, as from a computation."""

    room = (4, MIB)

    def fill(self, call: Call) -> None:
        """Put the events in from another thread."""

        def work() -> None:
            for event in self.events:
                call.put(event)
                time.sleep(0.002)
            call.settle()

        threading.Thread(target=work, daemon=True).start()


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_maps_that_come_soon_after_each_other_travel_together(seconds: float) -> None:
    engine = Trickling()
    engine.events = answer([3] * 40)
    chosen = settings(limits={"gather_seconds": seconds})
    with running(chosen, lambda _: engine) as server, stubs(server.address) as stub:
        events = explain(stub, grouped=True)
        assert sorted(assembled(events)) == list(range(40))
        assert events[1].HasField("layer_flow")  # the first map waits for no other
        if seconds:
            assert (
                len(events) == 4
            )  # header, the first map, all others while the summary is not there, summary
        assert len(explain(stub, grouped=False)) == 42


def test_what_waits_is_taken_up_to_a_size() -> None:
    async def work() -> None:
        told: list[Call] = []
        call = a_call(EventQueue(4, 0))
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
