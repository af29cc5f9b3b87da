"""Whatever arrives, the server answers with a documented status and stays up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2

from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import method_pb2 as me
from naflow.v1 import tensor_pb2 as te
from naflow_server.engine import Engine
from support.blocks import network, picture
from support.engines import install
from support.grpc_server import DETAILS, Running, Stubs, assembled, request, running, settings, stubs

REQUESTS = 200
DOCUMENTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    install(root, "residual", network("residual"))
    with running(settings(repository={"path": root}), Engine) as started:
        yield started


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Stubs]:
    with stubs(server.address) as made:
        yield made


def flipped(random: random.Random) -> bytes:
    raw = bytearray(request(picture(0), "residual").SerializeToString())
    for _ in range(random.randint(1, 8)):
        raw[random.randrange(min(len(raw), 200))] = random.randrange(256)
    return bytes(raw)


def noise(random: random.Random) -> bytes:
    return random.randbytes(random.randint(0, 300))


def cut(random: random.Random) -> bytes:
    raw = request(picture(0), "residual").SerializeToString()
    return raw[: random.randrange(len(raw))]


def odd_tensor(random: random.Random) -> bytes:
    sizes = [random.choice([0, 1, 2, 3, 32, -1, 2**31, 2**62]) for _ in range(random.randint(0, 6))]
    tensor = te.Tensor(
        dtype=random.randint(0, 14), shape=sizes, data=random.randbytes(random.choice([0, 4, 48]))
    )
    names = random.choice([[""], ["x"], ["\x00", "y"], []])
    return ex.ExplainRequest(model_name="residual", inputs=dict.fromkeys(names, tensor)).SerializeToString()


def odd_values(random: random.Random) -> bytes:
    x = picture(0).copy()
    x.flat[random.randrange(x.size)] = random.choice([np.nan, np.inf, -np.inf])
    return request(x, "residual").SerializeToString()


def odd_options(random: random.Random) -> bytes:
    message = request(picture(0), random.choice(["residual", "..", "a/b", "\u2603" * 3000, ""]))
    message.model_version = random.choice(["", "-1", "../1", "9" * 400])
    message.layers.set = random.randint(0, 6)
    message.layers.tensors.extend(random.choice([[], ["nowhere"] * random.randint(1, 4000)]))
    message.method.CopyFrom(
        me.Method(
            preset=random.choice(["", "paper", "?"]),
            damping=random.choice([0.1, -1.0, float("nan"), 1e300]),
            tolerance=random.choice([1e-3, 0.0, float("inf")]),
            max_iterations=random.choice([0, 3, 2**32 - 1]),
        )
    )
    message.target.class_target.class_index = random.choice([10**9, -1, 2**63 - 1])
    return message.SerializeToString()


MAKERS: list[Callable[[random.Random], bytes]] = [flipped, noise, cut, odd_tensor, odd_values, odd_options]


def sent(raw: Any, content: bytes, rpc: str) -> grpc.StatusCode | None:
    """The code that a request failed with, or None; checks the details that came with it."""
    try:
        answer = raw(iter([content]) if rpc == "ExplainStream" else content, timeout=60)
        events = [] if rpc == "InspectModel" else [ex.ExplainEvent.FromString(part) for part in answer]
    except grpc.RpcError as error:
        packed = dict(error.trailing_metadata() or ())[DETAILS]
        code = error.code()
    else:
        if not events or not events[-1].summary.HasField("error"):
            return None
        packed = events[-1].summary.error.SerializeToString()
        code = next(c for c in grpc.StatusCode if c.value[0] == events[-1].summary.error.code)
    status = status_pb2.Status.FromString(packed)
    if len(packed) > 4096 or not status.details or status.code != code.value[0]:
        raise AssertionError(status)
    return code


@pytest.mark.parametrize("rpc", ["Explain", "InspectModel", "ExplainStream"])
def test_hostile_requests(rpc: str, stub: Stubs, server: Running) -> None:
    chance = random.Random(7)
    path = f"/naflow.v1.ExplanationService/{rpc}"
    raw = (
        stub.channel.unary_stream(path)
        if rpc == "Explain"
        else stub.channel.unary_unary(path)
        if rpc == "InspectModel"
        else stub.channel.stream_stream(path)
    )
    refused = 0
    for number in range(REQUESTS if rpc == "Explain" else REQUESTS // 4):
        content = MAKERS[number % len(MAKERS)](chance)
        failed = sent(raw, content, rpc)
        refused += failed is not None
        assert failed is None or failed in DOCUMENTED, number
    assert refused > 20
    end = time.monotonic() + 5  # a call's end is counted just after its caller has seen it
    while server.gauge("naflow_open_calls") and time.monotonic() < end:
        time.sleep(0.01)
    assert server.gauge("naflow_open_calls") == 0
    assert server.gauge("naflow_explanations_in_progress") == 0
    x = picture(1)
    events = [e for e in stub.explanation.Explain(request(x, "residual")) if not e.HasField("progress")]
    assert events[-1].HasField("summary")
    assert assembled(events)


def test_nothing_outside_the_repository_is_read(stub: Stubs, tmp_path: Path) -> None:
    for name in ("../residual", "/etc/passwd", "residual/../residual", "residual\x00", ".", "..\\residual"):
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.explanation.Explain(request(picture(0), name)))
        assert caught.value.code() in DOCUMENTED
