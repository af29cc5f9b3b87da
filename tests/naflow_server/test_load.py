"""Many SDK clients at once, readers that stall, and servers that are restarted under load."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

import naflow_core as nf
from naflow_client import Client, RetryPolicy
from naflow_server.engine import Engine
from support.benchmarks import script
from support.blocks import network, picture
from support.engines import install
from support.grpc_server import Running, TinyEngine, running, settings, stubs
from support.lone_client import SIDE
from support.lone_client import request as wide

MODELS = ("residual", "inception")
PICTURES = 6
CLIENTS, REQUESTS = 32, 128
READERS = 12
RESTARTS = 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        install(folder, name, network(name))
    install(folder, "relay", script("service_models").relay(24, SIDE))
    return folder


@pytest.fixture(scope="module")
def serially(root: Path) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Every answer, computed in process one after the other."""
    loaded = {name: nf.load(root / name / "1" / "model.onnx") for name in MODELS}
    return {
        (name, seed): {
            flow.tensor: flow.map for flow in model.explain(picture(seed), layers="spine").collect().flows
        }
        for name, model in loaded.items()
        for seed in range(PICTURES)
    }


@pytest.mark.parametrize("batching", [1, 4])
def test_many_clients_on_two_models_get_their_own_maps(
    batching: int, root: Path, serially: dict[tuple[str, int], dict[str, np.ndarray]]
) -> None:
    asked: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for case in itertools.islice(itertools.cycle(serially), REQUESTS):
        asked.put(case)

    sizes: set[int] = set()

    def client(address: str) -> int:
        answered = 0
        with Client(address, deadline=120) as own, contextlib.suppress(queue.Empty):
            while True:
                name, seed = asked.get_nowait()
                result = own.explain(name, picture(seed), layers="spine").collect()
                wanted = serially[name, seed]
                assert [flow.tensor for flow in result.flows] == list(wanted)
                for flow in result.flows:
                    if batching == 1:
                        assert flow.map.tobytes() == wanted[flow.tensor].tobytes()
                    else:
                        np.testing.assert_allclose(flow.map, wanted[flow.tensor], atol=1e-5)
                sizes.add(result.summary.batch_size)
                answered += 1
        return answered

    configured = settings(repository={"path": root}, batching={"pictures": batching})
    with running(configured, Engine) as server, ThreadPoolExecutor(CLIENTS) as pool:
        answers = [pool.submit(client, server.address) for _ in range(CLIENTS)]
        assert sum(answer.result(240) for answer in answers) == REQUESTS
    assert (max(sizes) > 1) == (batching > 1)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def test_stalled_readers_hold_up_nobody(
    root: Path, serially: dict[tuple[str, int], dict[str, np.ndarray]]
) -> None:
    def stalls(server: Running) -> Any:
        stub = readers.enter_context(stubs(server.address))
        call = stub.explanation.Explain(wide())
        assert next(call).HasField("header")
        return call

    def asks(client: Client) -> float:
        times = []
        for seed in range(PICTURES):
            began = time.monotonic()
            result = client.explain("residual", picture(seed), layers="spine").collect()
            times.append(time.monotonic() - began)
            maps = {flow.tensor: flow.map.tobytes() for flow in result.flows}
            assert maps == {t: m.tobytes() for t, m in serially["residual", seed].items()}
        return float(np.median(times))

    def checks() -> float:
        times = []
        with stubs(server.address) as stub:
            for _ in range(20):
                began = time.monotonic()
                stub.health.Check(health_pb2.HealthCheckRequest())
                times.append(time.monotonic() - began)
        return float(np.median(times))

    with contextlib.ExitStack() as readers:
        server = readers.enter_context(running(settings(repository={"path": root}), Engine))
        client = readers.enter_context(Client(server.address, deadline=60))
        asks(client)
        before = asks(client)
        calls = [stalls(server) for _ in range(READERS)]
        until(lambda: server.server.engine.statistics().stalled == READERS)
        assert asks(client) < 2 * before + 0.1
        assert checks() < 0.05
        for call in calls[1:]:
            call.cancel()
        until(lambda: server.server.engine.statistics().calls == 1)
        assert list(calls[0])[-1].HasField("summary")  # it reads on after all


def test_no_request_is_lost_in_rolling_restarts() -> None:
    """Two servers on addresses of their own, restarted in turn; clients know both."""
    done, made = threading.Event(), TinyEngine()
    answered = itertools.count()
    x = np.ones((1, 1, 2, 2), np.float32)
    wanted = [made.map(index, x).tobytes() for index in range(made.layers)]
    configured = settings(server={"drain_seconds": 0.05, "grace_seconds": 10.0})

    def start(port: int = 0) -> tuple[contextlib.ExitStack, int]:
        stack = contextlib.ExitStack()
        own = configured.model_copy(update={"server": configured.server.model_copy(update={"port": port})})
        server = stack.enter_context(running(own, lambda _: TinyEngine()))
        return stack, server.server.port

    def client(target: str) -> None:
        with Client(target, deadline=60, retry=RetryPolicy()) as own:
            while not done.is_set():
                result = own.explain("tiny", x).collect()
                assert [flow.map.tobytes() for flow in result.flows] == wanted
                next(answered)

    servers = [start() for _ in range(2)]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for _, port in servers)
    try:
        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client, target) for _ in range(4)]
            try:
                for turn in range(RESTARTS):
                    stack, port = servers[turn % 2]
                    stack.close()
                    servers[turn % 2] = start(port)
            finally:
                done.set()
            for one in clients:
                one.result(60)  # raises what a client met
    finally:
        for stack, _ in servers:
            stack.close()
    assert next(answered) > RESTARTS
