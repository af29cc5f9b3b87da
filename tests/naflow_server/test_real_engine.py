"""The whole server with real models: what arrives equals what the core computes in this process."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from onnx import helper

import naflow_core as nf
from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import method_pb2 as me
from naflow.v1 import model_report_pb2 as rep
from naflow.v1 import model_repository_pb2 as repo
from naflow.v1 import tensor_pb2 as te
from naflow_server.engine import Engine
from support.blocks import network, picture
from support.engines import install
from support.grpc_server import Running, Stubs, assembled, details, request, running, settings, stubs, tensor
from support.onnx_graphs import make_model
from support.two_inputs import siamese

CODE = grpc.StatusCode
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
MODELS = ("residual", "inception")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        install(root, name, network(name))
    relu = helper.make_node("Relu", ["x"], ["r"], name="fine")
    odd = helper.make_node("Bernoulli", ["r"], ["y"], name="odd-one")
    install(root, "unsupported", make_model([relu, odd], {"x": ["n", 2, 3, 3]}))
    install(root, "siamese", siamese())
    install(root, "broken", b"not a model at all")
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    configured = settings(repository={"path": folder, "upload": {"enabled": True, "chunk_bytes": 4096}})
    with running(configured, Engine) as started:
        yield started


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Stubs]:
    with stubs(server.address) as made:
        yield made


def explain(stub: Stubs, message: ex.ExplainRequest) -> list[ex.ExplainEvent]:
    return [event for event in stub.explanation.Explain(message) if not event.HasField("progress")]


def assert_same(events: list[ex.ExplainEvent], expected: nf.Result) -> None:
    """Maps equal bit for bit, and the diagnostics that come with them."""
    maps = assembled(events)
    assert sorted(maps) == [flow.index for flow in expected.flows]
    for flow in expected.flows:
        assert maps[flow.index].tobytes() == flow.map.tobytes(), flow.tensor
        assert maps[flow.index].shape == flow.map.shape
    sent = {e.layer_flow.index: e.layer_flow for e in events if e.HasField("layer_flow")}
    for flow in expected.flows:
        found, wanted = sent[flow.index].diagnostics, flow.diagnostics
        assert (found.node, found.op_type, found.rule) == (wanted.node, wanted.op_type, wanted.rule)
        assert tuple(found.shape) == wanted.shape
        assert [p.iterations for p in found.pictures] == list(wanted.iterations)
        assert [p.retained_fraction for p in found.pictures] == list(map(float, wanted.retained_fraction))


@pytest.mark.parametrize("name", MODELS)
def test_a_stream_equals_the_result_in_process(name: str, stub: Stubs, folder: Path) -> None:
    model = nf.load(folder / name / "1" / "model.onnx")
    x = picture(3)
    layers = me.Layers(set=me.LAYER_SET_SPINE)
    events = explain(stub, request(x, name, layers=layers))
    explanation = model.explain(x, layers="spine")
    expected = explanation.collect()
    assert_same(events, expected)
    header = events[0].header
    assert header.model_sha256 == model.sha256
    assert [layer.tensor for layer in header.layers] == list(explanation.layers)
    (prediction,) = header.predictions
    assert [(b.class_index, b.score) for b in prediction.best] == expected.prediction.best(0)
    assert prediction.target_score == expected.prediction.target_score[0]
    indices = [e.layer_flow.index for e in events if e.HasField("layer_flow")]
    assert indices == sorted(indices, reverse=True)


def test_every_option_of_the_method_arrives(stub: Stubs, folder: Path) -> None:
    method = me.Method(
        preset="paper",
        inverse=me.INVERSE_LEAST_SQUARES,
        rows=me.ROWS_ALL,
        weighting=me.WEIGHTING_SCALED,
        abandonment=me.Abandonment(rule=me.ABANDONMENT_RULE_MASS_EACH, mass=0.8),
        feasible=True,
        anchor=me.ANCHOR_SIGNED,
        evidence=me.EVIDENCE_NET,
        damping=0.25,
        tolerance=1e-2,
        max_iterations=17,
        map_change=0.001,
    )
    target = me.Target(class_target=me.ClassTarget(class_index=1))
    events = explain(stub, request(picture(1), "residual", method=method, target=target))
    own = nf.Method.preset(
        "paper",
        rows="all",
        weighting="scaled",
        abandon=nf.Abandonment("mass-each", 0.8),
        feasible=True,
        anchor="signed",
        evidence="net",
        damping=0.25,
        tolerance=1e-2,
        max_iterations=17,
        map_change=0.001,
    )
    model = nf.load(folder / "residual" / "1" / "model.onnx")
    assert_same(events, model.explain(picture(1), nf.ClassTarget(1), method=own).collect())
    sent = events[0].header.method
    assert sent.WhichOneof("_feasible") == "feasible"
    method.preset = ""
    assert sent == method
    assert events[0].header.predictions[0].target.class_index == 1


def test_of_several_inputs_one_is_explained(stub: Stubs, folder: Path) -> None:
    arrays = {"x": picture(1), "z": picture(2)}
    model = nf.load(folder / "siamese" / "1" / "model.onnx")
    for name in ("x", "z"):
        message = ex.ExplainRequest(
            model_name="siamese",
            inputs={key: tensor(value) for key, value in arrays.items()},
            explained_input=name,
            layers=me.Layers(set=me.LAYER_SET_SPINE),
        )
        expected = model.explain(arrays, explained_input=name, layers="spine")
        assert expected.layers[0] == name
        assert_same(explain(stub, message), expected.collect())
        inspected = ex.InspectModelRequest(model_name="siamese", explained_input=name)
        assert stub.explanation.InspectModel(inspected).report.spine[0].tensor == name


def test_a_class_by_name_and_layers_by_name(stub: Stubs, folder: Path) -> None:
    model = nf.load(folder / "residual" / "1" / "model.onnx")
    explanation = model.explain(picture(1), nf.ClassTarget(2))
    chosen = explanation.layers[0]
    classes = explanation.prediction.scores.shape[1]
    names = [f"kind {n}" for n in range(classes)]
    target = me.Target(class_target=me.ClassTarget(class_name="kind 2", labels=names))
    events = explain(stub, request(picture(1), "residual", target=target, layers=me.Layers(tensors=[chosen])))
    (flow,) = [event.layer_flow for event in events if event.HasField("layer_flow")]
    assert flow.tensor == chosen
    expected = next(f for f in explanation.collect().flows if f.tensor == chosen)
    assert flow.data == expected.map.tobytes()


def test_several_pictures_in_one_request(stub: Stubs, folder: Path) -> None:
    x = np.concatenate([picture(1), picture(2)])
    model = nf.load(folder / "residual" / "1" / "model.onnx")
    events = explain(stub, request(x, "residual"))
    assert_same(events, model.explain(x).collect())
    assert len(events[0].header.predictions) == 2


def test_streams_side_by_side_get_their_own_maps(stub: Stubs, folder: Path) -> None:
    pictures = {f"{name}/{seed}": picture(seed) for name in MODELS for seed in range(3)}
    asked = (request(x, key.split("/")[0], request_id=key) for key, x in pictures.items())
    events = [e for e in stub.explanation.ExplainStream(asked) if not e.HasField("progress")]
    loaded = {name: nf.load(folder / name / "1" / "model.onnx") for name in MODELS}
    for key, x in pictures.items():
        own = [event for event in events if event.request_id == key]
        assert_same(own, loaded[key.split("/")[0]].explain(x).collect())


def bad_tensor(**changes: Any) -> ex.ExplainRequest:
    message = request(picture(1), "residual")
    for name, value in changes.items():
        if name == "shape":
            del message.inputs[""].shape[:]
            message.inputs[""].shape.extend(value)
        else:
            setattr(message.inputs[""], name, value)
    return message


def nan_picture() -> np.ndarray:
    x = picture(1).copy()
    x.flat[0] = np.nan
    return x


BAD = [
    (lambda: request(picture(1), ""), CODE.INVALID_ARGUMENT, "model_name"),
    (lambda: request(picture(1), "nowhere"), CODE.NOT_FOUND, None),
    (lambda: request(picture(1), "../residual"), None, None),
    (lambda: request(picture(1), "residual", model_version="9"), CODE.NOT_FOUND, None),
    (lambda: ex.ExplainRequest(model_name="residual"), CODE.INVALID_ARGUMENT, "inputs"),
    (lambda: bad_tensor(dtype=te.DATA_TYPE_UNSPECIFIED), CODE.INVALID_ARGUMENT, "inputs[''].dtype"),
    (lambda: bad_tensor(dtype=77), CODE.INVALID_ARGUMENT, "inputs[''].dtype"),
    (lambda: bad_tensor(shape=[1, 3, -1, 5]), CODE.INVALID_ARGUMENT, "inputs[''].shape"),
    (lambda: bad_tensor(shape=[2**62, 2**62, 2**62]), CODE.INVALID_ARGUMENT, "inputs[''].data"),
    (lambda: bad_tensor(data=b"123"), CODE.INVALID_ARGUMENT, "inputs[''].data"),
    (lambda: request(nan_picture(), "residual"), CODE.INVALID_ARGUMENT, "inputs"),
    (lambda: request(picture(1)[:, :1], "residual"), CODE.INVALID_ARGUMENT, "inputs"),
    (lambda: request(picture(1), "residual", top_k=5000), CODE.INVALID_ARGUMENT, "top_k"),
    (lambda: request(picture(1), "residual", request_id="a\nb"), CODE.INVALID_ARGUMENT, "request_id"),
    (lambda: request(picture(1), "residual", layers=me.Layers(set=9)), CODE.INVALID_ARGUMENT, "layers.set"),
    (
        lambda: request(picture(1), "residual", layers=me.Layers(tensors=["absent"])),
        CODE.INVALID_ARGUMENT,
        "layers",
    ),
    (lambda: request(picture(1), "residual", method=me.Method(damping=-1)), CODE.INVALID_ARGUMENT, "method"),
    (lambda: request(picture(1), "residual", method=me.Method(preset="x")), CODE.INVALID_ARGUMENT, "method"),
    (
        lambda: request(picture(1), "residual", method=me.Method(abandonment=me.Abandonment())),
        CODE.INVALID_ARGUMENT,
        "method.abandonment.rule",
    ),
    (
        lambda: request(
            picture(1), "residual", target=me.Target(class_target=me.ClassTarget(class_index=10**6))
        ),
        CODE.INVALID_ARGUMENT,
        "target",
    ),
    (lambda: request(np.ones((1, 2, 3, 3), np.float32), "unsupported"), CODE.UNIMPLEMENTED, None),
    (lambda: request(picture(1), "broken"), CODE.FAILED_PRECONDITION, None),
]


@pytest.mark.parametrize(("make", "code", "field"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_named(make: Any, code: CODE | None, field: str | None, stub: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        explain(stub, make())
    allowed = (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND) if code is None else (code,)
    assert caught.value.code() in allowed, caught.value.details()
    found = details(caught.value)
    assert found["google.rpc.ErrorInfo"].domain == "naflow"
    if field is not None:
        assert found["google.rpc.BadRequest"].field_violations[0].field == field
    if code == CODE.UNIMPLEMENTED:
        assert "odd-one" in caught.value.details()


def test_inspection_equals_the_report_in_process(stub: Stubs, folder: Path) -> None:
    answer = stub.explanation.InspectModel(ex.InspectModelRequest(model_name="residual"))
    facts = nf.load(folder / "residual" / "1" / "model.onnx").inspect().to_dict()
    report = answer.report
    assert answer.model_version == "1"
    assert report.explainable
    assert report.sha256 == facts["model"]["sha256"]
    assert report.top_feature_map == facts["top_feature_map"]
    assert [(t.index, t.tensor, list(t.shape)) for t in report.spine] == [
        (t["index"], t["tensor"], t["shape"]) for t in facts["spine"]
    ]
    assert list(report.blocks) == facts["blocks"]
    for found, wanted in zip(report.segments, facts["segments"], strict=True):
        own = {k: v for k, v in wanted.items() if k not in ("class", "cost")}
        assert plain(found, "rule_class", "cost") == own
        assert plain(found.cost) == wanted["cost"]
        assert rep.RuleClass.Name(found.rule_class) == f"RULE_CLASS_{wanted['class'].upper()}"
    assert [node.name for node in report.nodes] == [node["name"] for node in facts["nodes"]]
    assert {**plain(report.cost), "typical_iterations": report.typical_iterations} == facts["cost"]
    assert report.cost.solve_multiply_adds
    assert plain(report.flows) == facts["flows"]
    assert [plain(group) for group in report.without_flow] == facts["without_flow"]
    assert report.without_flow
    assert list(report.notes) == facts["notes"]
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in plain(report.head).items()} == facts["head"]
    assert report.inputs[0].declared_shape[0].symbol == "n"
    assert [d.size for d in report.inputs[0].declared_shape][1:] == facts["inputs"][0]["shape"][1:]
    refused = stub.explanation.InspectModel(ex.InspectModelRequest(model_name="unsupported")).report
    assert not refused.explainable
    assert refused.reason
    assert [node.node for node in refused.unsupported] == ["odd-one"]


def plain(message: Message, *without: str) -> dict[str, Any]:
    """Fields of a flat message."""
    values = {f.name: getattr(message, f.name) for f in message.DESCRIPTOR.fields if f.name not in without}
    return {k: v if isinstance(v, str | int | float) else list(v) for k, v in values.items()}


def test_models_their_states_and_their_health(stub: Stubs) -> None:
    models = {m.model_name: m for m in stub.repository.ListModels(repo.ListModelsRequest()).models}
    assert set(models) >= {*MODELS, "unsupported", "broken"}
    assert models["broken"].versions[0].state == repo.MODEL_STATE_FAILED
    assert models["broken"].versions[0].reason
    assert models["residual"].ready
    for name, status in (("residual", SERVING), ("broken", NOT_SERVING)):
        assert stub.health.Check(health_pb2.HealthCheckRequest(service=f"model/{name}")).status == status
    assert stub.health.Check(health_pb2.HealthCheckRequest()).status == SERVING


def test_unloading_and_loading_again(stub: Stubs) -> None:
    watch = stub.health.Watch(health_pb2.HealthCheckRequest(service="model/inception"), timeout=20)
    assert next(watch).status == SERVING
    unloaded = stub.repository.UnloadModel(repo.UnloadModelRequest(model_name="inception")).model
    assert not unloaded.ready
    assert next(watch).status == NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        explain(stub, request(picture(1), "inception"))
    assert caught.value.code() == CODE.FAILED_PRECONDITION
    loaded = stub.repository.LoadModel(repo.LoadModelRequest(model_name="inception")).model
    assert loaded.ready
    assert next(watch).status == SERVING
    assert stub.repository.LoadModel(repo.LoadModelRequest(model_name="inception", force=True)).model.ready
    watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        stub.repository.LoadModel(repo.LoadModelRequest(model_name="nowhere"))
    assert caught.value.code() == CODE.NOT_FOUND


def test_an_upload_can_be_explained(stub: Stubs, folder: Path) -> None:
    content = (folder / "residual" / "1" / "model.onnx").read_bytes()
    start = repo.UploadModelStart(
        model_name="fresh", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    pieces = [content[i : i + 4096] for i in range(0, len(content), 4096)]
    messages = [repo.UploadModelRequest(start=start), *(repo.UploadModelRequest(data=p) for p in pieces)]
    answer = stub.repository.UploadModel(iter(messages))
    assert answer.model_version == "1"
    assert answer.model.ready
    events = explain(stub, request(picture(1), "fresh"))
    assert_same(events, nf.load(content).explain(picture(1)).collect())
    messages[-1].data = b"x" * len(messages[-1].data)
    start.model_name = "tampered"
    with pytest.raises(grpc.RpcError) as caught:
        stub.repository.UploadModel(iter(messages))
    assert caught.value.code() == CODE.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        stub.repository.UploadModel(iter(messages[1:]))
    assert details(caught.value)["google.rpc.BadRequest"].field_violations[0].field == "start"
    assert not (folder / "tampered").exists()


def test_health_answers_quickly_while_all_compute(stub: Stubs, server: Running) -> None:
    done = threading.Event()

    def load() -> None:
        with stubs(server.address) as own:
            while not done.is_set():
                explain(own, request(picture(1), "residual"))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        times = []
        for _ in range(40):
            began = time.perf_counter()
            stub.health.Check(health_pb2.HealthCheckRequest())
            times.append(time.perf_counter() - began)
            time.sleep(0.01)
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert sorted(times)[len(times) // 2] < 0.05


def test_a_known_shape_compiles_nothing(stub: Stubs, server: Running) -> None:
    explain(stub, request(picture(5), "residual"))
    before = server.gauge("naflow_compilations_total")
    explain(stub, request(picture(6), "residual"))
    assert server.gauge("naflow_compilations_total") == before
    assert before > 0


def test_named_input(stub: Stubs, folder: Path) -> None:
    model = nf.load(folder / "residual" / "1" / "model.onnx")
    message = ex.ExplainRequest(model_name="residual", inputs={model.inputs[0].name: tensor(picture(1))})
    assert_same(explain(stub, message), model.explain(picture(1)).collect())
