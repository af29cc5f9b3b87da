"""Everything but explanations: inspection, the repository, options, and what both clients share."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import grpc
import numpy as np
import pytest

from naflow.v1 import (
    explanation_pb2,
    method_pb2,
    model_report_pb2,
    model_repository_pb2,
    reference_bank_pb2,
    tensor_pb2,
)
from naflow_client import (
    AsyncClient,
    AsyncManyStream,
    AsyncStream,
    CallError,
    Client,
    ClientError,
    ExplainOptions,
    ManyStream,
    ModelState,
    RequestError,
    RetryPolicy,
    Stream,
    UnavailableError,
)
from naflow_client._core import methods, requests
from naflow_client.aio_bank_calls import AsyncBankCalls
from naflow_client.bank_calls import BankCalls
from naflow_client.models import TensorInfo
from naflow_client.options import ExplainChoices
from support.explanation_server import MODEL, Scripted, ScriptedError, answer, maps

Server = tuple[Scripted, str]
X = np.zeros((1, 1, 3, 4), np.float32)


def test_models(driver: Any, server: Server) -> None:
    _, target = server
    (status,) = driver.call(target, "list_models")
    assert (status.model, status.ready, status.reason) == (MODEL, True, "")
    (version,) = status.versions
    assert (version.version, version.state, version.memory_bytes) == ("1", ModelState.READY, 12)
    assert driver.call(target, "load_model", "other").model == "other"
    gone = driver.call(target, "unload_model", "other")
    assert (gone.model, gone.ready) == ("other", False)
    assert gone.versions[0].state is ModelState.UNKNOWN  # of a newer server


def test_inspect(driver: Any, server: Server) -> None:
    servicer, target = server
    report = model_report_pb2.ModelReport(
        explainable=True,
        producer="us",
        opsets={"": 20},
        top_feature_map="t9",
        spine=[model_report_pb2.SpineTensor(index=0, tensor="x", shape=[1, 3, 8, 8])],
        blocks=["t9"],
    )
    report.segments.add(
        index=0, kind="node", nodes=["c"], op_types=["Conv"], rule="least-squares", rule_class=2
    )
    report.nodes.add(name="c", op_type="Conv", since_version=11, rule_class=77, supported=True)
    report.unsupported.add(node="z", op_type="Loop", reason="no loops")
    size, symbol = model_report_pb2.DeclaredDimension(size=3), model_report_pb2.DeclaredDimension(symbol="N")
    dims = [symbol, size, model_report_pb2.DeclaredDimension()]
    report.inputs.add(
        name="x", dtype="float", has_declared_shape=True, declared_shape=dims, used_shape=[1, 3, 8]
    )
    report.inputs.add(name="scalar", dtype="float", has_declared_shape=True)
    report.inputs.add(name="any", dtype="float")
    servicer.report.CopyFrom(
        explanation_pb2.InspectModelResponse(model_name=MODEL, model_version="2", report=report)
    )
    servicer.requests.clear()
    names = {"output": "y", "explained_input": "x"}
    got = driver.call(target, "inspect", MODEL, version="2", input_shapes={"x": (1, 3, 8)}, **names)
    request = servicer.requests[0]
    assert (request.model_version, request.output, request.explained_input) == ("2", "y", "x")
    assert list(request.input_shapes["x"].dims) == [1, 3, 8]
    assert (got.model, got.version, got.explainable, got.opsets) == (MODEL, "2", True, {"": 20})
    assert got.inputs == (
        TensorInfo("x", "float", ("N", 3, None), (1, 3, 8)),
        TensorInfo("scalar", "float", (), None),
        TensorInfo("any", "float", None, None),
    )
    assert (got.segments[0].rule_class, got.nodes[0].rule_class) == ("least_squares", "")
    assert got.spine[0].shape == (1, 3, 8, 8)
    assert got.unsupported[0].reason == "no loops"


def test_upload(driver: Any, server: Server, tmp_path: Path) -> None:
    servicer, target = server
    content = bytes(range(256)) * 5000
    (tmp_path / "m.onnx").write_bytes(content)
    for source in (content, tmp_path / "m.onnx"):
        servicer.requests.clear()
        assert driver.call(target, "upload_model", MODEL, "3", source).ready
        start, *pieces = servicer.requests[0]
        assert (start.start.model_name, start.start.model_version) == (MODEL, "3")
        assert (start.start.size_bytes, len(start.start.sha256)) == (len(content), 64)
        assert b"".join(piece.data for piece in pieces) == content
        assert len(pieces) == 2
    with pytest.raises(ClientError, match="nothing"):
        driver.call(target, "upload_model", MODEL, "3", tmp_path / "nothing.onnx")


def test_other_calls_are_tried_again_but_not_uploads(driver: Any, server: Server) -> None:
    servicer, target = server
    down = ScriptedError(grpc.StatusCode.UNAVAILABLE, "down")
    servicer.requests.clear()
    servicer.failures = [down, down]
    assert driver.call(target, "list_models")
    assert len(servicer.requests) == 3
    servicer.failures = [down]
    with pytest.raises(UnavailableError):
        driver.call(target, "upload_model", MODEL, "3", b"x")
    assert servicer.failures == []


def test_options_arrive() -> None:
    options = ExplainOptions(
        version="7",
        target_class="cat",
        labels=["dog", "cat"],
        layers=["a", "b"],
        preset="paper",
        inverse="activation",
        rows="active",
        weighting="plain",
        abandon="mass-each:0.9",
        feasible=False,
        anchor="signed",
        evidence="net",
        damping=0.0,
        tolerance=0.01,
        max_iterations=3,
        map_change=0.001,
        output="y",
        top_feature_map="t",
        explained_input="x",
        top_k=np.int64(2),  # type: ignore[arg-type]
        request_id="me",
        reference_prediction=True,
    )
    request = requests.explain_request(MODEL, options)
    assert (request.model_version, request.output, request.top_feature_map) == ("7", "y", "t")
    assert request.explained_input == "x"
    assert (request.top_k, request.request_id, request.reference_prediction) == (2, "me", True)
    assert request.target.class_target.class_name == "cat"
    assert list(request.target.class_target.labels) == ["dog", "cat"]
    assert list(request.layers.tensors) == ["a", "b"]
    assert request.method == method_pb2.Method(
        preset="paper",
        inverse=method_pb2.INVERSE_ACTIVATION,
        rows=method_pb2.ROWS_ACTIVE,
        weighting=method_pb2.WEIGHTING_PLAIN,
        abandonment=method_pb2.Abandonment(rule=method_pb2.ABANDONMENT_RULE_MASS_EACH, mass=0.9),
        feasible=False,
        anchor=method_pb2.ANCHOR_SIGNED,
        evidence=method_pb2.EVIDENCE_NET,
        damping=0.0,
        tolerance=0.01,
        max_iterations=3,
        map_change=0.001,
    )
    plain = requests.explain_request(MODEL, ExplainOptions(target_class=0))
    assert plain.target.class_target.WhichOneof("wanted") == "class_index"
    assert plain.method == method_pb2.Method(preset="default")
    assert plain.layers.set == method_pb2.LAYER_SET_BLOCKS
    assert not requests.explain_request(MODEL, ExplainOptions()).HasField("target")


@pytest.mark.parametrize("dtype", sorted(requests.DTYPES))
def test_tensors_travel_little_endian_and_in_rows(dtype: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for array in (values, values.astype(np.dtype(dtype).newbyteorder(">")), np.asfortranarray(values)):
        message = requests.tensor(array, "x")
        assert list(message.shape) == [2, 3, 4]
        got = np.frombuffer(message.data, np.dtype(dtype).newbyteorder("<")).reshape(2, 3, 4)
        np.testing.assert_array_equal(got, values)
    assert set(requests.DTYPES.values()) == set(tensor_pb2.DataType.values()) - {0}


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"inverse": "magic"}, "inverse 'magic'"),
        ({"rows": ""}, "rows ''"),
        ({"weighting": "heavy"}, "weighting 'heavy'"),
        ({"evidence": "none"}, "evidence 'none'"),
        ({"abandon": "mass:much"}, "abandon"),
        ({"abandon": "unspecified"}, "abandon"),
        ({"damping": float("nan")}, "damping"),
        ({"max_iterations": -1}, "max_iterations"),
        ({"max_iterations": 1.5}, "max_iterations"),
        ({"map_change": "much"}, "map_change"),
        ({"layers": []}, "layers"),
        ({"target_class": True}, "target_class"),
        ({"top_k": 1001}, "top_k"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_sent(
    driver: Any, server: Server, choices: dict[str, Any], named: str
) -> None:
    servicer, target = server
    servicer.play(answer(maps(1)))
    with pytest.raises(RequestError, match=named):
        driver.explain(target, MODEL, X, **choices)
    assert servicer.requests == []


@pytest.mark.parametrize(
    "x", [np.float32(1), np.zeros((0, 3), np.float32), {}, {"a": X, "b": X[:0]}, [], [1]]
)
def test_impossible_inputs_are_refused(driver: Any, server: Server, x: Any) -> None:
    servicer, target = server
    servicer.play(answer(maps(1)))
    with pytest.raises(ClientError):
        driver.explain(target, MODEL, x, preprocess="unit")
    with pytest.raises(RequestError, match="dtype"):
        driver.explain(target, MODEL, X.astype(np.complex64))


def test_one_table_two_clients() -> None:
    """Every method of the table is on both clients, with the same arguments and the same words."""
    pairs = [(Client, AsyncClient), (Stream, AsyncStream), (ManyStream, AsyncManyStream)]
    pairs.append((BankCalls, AsyncBankCalls))
    for sync, other in pairs:
        ours = {name for name in vars(sync) if not name.startswith("_")}
        assert ours == {name for name in vars(other) if not name.startswith("_")}
        for name in ours:
            one, two = vars(sync)[name], vars(other)[name]
            if isinstance(one, property):
                assert isinstance(two, property)
                continue
            assert inspect.signature(one).parameters == inspect.signature(two).parameters, name
            assert (one.__doc__ or "").split("\n\n")[1:] == (two.__doc__ or "").split("\n\n")[1:], name
    assert set(methods.METHODS) <= set(dir(Client))
    assert issubclass(Client, BankCalls)
    assert issubclass(AsyncClient, AsyncBankCalls)
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters
    assert set(get_type_hints(ExplainChoices)) == {item.name for item in dataclasses.fields(ExplainOptions)}


def test_the_table_matches_the_services() -> None:
    services = {
        f"/{service.full_name}/{method.name}": method
        for module in (explanation_pb2, model_repository_pb2, reference_bank_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {entry.path for entry in methods.METHODS.values()} == set(services)
    for entry in methods.METHODS.values():
        wire = services[entry.path]
        assert wire.input_type is entry.request.DESCRIPTOR
        assert wire.output_type is entry.response.DESCRIPTOR
        kinds = ["stream" if flag else "unary" for flag in (wire.client_streaming, wire.server_streaming)]
        assert entry.kind == "_".join(kinds)


@pytest.mark.parametrize(
    ("error", "attempt", "remaining", "expected"),
    [
        (CallError("", status="UNAVAILABLE"), 1, None, 0.5),
        (CallError("", status="UNAVAILABLE"), 2, None, 1.0),
        (CallError("", status="UNAVAILABLE"), 4, None, 3.0),
        (CallError("", status="UNAVAILABLE"), 5, None, None),
        (CallError("", status="UNAVAILABLE", retry_after=2), 1, None, 2.0),
        (CallError("", status="UNAVAILABLE"), 1, 0.5, None),
        (CallError("", status="RESOURCE_EXHAUSTED"), 1, None, None),
        (CallError("", status="RESOURCE_EXHAUSTED", retry_after=0.2), 1, None, 0.5),
        (CallError("", status="RESOURCE_EXHAUSTED", retry_after=9), 1, None, 9.0),
        (CallError("", status="RESOURCE_EXHAUSTED", retry_after=11), 1, None, None),
        (CallError("", status="INTERNAL", retry_after=1), 1, None, None),
        (CallError("", status="CANCELLED"), 1, None, 0.5),
        (CallError("", status="FAILED_PRECONDITION"), 1, None, None),
        (CallError("", status="FAILED_PRECONDITION", retry_after=1), 1, None, 1.0),
        (CallError("", status="INVALID_ARGUMENT"), 1, None, None),
    ],
)
def test_retry_policy(
    error: CallError, attempt: int, remaining: float | None, expected: float | None
) -> None:
    policy = RetryPolicy(attempts=5, initial=0.5, multiplier=2, maximum=3, longest_wish=10, jitter=0.5)
    assert policy.pause(attempt, error, remaining, lambda: 0.0) == expected
    if expected is not None and remaining is None:
        assert policy.pause(attempt, error, remaining, lambda: 1.0) == pytest.approx(1.5 * expected)


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"initial": -1}, {"multiplier": 0.5}, {"jitter": np.nan}])
def test_impossible_retry_policies(wrong: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match="impossible"):
        RetryPolicy(**wrong)


BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        heavy = {"jax", "jaxlib", "onnx", "onnxruntime", "scipy", "naflow_core", "naflow_server"}
        if name.split(".")[0] in heavy:
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Refuse())
import pkgutil, naflow_client
for found in pkgutil.walk_packages(naflow_client.__path__, "naflow_client."):
    __import__(found.name)
with naflow_client.Client("localhost:1"):
    pass
print("fine")
"""


def test_needs_neither_jax_nor_the_core() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
