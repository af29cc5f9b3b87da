"""Similarities through both clients and the real server: the core's bits, typed facts, clear refusals."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from PIL import Image

import naflow_core as nf
from naflow.v1 import similarity_pb2
from naflow_client import (
    BankTarget,
    Client,
    LabelledEmbeddings,
    NotFoundError,
    Preprocessing,
    PrototypeTarget,
    RequestError,
    Result,
    SimilarityTarget,
    UnsupportedError,
)
from naflow_client.inputs import from_pictures
from naflow_server.engine import Engine
from support.embedding_networks import CHANNELS, TOP, embedding_network
from support.engines import install
from support.explanation_server import Scripted, answer, maps, serving
from support.grpc_server import running, settings

LABELS = ("a", "b", "b", "a")
RECIPE = {"channels": "L", "size": 8, "divide": 255.0}


def grey(model: Any) -> Any:
    """The network for pictures of one channel."""
    first = next(i for i in model.graph.initializer if i.name == "w1")
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first)[:, :1], "w1"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("similarity")
    install(root / "models", "net", grey(embedding_network("average")))
    rng = np.random.default_rng(3)
    for name in ("query", "one", "two"):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    configured = settings(repository={"path": folder / "models"}, banks={"path": folder / "banks"})
    with running(configured, Engine) as started:
        yield started.address


@pytest.fixture(scope="module")
def model(folder: Path) -> nf.Model:
    return nf.load(folder / "models" / "net" / "1" / "model.onnx")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def rows(model: nf.Model) -> np.ndarray:
    pictures = np.random.default_rng(2).normal(size=(len(LABELS), 1, 8, 8)).astype(np.float32)
    return model.embed(pictures, batch_size=1)


def same(result: Result, expected: nf.Result) -> None:
    assert [flow.key for flow in result.flows] == [flow.key for flow in expected.flows]
    for got, wanted in zip(result.flows, expected.flows, strict=True):
        assert got.map.tobytes() == wanted.map.tobytes()
    facts = expected.prediction.similarity
    assert facts is not None
    for i, prediction in enumerate(result.header.predictions):
        found = prediction.similarity
        assert found is not None
        assert (found.metric, found.normalise, found.coefficients) == (
            facts.metric,
            facts.normalise,
            facts.coefficients,
        )
        assert found.score == prediction.target_score == facts.score[i]
        assert list(found.top_channels) == facts.top_channels(i)
        paired = facts.candidates == ("pair",)  # on the wire, neighbours keep the numbers of their references
        assert [(n.index, n.similarity, n.used) for n in found.neighbours] == [
            (i if paired else n.index, n.similarity, n.used) for n in facts.neighbours[i]
        ]
        target = int(expected.prediction.target[i])
        assert (prediction.target.index, result.candidate(target)) == (target, facts.candidates[target])


def explained(model: nf.Model, x: np.ndarray, target: Any) -> nf.Result:
    return model.explain(x, target, layers=TOP).collect()


def test_every_target(driver: Any, address: str, model: nf.Model, x: np.ndarray, rows: np.ndarray) -> None:
    sha256 = model.sha256
    cases: list[tuple[Any, Any]] = [
        (SimilarityTarget(rows[:2]), nf.SimilarityTarget(rows[:2])),
        (
            SimilarityTarget(rows[:2], "dot", "none", "contribution", ("p", "q")),
            nf.SimilarityTarget(rows[:2], "dot", "none", "contribution", ("p", "q")),
        ),
        (SimilarityTarget(rows[:2], paired=True), nf.SimilarityTarget(rows[:2], paired=True)),
        (PrototypeTarget(rows, LABELS, contrast=True), nf.PrototypeTarget(rows, LABELS, contrast=True)),
        (PrototypeTarget(rows, [0, 1, 1, 0], 1), nf.PrototypeTarget(rows, [0, 1, 1, 0], 1)),
        (
            BankTarget(LabelledEmbeddings(rows, LABELS, sha256), 3, temperature=0.2),
            nf.BankTarget(nf.Bank(rows, LABELS, sha256), 3, temperature=0.2),
        ),
    ]
    for asked, own in cases:
        same(driver.explain(address, "net", x, target=asked, layers=TOP), explained(model, x, own))


def test_a_bank_that_the_server_keeps(
    driver: Any, address: str, model: nf.Model, x: np.ndarray, rows: np.ndarray
) -> None:
    name = f"kept-{driver.kind}"
    driver.call(address, "create_bank", name, CHANNELS, model.sha256)
    driver.call(address, "append_references", name, rows, LABELS, model_sha256=model.sha256)
    result = driver.explain(address, "net", x, target=BankTarget(name, wanted="b"), layers=TOP)
    same(result, explained(model, x, nf.BankTarget(nf.Bank(rows, LABELS, model.sha256), wanted="b")))
    found = result.header.prediction.similarity
    status = driver.call(address, "get_bank", name)
    assert (found.bank_id, found.bank_version) == (status.id, status.version)
    with pytest.raises(NotFoundError, match="there is no bank 'absent'") as caught:
        driver.explain(address, "net", x, target=BankTarget("absent"))
    assert (caught.value.reason, caught.value.field) == ("BANK_UNKNOWN", "target.bank_target.bank_name")


def shown(path: Path) -> Any:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    assert text is not None
    return json.loads(text[1])["pictures"][0]


def test_pictures_side_by_side(
    driver: Any, address: str, model: nf.Model, folder: Path, tmp_path: Path
) -> None:
    """References as files; their small pictures stand in the report beside the explained one."""
    files = [folder / "one.png", folder / "two.png"]
    target = SimilarityTarget(files, metric="euclidean")
    query = folder / "query.png"
    result = driver.explain(
        address, "net", query, target=target, preprocess=RECIPE, layers=TOP, reference_prediction=True
    )
    assert result.header.prediction.reference.largest_difference < 1e-4
    with Client(address) as client:
        report = client.inspect("net")
    recipe = Preprocessing.load(RECIPE)
    x, references = (
        from_pictures(given, recipe, report).arrays["x"] for given in ([query], [str(f) for f in files])
    )
    names = ("one.png", "two.png")
    own = nf.SimilarityTarget(model.embed(references, batch_size=1), "euclidean", names=names)
    same(result, explained(model, x, own))
    page = shown(result.save_html(tmp_path / "report.html"))
    comparison = page["comparison"]
    order = [names[n.index] for n in result.header.prediction.similarity.neighbours]
    assert [item["label"] for item in comparison["references"]] == order
    assert all(item["source"].startswith("data:image/") for item in comparison["references"])
    assert comparison["score"] == result.header.prediction.target_score
    assert len(comparison["channels"]) == CHANNELS
    assert page["target"].startswith("euclidean similarity with 2 references")


def test_the_report_of_a_model(driver: Any, address: str, model: nf.Model) -> None:
    """What `naflow inspect --json` shows, typed."""
    found, facts = driver.call(address, "inspect", "net"), model.inspect().to_dict()
    assert {**dataclasses.asdict(found.cost), "typical_iterations": found.typical_iterations} == facts["cost"]
    assert [dataclasses.asdict(s.cost) for s in found.segments] == [s["cost"] for s in facts["segments"]]
    assert found.flows == facts["flows"]
    assert [{"reason": g.reason, "tensors": list(g.tensors)} for g in found.without_flow] == facts[
        "without_flow"
    ]
    assert list(found.notes) == facts["notes"]
    assert dataclasses.asdict(found.head) == facts["head"]
    assert found.head.shape == (CHANNELS,)


def test_supports_as_tensors_show_one_of_each_way(
    driver: Any, address: str, x: np.ndarray, tmp_path: Path
) -> None:
    target = PrototypeTarget({"": np.concatenate([x, x[:1]])}, ["p", "q", "q"])
    result = driver.explain(address, "net", x[:1], target=target, layers=TOP)
    page = shown(result.save_html(tmp_path / "report.html"))
    assert {item["label"] for item in page["comparison"]["references"]} == {"p", "q"}
    assert all(item["source"] for item in page["comparison"]["references"])
    assert page["prediction"][0][1] == "p"


def test_many_inputs_share_a_target(
    driver: Any, address: str, model: nf.Model, folder: Path, x: np.ndarray, rows: np.ndarray
) -> None:
    given = {"array": x[:1], "file": folder / "query.png", "missing": folder / "missing.png"}
    target = SimilarityTarget([folder / "one.png"])
    outcomes = driver.explain_many(address, "net", given, target=target, preprocess=RECIPE, layers=TOP)
    assert [outcome.error is None for outcome in outcomes] == [True, True, False]
    for outcome in outcomes[:2]:
        assert outcome.get().header.prediction.similarity.neighbours[0].index == 0
        assert outcome.get().candidate(0) == "one.png"
    (last,) = driver.explain_many(address, "net", [x], target=PrototypeTarget(rows, LABELS), layers=TOP)
    same(last.get(), explained(model, x, nf.PrototypeTarget(rows, LABELS)))


BAD: list[tuple[Any, dict[str, Any], str, str]] = [
    ("one", {}, "target is a str", "target"),
    (SimilarityTarget(np.ones(3)), {}, "[3]", "target.references"),
    (SimilarityTarget(np.array([["a"]])), {}, "give numbers", "target.references"),
    (SimilarityTarget(np.ones((1, 4)), names=("a", "b")), {}, "2 names do not fit 1", "target.names"),
    (SimilarityTarget(np.ones((1, 4)), normalise="max"), {}, "normalise 'max'", "target.normalise"),
    (SimilarityTarget(np.ones((1, 4))), {"target_class": 1}, "exclude each other", "target_class"),
    (PrototypeTarget(np.ones((2, 4)), ["a"]), {}, "1 labels do not fit 2", "target.labels"),
    (PrototypeTarget(np.ones((2, 4)), "ab"), {}, "a single text", "target.labels"),
    (BankTarget("b", 0), {}, "target.k", "target.k"),
    (BankTarget("b", temperature=float("nan")), {}, "target.temperature", "target.temperature"),
    (BankTarget(7), {}, "target.bank is a int", "target.bank"),  # type: ignore[arg-type]
    (BankTarget("b", wanted=""), {}, "target.wanted is empty", "target.wanted"),
]


@pytest.mark.parametrize(("target", "rest", "said", "field"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_sent(target: Any, rest: dict[str, Any], said: str, field: str) -> None:
    """Refused without a server."""
    with Client("localhost:1") as client, pytest.raises(RequestError) as caught:
        client.explain("net", np.zeros((1, 1, 8, 8), np.float32), target=target, **rest).collect()
    assert said in str(caught.value)
    assert caught.value.field == field


def test_a_server_that_does_not_know_similarities(driver: Any) -> None:
    """It skips the field and explains a class, which nobody asked for."""
    servicer = Scripted()
    servicer.play(answer(maps(2)))
    said = "does not know similarity targets"
    with serving(servicer) as address, pytest.raises(UnsupportedError, match=said):
        driver.explain(address, "net", np.zeros((1, 1, 3, 4), np.float32), target=BankTarget("b"))
    sent = servicer.requests[-1].target.bank_target
    assert (sent.bank_name, sent.neighbours) == ("b", 20)
    assert sent.comparison.coefficients == similarity_pb2.COEFFICIENTS_GRADIENT
