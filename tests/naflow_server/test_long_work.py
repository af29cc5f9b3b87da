"""While something takes long: other models and health answer, and streams show signs of life."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import method_pb2 as me
from naflow.v1 import model_repository_pb2 as repo
from naflow_server.engine import Engine
from support.blocks import network, picture
from support.engines import held, install, slow
from support.grpc_server import Running, Stubs, details, request, running, settings, stubs

CODE = grpc.StatusCode
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
PROGRESS = 0.1
TOP = me.Layers(tensors=["top"])
SPINE = me.Layers(set=me.LAYER_SET_SPINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "cold", network("residual", seed=1))
    install(folder, "other", network("dense", seed=1))
    warm = {"cold": {"warm_up": [{"x": (1, 3, 5, 5)}], "warm_up_layers": "spine"}}
    repository = {"path": folder, "models": warm, "load": (), "poll_seconds": 0.02}
    limits = {"progress_seconds": PROGRESS, "active": 1}
    with running(settings(repository=repository, limits=limits), Engine) as started:
        yield started


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Stubs]:
    with stubs(server.address) as made:
        yield made


def health(stub: Stubs, service: str) -> Any:
    return stub.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


def explain(stub: Stubs, model: str, **fields: Any) -> Any:
    return stub.explanation.Explain(request(picture(1), model, **{"layers": TOP, **fields}), timeout=120)


def test_a_warm_up_holds_up_no_other_model(stub: Stubs, server: Running) -> None:
    load = repo.LoadModelRequest(model_name="other")
    with held() as (warming, go):
        cold = stub.repository.LoadModel.future(repo.LoadModelRequest(model_name="cold"), timeout=120)
        assert warming.wait(60)
        # All of this while the warm-up stands still.
        for _ in range(2):
            assert stub.repository.LoadModel(load, timeout=30).model.ready
            assert health(stub, "model/other") == SERVING
            report = stub.explanation.InspectModel(ex.InspectModelRequest(model_name="other"), timeout=30)
            assert report.report.explainable
            force = repo.LoadModelRequest(model_name="other", force=True)
            assert stub.repository.LoadModel(force, timeout=30).model.ready
            unload = repo.UnloadModelRequest(model_name="other")
            assert not stub.repository.UnloadModel(unload, timeout=30).model.ready
            assert health(stub, "model/other") == NOT_SERVING
        listed = {m.model_name: m for m in stub.repository.ListModels(repo.ListModelsRequest()).models}
        assert listed["cold"].versions[0].state == repo.MODEL_STATE_LOADING
        assert health(stub, "") == SERVING
        assert health(stub, "model/cold") == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            list(explain(stub, "cold"))
        assert caught.value.code() == CODE.FAILED_PRECONDITION
        assert details(caught.value)["google.rpc.RetryInfo"].retry_delay.ToMilliseconds() > 0
        assert not cold.done()
        go.set()
        assert cold.result(60).model.ready
    assert health(stub, "model/cold") == SERVING
    assert list(explain(stub, "cold"))[-1].HasField("summary")


@pytest.mark.parametrize("rpc", ["Explain", "ExplainStream"])
def test_no_silence_is_long(rpc: str, stub: Stubs) -> None:
    """Steps that take eight times the progress interval, and a wait behind another explanation."""
    stub.repository.LoadModel(repo.LoadModelRequest(model_name="other"), timeout=60)
    list(explain(stub, "other", layers=SPINE))  # compiles
    with slow(8 * PROGRESS):
        first = explain(stub, "other", layers=SPINE)
        assert next(first).WhichOneof("event") in ("header", "progress")
        message = request(picture(2), "other", layers=SPINE, request_id="second")
        if rpc == "Explain":
            call = stub.explanation.Explain(message, timeout=60)
        else:
            call = stub.explanation.ExplainStream(iter([message]), timeout=60)
        last, longest, signs = time.monotonic(), 0.0, []
        for event in call:
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            if event.HasField("progress"):
                signs.append(event.progress)
        first.cancel()
    assert event.HasField("summary")
    assert longest < 6 * PROGRESS
    assert len(signs) > 10
    elapsed = [sign.elapsed_seconds for sign in signs]
    assert elapsed == sorted(elapsed)
    done = [sign.layers_done for sign in signs]
    assert done == sorted(done)
    assert signs[-1].layers_total == event.summary.layers_sent
    assert done[-1] > 0
    assert signs[-1].tensor
