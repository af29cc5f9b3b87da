"""Start, health, drain and stop, in this process and as `python -m` process under SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from naflow.v1 import explanation_pb2 as ex
from naflow_server.engine import types
from naflow_server.settings import SettingsError
from support.blocks import network, picture
from support.engines import install
from support.grpc_server import Running, TinyEngine, details, request, running, settings, stubs
from support.timed import timed, within

CODE = grpc.StatusCode
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = (
    "",
    "naflow.v1.ExplanationService",
    "naflow.v1.ModelRepositoryService",
    "naflow.v1.ReferenceBankService",
    "model/tiny",
)
PROGRAM = "import sys; from naflow_server.app import main; from naflow_server.settings import read_settings; "
PROGRAM += "sys.exit(main(read_settings(None, {})))"


@pytest.fixture
def engine() -> TinyEngine:
    return TinyEngine()


@pytest.fixture
def server(engine: TinyEngine) -> Iterator[Running]:
    with running(settings(server={"metrics_port": 0}), lambda _: engine) as started:
        yield started


def test_health_of_server_services_and_models(server: Running, engine: TinyEngine) -> None:
    with stubs(server.address) as stub:
        for name in SERVICES:
            assert stub.health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING, name
        with pytest.raises(grpc.RpcError) as caught:
            stub.health.Check(health_pb2.HealthCheckRequest(service="model/none"))
        assert caught.value.code() == CODE.NOT_FOUND
        watch = stub.health.Watch(health_pb2.HealthCheckRequest(service="model/tiny"), timeout=10)
        assert next(watch).status == SERVING
        gone = types.ModelInfo("tiny", ())
        server.call(lambda: engine.tell(gone))
        assert next(watch).status == NOT_SERVING
        unknown = stub.health.Watch(health_pb2.HealthCheckRequest(service="model/later"), timeout=10)
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        later = types.ModelInfo("later", (types.VersionInfo("1", types.State.READY),))
        server.call(lambda: engine.tell(later))
        assert next(unknown).status == SERVING


def test_nothing_serves_before_the_models_are_loaded() -> None:
    gate = threading.Event()

    class Slow(TinyEngine):
        async def loaded(self) -> None:
            while not gate.is_set():
                await asyncio.sleep(0.01)

    port = free_port()
    configured = settings(server={"port": port})

    def look() -> None:
        with stubs(f"127.0.0.1:{port}") as stub:
            ask = health_pb2.HealthCheckRequest()
            seen.append(stub.health.Check(ask, wait_for_ready=True, timeout=10).status)
            gate.set()

    seen: list[Any] = []
    looking = threading.Thread(target=look)
    looking.start()
    with running(configured, lambda _: Slow()) as started, stubs(started.address) as stub:
        assert stub.health.Check(health_pb2.HealthCheckRequest()).status == SERVING
    looking.join()
    assert seen == [NOT_SERVING]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_reflection_names_the_services(server: Running) -> None:
    with stubs(server.address) as stub:
        reflect = reflection_pb2_grpc.ServerReflectionStub(stub.channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (answer,) = reflect.ServerReflectionInfo(asked)
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {*SERVICES[1:4], "grpc.health.v1.Health"}


def test_metrics_over_http(server: Running) -> None:
    with stubs(server.address) as stub:
        list(stub.explanation.Explain(request()))
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server.metrics_port}/metrics", timeout=10) as page:
        text = page.read().decode()
    for line in (
        'naflow_explanations_total{code="OK",model="tiny"} 1.0',
        'naflow_explanation_seconds_count{model="tiny",stage="first_flow"} 1.0',
        'naflow_queue_length{model="tiny"} 0.0',
        "naflow_compilations_total 3.0",
        "naflow_compilation_cache_hits_total 2.0",
        'naflow_device_memory_bytes{device="cpu:0"} 11.0',
        'naflow_batch_pictures_count{model="tiny"} 1.0',
    ):
        assert line in text, line


def rest_of(call: Any) -> tuple[list[ex.ExplainEvent], grpc.RpcError | None]:
    """The events that still come, and how the call ended."""
    events = []
    try:
        for event in call:
            events.append(event)
    except grpc.RpcError as error:
        return events, error
    return events, None


def asked(rpc: str, hold: threading.Event) -> Any:
    """The argument of an RPC: one request, or a stream of one that stays open."""

    def requests() -> Iterator[ex.ExplainRequest]:
        yield request(request_id="a")
        hold.wait(20)

    return request(request_id="a") if rpc == "Explain" else requests()


@timed
@pytest.mark.parametrize("rpc", ["Explain", "ExplainStream"])
def test_stopping_lets_running_calls_finish(rpc: str, engine: TinyEngine) -> None:
    configured = settings(server={"drain_seconds": 0.3, "grace_seconds": 10.0})
    hold = threading.Event()
    with running(configured, lambda _: engine) as server, stubs(server.address) as stub:
        engine.released.clear()
        call = getattr(stub.explanation, rpc)(asked(rpc, hold))
        assert next(call).HasField("header")
        watch = stub.health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        began = time.monotonic()
        stop = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)
        assert next(watch).status == NOT_SERVING
        within(time.monotonic() - began, 0.2)
        early = stub.explanation.Explain(request(request_id="early"))  # within the pause
        assert next(early).HasField("header")
        time.sleep(0.5)
        with stubs(server.address) as late, pytest.raises(grpc.RpcError) as caught:
            next(late.explanation.Explain(request(request_id="late"), timeout=5))
        assert caught.value.code() == CODE.UNAVAILABLE
        assert not stop.done()
        engine.released.set()
        events, error = rest_of(call)
        assert sum(event.HasField("layer_flow") for event in events) == 4
        assert events[-1].HasField("summary")
        if rpc == "Explain":
            assert error is None
        else:  # the caller has not said that it is done
            assert error is not None
            assert error.code() == CODE.UNAVAILABLE
            assert details(error)["google.rpc.ErrorInfo"].reason == "SHUTTING_DOWN"
        assert rest_of(early)[1] is None
        hold.set()
        stop.result(10)


@timed
@pytest.mark.parametrize("rpc", ["Explain", "ExplainStream"])
def test_what_outlasts_the_grace_period_is_unavailable(rpc: str, engine: TinyEngine) -> None:
    hold = threading.Event()
    with (
        running(settings(server={"grace_seconds": 0.3}), lambda _: engine) as server,
        stubs(server.address) as stub,
    ):
        engine.released.clear()
        call = getattr(stub.explanation, rpc)(asked(rpc, hold))
        assert next(call).HasField("header")
        began = time.monotonic()
        stop = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)
        events, error = rest_of(call)
        assert events == []
        assert error is not None
        assert error.code() == CODE.UNAVAILABLE
        assert details(error)["google.rpc.RetryInfo"].retry_delay.ToMilliseconds() > 0
        stop.result(10)
        seconds = time.monotonic() - began
        assert seconds > 0.25
        within(seconds, 3)
        assert engine.running == 0
        hold.set()
    assert server.gauge("naflow_open_calls") == 0


def test_settings_that_cannot_be_used_say_why(engine: TinyEngine, tmp_path: Path) -> None:
    with running(settings(), lambda _: engine) as server:
        taken = int(server.address.rpartition(":")[2])
        with (
            pytest.raises(SettingsError, match=rf"cannot listen on 127.0.0.1:{taken}"),
            running(settings(server={"port": taken}), lambda _: TinyEngine()),
        ):
            pass
    absent = {"tls_certificate": tmp_path / "no.pem", "tls_key": tmp_path / "no.key"}
    with (
        pytest.raises(SettingsError, match=r"security.tls_certificate .*no.pem.* cannot be read"),
        running(settings(security=absent), lambda _: TinyEngine()),
    ):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    install(root, "residual", network("residual"))
    return root


def process(folder: Path, **environment: str) -> subprocess.Popen[str]:
    own = {"NAFLOW_REPOSITORY__PATH": str(folder), "NAFLOW_SERVER__PORT": "0", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=os.environ | own, stderr=subprocess.PIPE, text=True
    )


def log_until(started: subprocess.Popen[str], message: str) -> dict[str, Any]:
    assert started.stderr is not None
    for line in started.stderr:
        entry = json.loads(line)
        if entry["message"] == message:
            return entry
    raise AssertionError(f"the process ended without saying {message!r}")


def test_sigterm_ends_the_process_with_status_0(folder: Path) -> None:
    secret = "a-secret-token"
    started = process(folder, NAFLOW_SERVER__DRAIN_SECONDS="0.1", NAFLOW_SECURITY__TOKEN=secret)
    try:
        printed = log_until(started, "settings")
        assert printed["settings"]["server"]["drain_seconds"] == 0.1
        port = log_until(started, "listening")["port"]
        log_until(started, "serving")
        with stubs(f"127.0.0.1:{port}") as stub:
            bearer = (("authorization", f"Bearer {secret}"),)
            call = stub.explanation.Explain(request(picture(1), "residual", request_id="r"), metadata=bearer)
            assert next(call).HasField("header")
            started.send_signal(signal.SIGTERM)
            events, error = rest_of(call)
            assert error is None
            assert events[-1].HasField("summary")
        _, rest = started.communicate(timeout=30)
        assert started.returncode == 0
        entries = [json.loads(line) for line in rest.splitlines()]
        messages = [entry["message"] for entry in entries]
        assert messages.index("draining") < messages.index("stopping") < messages.index("stopped")
        (ended,) = [entry for entry in entries if entry["message"] == "explanation"]
        assert (ended["request_id"], ended["model"], ended["code"]) == ("r", "residual", "OK")
        assert secret not in json.dumps(printed) + rest
    finally:
        started.kill()
        started.communicate()


@timed
def test_sigterm_while_models_load(folder: Path) -> None:
    started = process(folder, NAFLOW_SERVER__DRAIN_SECONDS="5")
    try:
        log_until(started, "listening")
        started.send_signal(signal.SIGINT)
        started.send_signal(signal.SIGTERM)  # the second one hurries
        began = time.monotonic()
        started.communicate(timeout=30)
        assert started.returncode == 0
        within(time.monotonic() - began, 5)
    finally:
        started.kill()
        started.communicate()
