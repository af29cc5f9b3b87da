"""Calls against a real server over loopback; a tiny engine stands in for the computation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import model_repository_pb2 as repo
from naflow_server.auth import Tokens
from naflow_server.calls import Calls
from naflow_server.engine import types
from naflow_server.metrics import Metrics
from support.grpc_server import (
    Running,
    Stubs,
    TinyEngine,
    assembled,
    details,
    request,
    running,
    settings,
    stubs,
    unpacked,
)
from support.timed import timed, within

CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def engine() -> TinyEngine:
    return TinyEngine()


@pytest.fixture(scope="module")
def server(engine: TinyEngine) -> Iterator[Running]:
    limits = {"calls": 8, "stream_requests": 4, "message_bytes": 1 << 20}
    with running(settings(limits=limits), lambda _: engine) as started:
        yield started


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Stubs]:
    with stubs(server.address) as made:
        yield made


def until(condition: Callable[[], bool], seconds: float = 2.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def at_rest(server: Running, engine: TinyEngine) -> bool:
    gauges = server.gauge("naflow_open_calls") + server.gauge("naflow_explanations_in_progress")
    return engine.running == 0 and gauges == 0


def test_a_stream_has_header_layers_deepest_first_and_summary(stub: Stubs, engine: TinyEngine) -> None:
    x = np.array([[[[1.5, 2.0], [3.0, -1.0]]]], np.float32)
    events = list(stub.explanation.Explain(request(x, request_id="mine", top_k=2)))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["header", *["layer_flow"] * 4, "summary"]
    assert {event.request_id for event in events} == {"mine"}
    assert [event.layer_flow.index for event in events[1:-1]] == [3, 2, 1, 0]
    header = events[0].header
    assert (header.model_name, header.model_version, header.total_layers) == ("tiny", "1", 4)
    assert header.total_bytes == 4 * 9 * 4
    (prediction,) = header.predictions
    assert [(best.class_index, best.score) for best in prediction.best] == [(2, 2.0), (1, 1.0)]
    assert prediction.target.class_index == 2
    maps = assembled(events)
    for index in range(4):
        np.testing.assert_array_equal(maps[index], engine.map(index, x))
    assert events[-1].summary.layers_sent == 4
    assert not events[-1].summary.HasField("error")


def test_request_id_comes_back(stub: Stubs) -> None:
    call = stub.explanation.Explain(request(), metadata=(("x-request-id", "from-metadata"),))
    assert {event.request_id for event in call} == {"from-metadata"}
    assert ("x-request-id", "from-metadata") in call.trailing_metadata()
    made = {event.request_id for event in stub.explanation.Explain(request())}
    assert len(made) == 1
    assert len(made.pop()) == 32


@timed
@pytest.mark.parametrize("rpc", ["Explain", "ExplainStream"])
def test_cancelling_frees_everything(rpc: str, stub: Stubs, engine: TinyEngine, server: Running) -> None:
    engine.released.clear()
    try:
        two = [request(request_id="a"), request(request_id="b")]
        argument = request() if rpc == "Explain" else forever(two)
        call = getattr(stub.explanation, rpc)(argument)
        assert next(call).HasField("header")
        assert engine.running > 0
        began = time.monotonic()
        call.cancel()
        assert until(lambda: at_rest(server, engine))
        within(time.monotonic() - began, 0.5)
    finally:
        engine.released.set()


@pytest.mark.parametrize("rpc", ["Explain", "ExplainStream"])
def test_a_dropped_connection_frees_everything(rpc: str, engine: TinyEngine, server: Running) -> None:
    engine.released.clear()
    try:
        with stubs(server.address) as own:
            argument = request() if rpc == "Explain" else forever([request()])
            call = getattr(own.explanation, rpc)(argument)
            assert next(call).HasField("header")
        assert until(lambda: at_rest(server, engine))
    finally:
        engine.released.set()


@pytest.mark.parametrize("rpc", ["Explain", "ExplainStream"])
def test_a_deadline_ends_the_work(rpc: str, stub: Stubs, engine: TinyEngine, server: Running) -> None:
    engine.released.clear()
    try:
        argument = request() if rpc == "Explain" else forever([request()])
        with pytest.raises(grpc.RpcError) as caught:
            list(getattr(stub.explanation, rpc)(argument, timeout=0.2))
        assert caught.value.code() == CODE.DEADLINE_EXCEEDED
        assert until(lambda: at_rest(server, engine))
        assert engine.requests[-1].deadline is not None
    finally:
        engine.released.set()


def test_requests_without_deadline_get_the_servers(stub: Stubs, engine: TinyEngine) -> None:
    list(stub.explanation.Explain(request()))
    left = engine.requests[-1].deadline
    assert left is not None
    assert 500 < left - time.monotonic() <= 600


def test_an_error_of_the_engine_keeps_its_reason(stub: Stubs, engine: TinyEngine) -> None:
    engine.error = types.EngineError(
        types.Code.RESOURCE_EXHAUSTED,
        "the queue of model 'tiny' is full",
        hint="try again later",
        retry_after=0.75,
        reason="queue_full",
    )
    try:
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.explanation.Explain(request(request_id="q")))
    finally:
        engine.error = None
    assert caught.value.code() == CODE.RESOURCE_EXHAUSTED
    assert "queue of model 'tiny' is full" in caught.value.details()
    found = details(caught.value)
    assert found["google.rpc.ErrorInfo"].reason == "QUEUE_FULL"
    assert found["google.rpc.ErrorInfo"].domain == "naflow"
    assert found["google.rpc.ErrorInfo"].metadata["hint"] == "try again later"
    assert found["google.rpc.RetryInfo"].retry_delay.ToMilliseconds() == 750


def test_a_defect_tells_nothing_but_where_to_look(
    stub: Stubs, engine: TinyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.error = ValueError("secret inner state")
    try:
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.explanation.Explain(request(), metadata=(("x-request-id", "look-here"),)))
        answers = list(stub.explanation.ExplainStream(iter([request(request_id="s")])))
    finally:
        engine.error = None
    assert caught.value.code() == CODE.INTERNAL
    assert "secret" not in caught.value.details()
    assert "look-here" in caught.value.details()
    assert details(caught.value)["google.rpc.ErrorInfo"].metadata["request_id"] == "look-here"
    assert answers[-1].summary.error.code == CODE.INTERNAL.value[0]
    assert "secret inner state" in caplog.text


def test_unknown_model_names_the_field(stub: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        next(stub.explanation.Explain(request(model="absent")))
    assert caught.value.code() == CODE.NOT_FOUND
    (violation,) = details(caught.value)["google.rpc.BadRequest"].field_violations
    assert violation.field == "model_name"


def forever(first: list[ex.ExplainRequest]) -> Iterator[ex.ExplainRequest]:
    """Requests, and then a stream that stays open for some seconds."""
    yield from first
    threading.Event().wait(5)


def test_many_requests_on_one_stream(stub: Stubs, engine: TinyEngine) -> None:
    pictures = {f"r{n}": np.full((1, 1, 2, 2), n, np.float32) for n in range(20)}
    events = list(stub.explanation.ExplainStream(request(x, request_id=name) for name, x in pictures.items()))
    for name, x in pictures.items():
        own = [event for event in events if event.request_id == name]
        assert own[0].HasField("header")
        assert own[-1].HasField("summary")
        maps = assembled(own)
        for index in range(4):
            np.testing.assert_array_equal(maps[index], engine.map(index, x))


def test_one_failed_request_leaves_the_others(stub: Stubs) -> None:
    models = {"good": "tiny", "bad": "absent", "last": "tiny"}
    asked = (request(request_id=name, model=model) for name, model in models.items())
    events = list(stub.explanation.ExplainStream(asked))
    ends = {event.request_id: event.summary for event in events if event.HasField("summary")}
    assert set(ends) == {"good", "bad", "last"}
    assert not ends["good"].HasField("error")
    assert not ends["last"].HasField("error")
    assert ends["bad"].error.code == CODE.NOT_FOUND.value[0]
    assert unpacked(ends["bad"].error)["google.rpc.BadRequest"].field_violations[0].field == "model_name"


def test_requests_without_id_are_numbered(stub: Stubs) -> None:
    call = stub.explanation.ExplainStream(iter([request(), request()]), metadata=(("x-request-id", "c"),))
    assert {event.request_id for event in call} == {"c/0", "c/1"}


def test_the_same_id_twice_in_flight_is_refused(stub: Stubs, engine: TinyEngine, server: Running) -> None:
    engine.released.clear()
    try:
        twice = [request(request_id="a"), request(request_id="a")]
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.explanation.ExplainStream(iter(twice)))
        assert caught.value.code() == CODE.INVALID_ARGUMENT
        assert until(lambda: at_rest(server, engine))
    finally:
        engine.released.set()


def test_an_empty_stream_ends_well(stub: Stubs) -> None:
    assert list(stub.explanation.ExplainStream(iter([]))) == []


def test_requests_in_flight_on_a_stream_are_limited(stub: Stubs, engine: TinyEngine) -> None:
    engine.released.clear()
    try:
        call = stub.explanation.ExplainStream(iter([request(request_id=str(n)) for n in range(10)]))
        events = [next(call) for _ in range(4)]
        assert all(event.HasField("header") for event in events)
        time.sleep(0.05)
        assert engine.running == 4
    finally:
        engine.released.set()
    events += list(call)
    assert sum(event.HasField("summary") for event in events) == 10


@timed
def test_a_reader_that_stalls_holds_up_the_engine_and_nobody_else(server: Running) -> None:
    engine, side = server.server.engine, 512  # 1 MiB maps: few of them fill the transport's buffers
    assert isinstance(engine, TinyEngine)
    layers, engine.layers = engine.layers, 200
    small, engine.side = engine.side, side
    try:
        with stubs(server.address) as slow:
            call = slow.explanation.Explain(request())
            next(call)
            began, before = engine.turns, -1
            while before != engine.turns:
                before = engine.turns
                time.sleep(0.1)
            assert before - began < 16  # MiB
            engine.layers, engine.side = layers, small
            with stubs(server.address) as quick:
                began = time.monotonic()
                assert len(list(quick.explanation.Explain(request()))) == 6
                within(time.monotonic() - began, 0.5)
            call.cancel()
    finally:
        engine.layers, engine.side = layers, small
    assert until(lambda: at_rest(server, engine))


def test_calls_over_the_limit_are_refused_with_a_time(
    server: Running, stub: Stubs, engine: TinyEngine
) -> None:
    engine.released.clear()
    try:
        calls = [stub.explanation.Explain(request()) for _ in range(8)]
        for call in calls:
            next(call)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.explanation.Explain(request()))
        assert caught.value.code() == CODE.RESOURCE_EXHAUSTED
        found = details(caught.value)
        assert found["google.rpc.ErrorInfo"].reason == "TOO_MANY_CALLS"
        assert found["google.rpc.RetryInfo"].retry_delay.ToMilliseconds() > 0
    finally:
        engine.released.set()
    for call in calls:
        assert list(call)[-1].HasField("summary")
    assert until(lambda: at_rest(server, engine))


def test_messages_over_the_limit_are_refused(stub: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.explanation.Explain(request(np.zeros((1, 1, 600, 600), np.float32))))
    assert caught.value.code() == CODE.RESOURCE_EXHAUSTED


def test_models_are_listed(stub: Stubs) -> None:
    (model,) = stub.repository.ListModels(repo.ListModelsRequest()).models
    assert model.model_name == "tiny"
    assert model.ready
    assert [version.state for version in model.versions] == [repo.MODEL_STATE_READY]


def test_metrics_count_calls_and_explanations(stub: Stubs, server: Running) -> None:
    labels = {"rpc": "/naflow.v1.ExplanationService/Explain", "code": "OK"}
    before = server.gauge("naflow_calls_total", **labels)
    layers = server.gauge("naflow_layers_total", model="tiny", outcome="sent")
    list(stub.explanation.Explain(request()))
    assert until(lambda: server.gauge("naflow_calls_total", **labels) == before + 1)
    assert server.gauge("naflow_layers_total", model="tiny", outcome="sent") == layers + 4
    assert server.gauge("naflow_explanations_total", model="tiny", code="OK") > 0


def test_the_server_waits_for_what_grpc_still_does_for_a_call() -> None:
    """Its own tasks outlast the handlers: they still write the status."""

    async def work() -> None:
        given = settings()
        calls = Calls(Tokens(given.security), 1, Metrics())
        asked = SimpleNamespace(method="/naflow.v1.ExplanationService/Explain", invocation_metadata=())

        async def no_handler(_: object) -> None:
            return None

        async def rpc() -> None:
            await calls.intercept_service(no_handler, asked)
            await asyncio.sleep(0.2)

        inner = asyncio.create_task(rpc())
        outer = asyncio.create_task(asyncio.wait({inner}))  # as grpc waits for it
        await asyncio.sleep(0.05)
        await calls.wait_settled(0.01)
        assert not inner.done()
        await calls.wait_settled(20)
        assert inner.done()
        assert outer.done()

    asyncio.run(work())
