"""Many inputs over one call, scripted server: order, one input's errors, resending, reading ahead."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from naflow.v1 import explanation_pb2, model_report_pb2
from naflow_client import (
    AccessError,
    AsyncClient,
    BrokenStreamError,
    BusyError,
    Client,
    ClientError,
    Flow,
    Header,
    Keyed,
    Outcome,
    PictureError,
    Progress,
    RequestError,
    Summary,
    UnavailableError,
)
from support.explanation_server import (
    MODEL,
    Event,
    Scripted,
    ScriptedError,
    come_back,
    header,
    info,
    refusal,
    tagged,
)
from support.many_inputs import check, inputs, sent, serve_all, value, whole

Server = tuple[Scripted, str]
DOWN = ScriptedError(grpc.StatusCode.UNAVAILABLE, "going down", info("SHUTTING_DOWN"), come_back(0.01))
BUSY = ScriptedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", info("QUEUE_FULL"), come_back(0.01))
WRONG = ScriptedError(grpc.StatusCode.INVALID_ARGUMENT, "wrong shape", info("INPUT_INVALID"))


def test_every_input_in_order(driver: Any, server: Server) -> None:
    servicer, target = server
    servicer.play_streams(serve_all)
    outcomes = driver.explain_many(target, MODEL, inputs(20), layers=["a"], target_class=2, request_id="mine")
    assert [outcome.index for outcome in outcomes] == [outcome.key for outcome in outcomes] == list(range(20))
    for outcome in outcomes:
        check(outcome)
    assert [request.request_id for request in servicer.requests] == [f"mine/{i}" for i in range(20)]
    assert all(list(request.layers.tensors) == ["a"] for request in servicer.requests)
    assert driver.explain_many(target, MODEL, []) == []
    keyed = driver.explain_many(target, MODEL, [Keyed("first", inputs(1)[0])])
    named = driver.explain_many(target, MODEL, {"first": inputs(1)[0]})
    assert keyed[0].key == named[0].key == "first"


def backwards(requests: Iterator[Any], context: Any) -> Iterator[Event]:
    """Answers four at a time, the last of them first, their events in turn."""
    waiting: list[Any] = []
    for request in requests:
        waiting.append(request)
        if len(waiting) == 4:
            for events in zip(*[whole(item) for item in reversed(waiting)], strict=True):
                yield from events
            waiting.clear()


def test_order(driver: Any, server: Server) -> None:
    servicer, target = server
    servicer.play_streams(backwards)
    ordered = driver.explain_many(target, MODEL, inputs(8), in_flight=4)
    assert [outcome.index for outcome in ordered] == list(range(8))
    ready = driver.explain_many(target, MODEL, inputs(8), in_flight=4, order="completion")
    assert [outcome.index for outcome in ready] == [3, 2, 1, 0, 7, 6, 5, 4]
    for outcome in (*ordered, *ready):
        check(outcome)


def test_one_failure_is_its_own(driver: Any, server: Server) -> None:
    servicer, target = server

    def script(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        for request in requests:
            yield from [refusal(request.request_id, WRONG)] if value(request) == 3 else whole(request)

    servicer.play_streams(script)
    given: list[Any] = inputs(8)
    given[5] = np.zeros((0, 3), np.float32)
    outcomes = driver.explain_many(target, MODEL, given)
    assert [type(outcome.error) for outcome in outcomes if outcome.result is None] == [RequestError] * 2
    assert outcomes[3].error.reason == "INPUT_INVALID"
    assert outcomes[5].error.field == "inputs"
    with pytest.raises(RequestError, match="wrong shape"):
        outcomes[3].get()
    for i in {0, 1, 2, 4, 6, 7}:
        check(outcomes[i])


def test_damage_is_one_inputs_own(driver: Any, server: Server) -> None:
    servicer, target = server

    def script(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        for request in requests:
            events = whole(request)
            if value(request) == 1:
                del events[1].layer_flow.shape[0]
            yield from events

    servicer.play_streams(script)
    outcomes = driver.explain_many(target, MODEL, inputs(3))
    assert isinstance(outcomes[1].error, BrokenStreamError)
    check(outcomes[0])
    check(outcomes[2])


def test_what_is_turned_away_comes_again(driver: Any, server: Server) -> None:
    servicer, target = server
    turned_away: set[int] = set()

    def script(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        for request in requests:
            i = value(request)
            if i % 2 and i not in turned_away:
                turned_away.add(i)
                alive = Event(progress=explanation_pb2.Progress(elapsed_seconds=1))
                yield from tagged([alive], request.request_id)
                yield refusal(request.request_id, BUSY if i == 1 else DOWN)
            else:
                yield from whole(request)

    servicer.play_streams(script)
    outcomes = driver.explain_many(target, MODEL, inputs(6))
    for outcome in outcomes:
        check(outcome)
    assert turned_away == {1, 3, 5}
    assert len(servicer.requests) == 9

    def full(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        for request in requests:
            yield refusal(request.request_id, BUSY)

    servicer.play_streams(full)
    outcomes = driver.explain_many(target, MODEL, inputs(2))
    assert [type(outcome.error) for outcome in outcomes] == [BusyError] * 2
    assert len(servicer.requests) == 8, "four attempts each"


def test_a_call_that_is_cut_goes_on_with_what_has_no_header(driver: Any, server: Server) -> None:
    """The first call answers 0, begins 1, gives a sign of life of 2, and ends with 2 and 3 unanswered."""
    servicer, target = server

    def cut(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        four = [next(requests) for _ in range(4)]
        yield from whole(four[0])
        yield from tagged([header(sent(1))], four[1].request_id)
        alive = Event(progress=explanation_pb2.Progress(elapsed_seconds=1))
        yield from tagged([alive], four[2].request_id)
        raise DOWN

    servicer.play_streams(cut, serve_all)
    outcomes = driver.explain_many(target, MODEL, inputs(6), in_flight=4)
    assert [outcome.index for outcome in outcomes] == list(range(6))
    assert isinstance(outcomes[1].error, UnavailableError)
    for i in (0, 2, 3, 4, 5):
        check(outcomes[i])
    assert sorted(value(request) for request in servicer.requests) == [0, 1, 2, 2, 3, 3, 4, 5]


def test_many_restarts_lose_nothing(driver: Any, server: Server) -> None:
    """Each call answers one input more: more calls than one input's attempts, yet nothing is lost."""
    servicer, target = server

    def one(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        yield from whole(next(requests))
        raise DOWN

    servicer.play_streams(*[one] * 12)
    for outcome in driver.explain_many(target, MODEL, inputs(10), in_flight=8):
        check(outcome)


def test_a_call_that_fails_for_good(driver: Any, server: Server) -> None:
    """What was read comes back with the reason, which is then raised."""
    servicer, target = server

    no = ScriptedError(grpc.StatusCode.UNAUTHENTICATED, "token expired")

    def refuse(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        next(requests)
        raise no
        yield

    def refuse_later(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        yield from whole(next(requests))
        next(requests)
        raise no

    def leave(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        next(requests)
        yield from ()

    servicer.play_streams(refuse)
    with pytest.raises(AccessError):
        driver.explain_many(target, MODEL, inputs(30))
    for script, kind in ((refuse_later, AccessError), (leave, BrokenStreamError)):
        servicer.play_streams(script)
        with Client(target) as client:
            outcomes: list[Outcome] = []
            with pytest.raises(kind):
                outcomes.extend(client.explain_many(MODEL, inputs(30), in_flight=4))
        assert 4 <= len(outcomes) <= 8
        assert [outcome.index for outcome in outcomes] == list(range(len(outcomes)))
        assert isinstance(outcomes[-1].error, kind)


def test_no_server(driver: Any) -> None:
    with pytest.raises(UnavailableError, match="localhost:1"):
        driver.explain_many("localhost:1", MODEL, inputs(3))


def test_deadline(driver: Any, server: Server) -> None:
    servicer, target = server

    def stall(requests: Iterator[Any], context: Any) -> Iterator[Event]:
        ended = threading.Event()
        context.add_callback(ended.set)
        next(requests)
        ended.wait(20)
        yield from ()

    servicer.play_streams(stall)
    begun = time.monotonic()
    with pytest.raises(ClientError) as caught:
        driver.explain_many(target, MODEL, inputs(3), deadline=0.3)
    assert caught.value.code == "deadline_exceeded"
    assert time.monotonic() - begun < 5


def test_inputs_are_not_read_far_ahead(driver: Any, server: Server) -> None:
    servicer, target = server
    servicer.play_streams(serve_all)
    read: list[int] = []

    def lazily() -> Iterator[np.ndarray]:
        for i, x in enumerate(inputs(30)):
            read.append(i)
            yield x

    with Client(target) as client:
        for outcome in client.explain_many(MODEL, lazily(), in_flight=3):
            time.sleep(0.01)
            assert len(read) <= outcome.index + 1 + 3
    assert len(read) == 30
    read.clear()

    async def run() -> None:
        async def slowly() -> AsyncIterator[np.ndarray]:
            for x in lazily():
                await asyncio.sleep(0)
                yield x

        async with AsyncClient(target) as client:
            async for outcome in client.explain_many(MODEL, slowly(), in_flight=3):
                await asyncio.sleep(0.01)
                assert len(read) <= outcome.index + 1 + 3

    asyncio.run(run())
    assert len(read) == 30


def test_an_answer_does_not_wait_for_the_next_input(server: Server) -> None:
    """A source that gives the next input only when the last one's outcome is there."""
    servicer, target = server
    servicer.play_streams(serve_all)
    taken = threading.Semaphore(1)

    def fed() -> Iterator[np.ndarray]:
        for x in inputs(4):
            assert taken.acquire(timeout=10)
            yield x

    with Client(target, deadline=30) as client:
        for outcome in client.explain_many(MODEL, fed()):
            check(outcome)
            taken.release()


def test_a_source_that_fails(driver: Any, server: Server) -> None:
    servicer, target = server
    servicer.play_streams(serve_all)

    def source() -> Iterator[np.ndarray]:
        yield from inputs(2)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        driver.explain_many(target, MODEL, source())
    with Client(target) as client:
        stream = iter(client.explain_many(MODEL, source()))
        check(next(stream))
        check(next(stream))
        with pytest.raises(OSError, match="the disk is gone"):
            next(stream)


@pytest.mark.parametrize("single", ["cat.jpg", Path("cat.jpg"), np.zeros((1, 1, 3, 4), np.float32), 7])
def test_a_single_input_is_refused(driver: Any, server: Server, single: Any) -> None:
    _, target = server
    with pytest.raises(RequestError, match="takes several inputs"):
        driver.explain_many(target, MODEL, single)
    for choices, named in (
        ({"order": "random"}, "order"),
        ({"in_flight": 0}, "in_flight"),
        ({"in_flight": 2.5}, "in_flight"),
        ({"layers": []}, "layers"),
    ):
        with pytest.raises(RequestError, match=named):
            driver.explain_many(target, MODEL, [], **choices)


def test_events(server: Server) -> None:
    servicer, target = server
    servicer.play_streams(backwards)
    with Client(target) as client:
        parts = list(client.explain_many(MODEL, inputs(4), in_flight=4).events())

    async def run() -> list[Any]:
        async with AsyncClient(target) as made:
            return [part async for part in made.explain_many(MODEL, inputs(4), in_flight=4).events()]

    for found in (parts, asyncio.run(run())):
        assert [part.index for part in found[:4]] == [3, 2, 1, 0]
        for i in range(4):
            kinds = [
                type(part.item) for part in found if part.index == i and not isinstance(part.item, Progress)
            ]
            assert kinds == [Header, Flow, Flow, Summary]
        assert [part.last for part in found] == [False] * 12 + [True] * 4


def test_pictures_one_unreadable(driver: Any, server: Server, tmp_path: Path) -> None:
    servicer, target = server
    from PIL import Image

    servicer.report.CopyFrom(explanation_pb2.InspectModelResponse(model_name=MODEL, model_version="1"))
    dims = [model_report_pb2.DeclaredDimension(size=n) for n in (1, 3, 6, 8)]
    servicer.report.report.inputs.add(name="", dtype="float", has_declared_shape=True, declared_shape=dims)
    for name in "ab":
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_text("no picture")
    servicer.play_streams(serve_all)
    files = [tmp_path / "a.png", tmp_path / "bad.png", tmp_path / "b.png"]
    outcomes = driver.explain_many(target, MODEL, files, preprocess="unit")
    assert isinstance(outcomes[1].error, PictureError)
    assert "bad.png" in str(outcomes[1].error)
    assert [outcomes[i].get().inputs.name(0) for i in (0, 2)] == ["a.png", "b.png"]
    inspections = [r for r in servicer.requests if isinstance(r, explanation_pb2.InspectModelRequest)]
    assert len(inspections) == 1, "the model is asked once"
