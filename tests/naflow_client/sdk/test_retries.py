"""What is tried again: servers that are not there, connections that break, streams before their header."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from naflow.v1 import explanation_pb2
from naflow_client import RequestError, RetryPolicy, UnavailableError
from support.explanation_server import (
    MODEL,
    Event,
    Scripted,
    ScriptedError,
    answer,
    come_back,
    header,
    info,
    maps,
    serving,
)

Server = tuple[Scripted, str]
X = np.zeros((1, 1, 3, 4), np.float32)
DOWN = ScriptedError(grpc.StatusCode.UNAVAILABLE, "going down", info("SHUTTING_DOWN"))
OFTEN = RetryPolicy(attempts=60, initial=0.02, maximum=0.1)


def signs_of_life(request: Any, context: Any) -> Iterator[Event]:
    yield Event(progress=explanation_pb2.Progress(elapsed_seconds=1))
    yield Event(progress=explanation_pb2.Progress(elapsed_seconds=2))
    raise DOWN


def test_progress_alone_carries_nothing(driver: Any, server: Server) -> None:
    servicer, target = server
    servicer.play(signs_of_life, signs_of_life, answer(maps(2)))
    assert len(driver.explain(target, MODEL, X).flows) == 2
    assert len(servicer.requests) == 3

    def with_header(request: Any, context: Any) -> Iterator[Event]:
        yield Event(progress=explanation_pb2.Progress(elapsed_seconds=1))
        yield header(maps(2))
        raise DOWN

    servicer.play(with_header, answer(maps(2)))
    with pytest.raises(UnavailableError):
        driver.explain(target, MODEL, X)
    assert len(servicer.requests) == 1


def test_a_model_that_is_being_loaded(driver: Any, server: Server) -> None:
    servicer, target = server
    loading = ScriptedError(
        grpc.StatusCode.FAILED_PRECONDITION, "loading", info("NOT_READY"), come_back(0.05)
    )
    servicer.play(loading, answer(maps(1)))
    assert driver.explain(target, MODEL, X).flows
    servicer.play(ScriptedError(grpc.StatusCode.FAILED_PRECONDITION, "broken", info("NOT_READY")))
    with pytest.raises(RequestError):
        driver.explain(target, MODEL, X)
    assert len(servicer.requests) == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def resetting(port: int, times: int) -> Iterator[None]:
    """Accepts connections on the port and resets them."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        listener.settimeout(10)
        for _ in range(times):
            connection, _ = listener.accept()
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    yield


def test_a_server_that_is_not_there_yet(driver: Any) -> None:
    """Refused, then reset, then refused again, then served."""
    port, servicer, over = free_port(), Scripted(), threading.Event()
    servicer.play(answer(maps(2)))
    failed: list[BaseException] = []

    def appear() -> None:
        try:
            time.sleep(0.1)
            with resetting(port, 2):
                time.sleep(0.1)
                with serving(servicer, port=port):
                    over.wait(20)
        except BaseException as error:  # noqa: BLE001  raised in the test
            failed.append(error)

    thread = threading.Thread(target=appear)
    thread.start()
    try:
        settings = {"retry": OFTEN, "deadline": 20}
        assert len(driver.explain(f"localhost:{port}", MODEL, X, client=settings).flows) == 2
        assert driver.call(f"localhost:{port}", "list_models", client=settings)
    finally:
        over.set()
        thread.join(20)
    assert failed == []


def test_a_connection_that_breaks_before_the_header(driver: Any) -> None:
    """The server vanishes with the call open, and another one takes its place."""
    port, first, second = free_port(), Scripted(), Scripted()
    asked, over = threading.Event(), threading.Event()

    def hang(request: Any, context: Any) -> Iterator[Event]:
        yield Event(progress=explanation_pb2.Progress(elapsed_seconds=1))
        asked.set()
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(20)

    first.play(hang)
    second.play(answer(maps(2)))
    ready = threading.Event()

    def replace() -> None:
        with serving(first, port=port):
            ready.set()
            asked.wait(20)
        with serving(second, port=port):
            over.wait(20)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        assert ready.wait(20)
        settings = {"retry": OFTEN, "deadline": 20}
        assert len(driver.explain(f"localhost:{port}", MODEL, X, client=settings).flows) == 2
        assert (len(first.requests), len(second.requests)) == (1, 1)
    finally:
        asked.set()
        over.set()
        thread.join(20)


def test_no_retry_outlives_the_deadline(driver: Any) -> None:
    begun = time.monotonic()
    with pytest.raises(UnavailableError):
        driver.explain(f"localhost:{free_port()}", MODEL, X, deadline=0.5, client={"retry": OFTEN})
    assert time.monotonic() - begun < 3
