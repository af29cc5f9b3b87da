"""Whatever ends a call, the compute thread is free one layer later and nothing of the call is left."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import jax
import pytest

import naflow_core as nf
from naflow.v1 import explanation_pb2 as ex
from naflow_core import cascade
from naflow_server.engine import Engine
from support.benchmarks import script
from support.command_line import environment
from support.engines import install, slow
from support.grpc_server import Running, Stubs, assembled, details, running, settings, stubs, unpacked
from support.lone_client import SIDE, asked, request

CODE = grpc.StatusCode
RPCS = ("Explain", "ExplainStream")
LAYERS = 32
LAYER = 0.1
BOUND = LAYER + 0.1
ATTEMPTS = 4  # others may keep the machine busy; a defect fails every time
Failure = Callable[[Running, str, bool], float]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    install(root, "relay", script("service_models").relay(LAYERS, SIDE))
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running(
        settings(repository={"path": folder}, limits={"active": 1, "events": 2, "gather_bytes": 0}), Engine
    ) as started:
        yield started


@pytest.fixture(scope="module")
def expected(server: Running) -> dict[int, bytes]:
    """The maps of an undisturbed request; the programs are compiled by then."""
    with stubs(server.address) as stub:
        return served(stub)


def served(stub: Stubs) -> dict[int, bytes]:
    events = [e for e in stub.explanation.Explain(request(), timeout=60) if not e.HasField("progress")]
    assert events[-1].HasField("summary")
    return {index: map_.tobytes() for index, map_ in assembled(events).items()}


def until(condition: Callable[[], bool], seconds: float = 20.0) -> float:
    """When it came true, in `time.monotonic()` seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)
    return time.monotonic()


def free(server: Running) -> bool:
    """Whether the compute thread has nothing to do, and nothing waits for it."""
    now = server.server.engine.statistics()
    return not (now.active or now.stalled or now.calls or any(now.waiting.values()))


def quiet(server: Running) -> bool:
    return not any(
        server.gauge(name)
        for name in (
            "naflow_open_calls",
            "naflow_explanations_in_progress",
            "naflow_explanations_active",
            "naflow_explanations_stalled",
        )
    ) and not server.gauge("naflow_queue_length", model="relay")


def tasks(server: Running) -> int:
    return server.call(lambda: len(asyncio.all_tasks()))


def held() -> int:
    """Bytes of all arrays on the device."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def explanations() -> set[int]:
    """Identities of those in memory; other tests of this process may have left some."""
    return {id(o) for o in gc.get_objects() if type(o) is nf.Explanation}


@contextlib.contextmanager
def nothing_left(server: Running) -> Iterator[None]:
    """Gauges, tasks, threads and memory are as before, soon after the block."""
    until(lambda: quiet(server) and free(server))
    before = set(threading.enumerate())
    waiting, memory, others = tasks(server), held(), explanations()
    yield
    until(lambda: quiet(server))
    until(lambda: tasks(server) == waiting)
    until(lambda: not set(threading.enumerate()) - before)
    until(lambda: held() <= memory)
    assert explanations() <= others


def events_before(stalls: bool) -> int:
    """A header only, or three maps more where the reader reads on: the top map takes no step, so two do."""
    return 1 if stalls else 4


@contextlib.contextmanager
def opened(server: Running, rpc: str, stalls: bool, **options: Any) -> Iterator[Any]:
    """A call of which the first events have been read."""
    hold = threading.Event()
    with stubs(server.address) as stub:
        call = getattr(stub.explanation, rpc)(asked(rpc, hold), **options)
        try:
            for _ in range(events_before(stalls)):
                next(call)
            yield call
        finally:
            call.cancel()
            hold.set()


def in_progress(server: Running, stalls: bool) -> None:
    """Until the explanation is where it shall be hit: between two layers, or waiting for its reader."""
    until(lambda: server.server.engine.statistics().stalled == stalls)


def cancelled(server: Running, rpc: str, stalls: bool) -> float:
    with opened(server, rpc, stalls) as call:
        in_progress(server, stalls)
        moment = time.monotonic()
        call.cancel()
        until(lambda: free(server))
    return moment


def out_of_time(server: Running, rpc: str, stalls: bool) -> float:
    seconds = 1.5  # half of what all layers take; a busy machine has time to get to the middle
    moment = time.monotonic() + seconds
    with opened(server, rpc, stalls, timeout=seconds) as call:
        in_progress(server, stalls)
        time.sleep(max(0.0, moment - time.monotonic()))
        until(lambda: free(server))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == CODE.DEADLINE_EXCEEDED
    return moment


def killed(server: Running, rpc: str, stalls: bool) -> float:
    arguments = [server.address, rpc, str(events_before(stalls))]
    process = subprocess.Popen(
        [sys.executable, "-m", "support.lone_client", *arguments], env=environment(), stdout=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"reading\n"
            in_progress(server, stalls)
        finally:
            moment = time.monotonic()
            process.kill()
    return moment


FAILURES = [cancelled, out_of_time, killed]


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("fail", FAILURES)
def test_the_thread_is_free_one_layer_later(
    fail: Failure, rpc: str, server: Running, expected: dict[int, bytes]
) -> None:
    found = []
    for _ in range(ATTEMPTS):
        with nothing_left(server), slow(LAYER) as taken:
            moment = fail(server, rpc, False)
            seconds = until(lambda: free(server)) - moment
            assert 1 < len(taken) < LAYERS - 1, "it was hit in the middle"
        found.append(seconds)
        if seconds <= BOUND:
            break
    assert min(found) <= BOUND, found
    with stubs(server.address) as stub:
        assert served(stub) == expected


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("fail", FAILURES)
def test_a_stalled_reader_that_ends_leaves_nothing(
    fail: Failure, rpc: str, server: Running, expected: dict[int, bytes]
) -> None:
    found = []
    for _ in range(ATTEMPTS):
        with nothing_left(server):
            moment = fail(server, rpc, True)
            found.append(until(lambda: free(server)) - moment)
        if found[-1] <= BOUND:
            break
    assert min(found) <= BOUND, found
    with stubs(server.address) as stub:
        assert served(stub) == expected


@pytest.mark.parametrize("rpc", RPCS)
def test_a_computation_that_breaks_ends_its_call_alone(
    rpc: str, server: Running, expected: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, reached, moments = cascade.step, [], []

    def broken(plan: Any, segment: Any, *rest: Any) -> Any:
        reached.append(segment.source)
        if len(reached) == 4:
            moments.append(time.monotonic())
            raise RuntimeError("secret detail")
        return real(plan, segment, *rest)

    found = []
    for _ in range(ATTEMPTS):
        reached.clear()
        with nothing_left(server), monkeypatch.context() as patch, stubs(server.address) as stub:
            patch.setattr(cascade, "step", broken)
            # pytest keeps what is logged, and with it everything that the traceback's frames hold
            patch.setattr(logging.getLogger("naflow_server.engine"), "disabled", True)
            status, facts, events = ended(stub, rpc)
            found.append(until(lambda: free(server)) - moments[-1])
            assert (status, facts["google.rpc.ErrorInfo"].reason) == (CODE.INTERNAL, "INTERNAL")
            assert sum(event.HasField("layer_flow") for event in events) == 4  # the top, and three steps
        if found[-1] <= 0.1:
            break
    assert min(found) <= 0.1, found
    with stubs(server.address) as stub:
        assert served(stub) == expected


def ended(stub: Stubs, rpc: str) -> tuple[grpc.StatusCode, dict[str, Any], list[ex.ExplainEvent]]:
    """How a request fails: its code and details, and what came before."""
    hold = threading.Event()
    hold.set()
    events: list[ex.ExplainEvent] = []
    try:
        for event in getattr(stub.explanation, rpc)(asked(rpc, hold), timeout=60):
            events.append(event)
    except grpc.RpcError as error:
        return error.code(), details(error), events  # type: ignore[attr-defined]
    failed = events[-1].summary.error
    return next(c for c in CODE if c.value[0] == failed.code), unpacked(failed), events


@pytest.mark.parametrize("rpc", RPCS)
def test_a_layer_that_fails_is_told_in_its_place(
    rpc: str, server: Running, expected: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = nf.Explanation._turns

    def one_bad(self: nf.Explanation, *arguments: Any) -> Any:
        for step in turns(self, *arguments):
            bad = step.tensor == "t9"
            yield dataclasses.replace(step, finite=step.finite & False) if bad else step

    hold = threading.Event()
    hold.set()
    with nothing_left(server), monkeypatch.context() as patch, stubs(server.address) as stub:
        patch.setattr(nf.Explanation, "_turns", one_bad)
        call = getattr(stub.explanation, rpc)(asked(rpc, hold), timeout=60)
        events = [event for event in call if not event.HasField("progress")]
        until(lambda: free(server))
    (bad,) = [event.layer_error for event in events if event.HasField("layer_error")]
    assert (bad.tensor, bad.status.code) == ("t9", CODE.INTERNAL.value[0])
    assert unpacked(bad.status)["google.rpc.ErrorInfo"].reason == nf.NumericalError.code.upper()
    indices = [e.layer_flow.index + e.layer_error.index for e in events[1:-1]]
    assert indices == sorted(range(LAYERS), reverse=True)
    assert (events[-1].summary.layers_sent, events[-1].summary.layers_failed) == (LAYERS - 1, 1)
    rest = {index: map_ for index, map_ in expected.items() if index != bad.index}
    assert {index: map_.tobytes() for index, map_ in assembled(events).items()} == rest


@pytest.mark.parametrize("rpc", RPCS)
def test_a_server_told_to_stop_ends_what_outlasts_the_grace(rpc: str, folder: Path) -> None:
    warm = {"relay": {"warm_up": [{"x": (1, 1, SIDE, SIDE)}], "warm_up_layers": "spine"}}
    own = {
        "NAFLOW_REPOSITORY__MODELS": json.dumps(warm),
        "NAFLOW_REPOSITORY__PATH": str(folder),
        "NAFLOW_SERVER__PORT": "0",
        "NAFLOW_SERVER__DRAIN_SECONDS": "0.1",
        "NAFLOW_SERVER__GRACE_SECONDS": "0.3",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "support.slow_server", "0.2"],
        env={**os.environ, **environment(), **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    hold = threading.Event()
    try:
        assert process.stderr is not None
        entries = (json.loads(line) for line in process.stderr)
        port = next(entry["port"] for entry in entries if entry["message"] == "listening")
        next(entry for entry in entries if entry["message"] == "serving")
        with stubs(f"127.0.0.1:{port}") as stub:
            call = getattr(stub.explanation, rpc)(asked(rpc, hold))
            assert next(call).HasField("header")
            while not next(call).HasField("layer_flow"):
                pass
            process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            moment = time.monotonic()
        assert caught.value.code() == CODE.UNAVAILABLE
        assert details(caught.value)["google.rpc.RetryInfo"].retry_delay.ToMilliseconds() > 0
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        left = json.loads(out)
        assert (left["tasks"], left["threads"], left["gauges"]) == ([], [], {})
        assert 1 < left["steps"] < LAYERS - 1, "it was hit in the middle"
        assert left["last_step"] - moment < 0.1  # that layer was the last one
        assert left["stopped"] - moment < 5.0
    finally:
        hold.set()
        process.kill()
        process.communicate()
