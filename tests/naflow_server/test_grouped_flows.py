"""Maps that wait for a reader come together where it asked; nothing else about an answer changes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from naflow.v1 import explanation_pb2 as ex
from naflow_server.engine import types
from naflow_server.engine.call import Call
from naflow_server.engine.event_queue import EventQueue
from support.answers import FAILURE, SCORES, answer
from support.benchmarks import script
from support.grpc_server import (
    Running,
    Stubs,
    TinyEngine,
    apart,
    assembled,
    request,
    running,
    settings,
    stubs,
)

CODE = grpc.StatusCode
MIB = 1 << 20


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


class Trickling(Queued):
    """Its maps come one after the other, as from a computation; all but the first when `more` is set."""

    room = (4, MIB)

    def __init__(self) -> None:
        super().__init__()
        self.more = threading.Event()

    def fill(self, call: Call) -> None:
        """Put the events in from another thread."""

        def work() -> None:
            call.put(*self.events[:2])
            self.more.wait()
            for event in self.events[2:]:
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
        call = stub.explanation.Explain(request(request_id="r", grouped_flows=True))
        events = [next(call), next(call)]
        assert events[1].HasField("layer_flow")  # the first map waits for no other
        engine.more.set()
        events += call
        assert sorted(assembled(events)) == list(range(40))
        if seconds:
            assert (
                len(events) == 4
            )  # header, the first map, all others while the summary is not there, summary
        assert len(explain(stub, grouped=False)) == 42
