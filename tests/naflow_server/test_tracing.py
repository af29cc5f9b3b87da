"""Spans as a collector gets them, and nothing of OpenTelemetry where nobody asks for it."""

from __future__ import annotations

import builtins
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from naflow.v1 import method_pb2 as me
from naflow.v1 import model_repository_pb2 as repo
from naflow_server.app import Server
from naflow_server.engine import Engine
from naflow_server.settings import SettingsError
from naflow_server.tracing import tracing_from_environment
from support.blocks import network, picture
from support.collector import Collector, collector, values
from support.engines import install
from support.grpc_server import Running, Stubs, request, running, settings, stubs
from support.server_process import server_process

EXPLAIN = "naflow.v1.ExplanationService/Explain"
STREAM = "naflow.v1.ExplanationService/ExplainStream"
SPINE = me.Layers(set=me.LAYER_SET_SPINE)
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def _no_outer_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def spans() -> Iterator[Collector]:
    with collector() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, spans: Collector) -> Iterator[Running]:
    """A server that batches, configured by the environment alone."""
    folder = tmp_path_factory.mktemp("models")
    install(folder, "residual", network("residual"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.address)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        patch.setenv("OTEL_SERVICE_NAME", "explains")
        tracing = tracing_from_environment()
    assert tracing is not None
    sections: dict[str, Any] = {
        "repository": {"path": folder},
        "batching": {"pictures": 4, "window_seconds": 0.5},
        "limits": {"calls": 3},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.grpc_server.Server", lambda *given: Server(*given, tracing))
        with running(settings(**sections), Engine) as started:
            yield started


@pytest.fixture(autouse=True)
def _clean(spans: Collector) -> None:
    spans.clear()


@pytest.fixture
def stub(server: Running) -> Iterator[Stubs]:
    with stubs(server.address) as made:
        yield made


def asked(seed: int = 0, **fields: Any) -> Any:
    return request(picture(seed), "residual", **{"layers": SPINE, **fields})


def check_inside(inner: Span, outer: Span) -> None:
    """Belongs to it, by identity and in time (clocks are read one after the other: 5 ms)."""
    assert (inner.trace_id, inner.parent_span_id) == (outer.trace_id, outer.span_id)
    slack = 5_000_000
    assert outer.start_time_unix_nano - slack <= inner.start_time_unix_nano <= inner.end_time_unix_nano
    assert inner.end_time_unix_nano <= outer.end_time_unix_nano + slack


def test_a_call_is_a_child_of_the_callers_span(stub: Stubs, spans: Collector) -> None:
    metadata = (("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"), ("x-request-id", "one"))
    events = list(stub.explanation.Explain(asked(), metadata=metadata, timeout=120))
    (call,) = spans.wait(EXPLAIN, 1)
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert call.kind == Span.SPAN_KIND_SERVER
    assert values(call.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "naflow.v1.ExplanationService",
        "rpc.method": "Explain",
        "rpc.grpc.status_code": 0,
        "naflow.request_id": "one",
        "naflow.code": "OK",
    }
    assert call.status.code == Status.STATUS_CODE_UNSET
    (explanation,) = spans.wait("explanation", 1)
    check_inside(explanation, call)
    assert values(explanation.attributes)["naflow.model"] == "residual"
    (queue,), (forward,) = spans.named("queue"), spans.named("forward")
    layers = spans.named("layer")
    for span in (queue, forward, *layers):
        check_inside(span, explanation)
    assert queue.end_time_unix_nano <= forward.start_time_unix_nano + 1_000_000
    sent = {event.layer_flow.tensor: event.layer_flow for event in events if event.HasField("layer_flow")}
    mapped = {}
    for span in layers:
        told = values(span.attributes)
        if "naflow.index" in told:
            mapped[told["naflow.tensor"]] = told
    assert list(mapped) == list(sent)
    for tensor, flow in sent.items():
        own = flow.diagnostics.pictures[0]
        assert mapped[tensor]["naflow.index"] == flow.index
        assert mapped[tensor]["naflow.rule"] == flow.diagnostics.rule
        assert mapped[tensor]["naflow.iterations"] == own.iterations
        assert mapped[tensor]["naflow.converged"] == own.converged
    assert any(told["naflow.iterations"] for told in mapped.values())
    ends = [span.end_time_unix_nano for span in layers]
    assert ends == sorted(ends)
    assert spans.resources[-1]["service.name"] == "explains"


def test_requests_that_share_a_batch_keep_their_own_traces(stub: Stubs, spans: Collector) -> None:
    def explain(seed: int) -> None:
        list(stub.explanation.Explain(asked(seed, request_id=f"r{seed}"), timeout=120))

    threads = [threading.Thread(target=explain, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = spans.wait(EXPLAIN, 3)
    assert len({call.trace_id for call in calls}) == 3
    sizes = set()
    for explanation in spans.wait("explanation", 3):
        own = [s for s in spans.named("layer") if s.parent_span_id == explanation.span_id]
        assert len(own) == len(spans.named("layer")) / 3
        (forward,) = [s for s in spans.named("forward") if s.parent_span_id == explanation.span_id]
        sizes.add(values(forward.attributes)["naflow.batch_pictures"])
        assert [s for s in spans.named("queue") if s.parent_span_id == explanation.span_id]
    assert max(sizes) > 1


def test_a_stream_has_an_explanation_for_each_request(stub: Stubs, spans: Collector) -> None:
    wanted = [asked(0, request_id="good"), asked(1, request_id="bad", model_version="77")]
    list(stub.explanation.ExplainStream(iter(wanted), timeout=120))
    (call,) = spans.wait(STREAM, 1)
    found = {values(s.attributes)["naflow.request_id"]: s for s in spans.wait("explanation", 2)}
    assert set(found) == {"good", "bad"}
    for span in found.values():
        check_inside(span, call)
    assert values(found["good"].attributes)["naflow.code"] == "OK"
    assert values(found["bad"].attributes)["naflow.code"] == "NOT_FOUND"


def test_refused_calls_and_others_have_spans_too(stub: Stubs, spans: Collector, server: Running) -> None:
    stub.repository.ListModels(repo.ListModelsRequest())
    (listed,) = spans.wait("naflow.v1.ModelRepositoryService/ListModels", 1)
    assert values(listed.attributes)["naflow.code"] == "OK"
    hold = threading.Event()

    def waiting() -> Iterator[Any]:
        hold.wait(20)
        yield from ()

    held = [stub.explanation.ExplainStream(waiting()) for _ in range(3)]
    while server.gauge("naflow_open_calls") < 3:
        hold.wait(0.01)
    with pytest.raises(grpc.RpcError):
        stub.repository.ListModels(repo.ListModelsRequest())
    hold.set()
    for call in held:
        list(call)
    refused = spans.wait("naflow.v1.ModelRepositoryService/ListModels", 2)[-1]
    assert values(refused.attributes)["naflow.code"] == "RESOURCE_EXHAUSTED"
    assert refused.status.code == Status.STATUS_CODE_UNSET  # the caller's doing


def test_what_the_caller_does_not_sample_is_not_recorded(stub: Stubs, spans: Collector) -> None:
    metadata = (("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-00"),)
    list(stub.explanation.Explain(asked(), metadata=metadata, timeout=120))
    list(stub.explanation.Explain(asked(), metadata=(("traceparent", "nonsense"),), timeout=120))
    (call,) = spans.wait(EXPLAIN, 1)
    assert not call.parent_span_id


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SERVICE_NAME": "a name switches nothing on"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"},
    ],
)
def test_off(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing_from_environment() is None


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER: there is no exporter 'jaeger'"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf' is not supported",
        ),
    ],
)
def test_what_cannot_be_is_named(
    variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named):
        tracing_from_environment()


def test_asked_for_but_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r"pip install 'naflow\[tracing\]'"):
        tracing_from_environment()


def test_nothing_is_imported_where_nobody_asks() -> None:
    program = "import sys; import naflow_server.app; from naflow_server.tracing import *; "
    program += "assert tracing_from_environment() is None; "
    program += "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_collector_that_is_gone_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    tracing = tracing_from_environment()
    assert tracing is not None
    span = tracing.call("/a.B/C", {}, "id")
    assert span is not None
    span.end("OK")
    began = time.monotonic()
    tracing.close(0.2)
    assert time.monotonic() - began < 3


def test_the_last_spans_are_sent_when_the_process_ends(tmp_path: Path, spans: Collector) -> None:
    """As `naflow serve` runs: the batch has not been sent when SIGTERM comes."""
    (tmp_path / "models").mkdir()
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": spans.address, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    with server_process(tmp_path / "models", **variables) as started:
        port = started.log_until("listening")["port"]
        started.log_until("serving")
        with stubs(f"127.0.0.1:{port}") as stub:
            stub.repository.ListModels(repo.ListModelsRequest())
        assert started.stop() == 0
    assert len(spans.named("naflow.v1.ModelRepositoryService/ListModels")) == 1
    assert spans.resources[-1]["service.name"] == "naflow"
