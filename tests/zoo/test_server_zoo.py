"""Real exported models through a real server: bit for bit as in process, and early first flows."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from naflow.v1 import method_pb2 as me
from naflow_server.engine import Engine
from support.engines import install
from support.grpc_server import Running, assembled, request, running, settings, stubs
from support.timed import timed, within

pytestmark = pytest.mark.skipif(
    "NAFLOW_ZOO" not in os.environ, reason="set NAFLOW_ZOO to a folder of models and pictures"
)

ROOT = Path(os.environ.get("NAFLOW_ZOO", "."))
MODELS = [
    "squeezenet11_fp32_winml",
    "mobilenetv2_100_224_tf_logits",
    "resnet8_cifar10_mlctiny",
    "mnist_cntk_winml",
    "mobilenetv1_025_128_tf_logits",
]
EARLY = MODELS[:2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("repository")
    for name in MODELS:
        install(root, name, (ROOT / "models" / f"{name}.onnx").read_bytes())
    with running(settings(repository={"path": root}), Engine) as started:
        yield started


@timed
@pytest.mark.parametrize("name", MODELS)
def test_a_stream_equals_the_result_in_process(name: str, server: Running) -> None:
    model = nf.load(ROOT / "models" / f"{name}.onnx")
    shape = next(iter(model.default_shapes().values()))
    x = np.random.default_rng(5).random(shape, np.float32)
    layers = me.Layers(set=me.LAYER_SET_SPINE)
    with stubs(server.address) as stub:
        ask = request(x, name, layers=layers)
        events = [e for e in stub.explanation.Explain(ask) if not e.HasField("progress")]
        expected = model.explain(x, layers="spine").collect()
        maps = assembled(events)
        assert len(maps) == len(expected.flows)
        for flow in expected.flows:
            assert maps[flow.index].tobytes() == flow.map.tobytes(), flow.tensor
        if name not in EARLY:
            return
        # Everything is compiled now. The median: what else the machine does in a moment is not the subject.
        shares = [share_before_first_flow(stub.explanation, ask) for _ in range(5)]
        within(statistics.median(shares), 1 / 3)


def share_before_first_flow(service: Any, ask: Any) -> float:
    """Of the time that a whole stream takes, the part that has passed when its first map is there."""
    began, first = time.perf_counter(), None
    for event in service.Explain(ask):
        if first is None and event.HasField("layer_flow"):
            first = time.perf_counter() - began
    assert first is not None
    return first / (time.perf_counter() - began)
