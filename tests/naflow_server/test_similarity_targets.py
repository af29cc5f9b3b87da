"""Similarities over the wire: what arrives is what the core computes, what is wrong is named at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import naflow_core as nf
from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import method_pb2 as me
from naflow.v1 import reference_bank_pb2 as rb
from naflow.v1 import similarity_pb2 as sim
from naflow_server.convert.similarities import similarity
from naflow_server.engine import Engine, types
from support.embedding_networks import CHANNELS, TOP, embedding_network, pictures
from support.engines import install
from support.grpc_server import Running, Stubs, assembled, request, running, settings, stubs, tensor
from support.similarity_requests import of_bank, of_references

CODE = grpc.StatusCode
LABELS = ("a", "b", "a", "c", "b", "a")
SHOWN = ["c", TOP]  # what follows is that of any target
LAYERS = me.Layers(tensors=SHOWN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("similarities")
    for head in ("average", "map"):
        install(root / "models", head, embedding_network(head))
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    configured = settings(
        repository={"path": folder / "models"},
        banks={"path": folder / "banks"},
        limits={"references": 20, "reference_bytes": 4096, "pictures": 8},
        batching={"pictures": 8, "window_seconds": 0.2},
    )
    with running(configured, Engine) as started:
        yield started


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Stubs]:
    with stubs(server.address) as made:
        yield made


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, nf.Model]:
    return {name: nf.load(folder / "models" / name / "1" / "model.onnx") for name in ("average", "map")}


@pytest.fixture(scope="module")
def embeddings(models: dict[str, nf.Model]) -> np.ndarray:
    """Of as many pictures as there are labels."""
    return np.concatenate([models["average"].embed(one[None]) for one in pictures(len(LABELS), seed=5)])


@pytest.fixture(scope="module")
def bank(stub: Stubs, models: dict[str, nf.Model], embeddings: np.ndarray) -> rb.BankStatus:
    """Labelled, but for the second row."""
    sha256 = models["average"].sha256
    stub.banks.CreateBank(rb.CreateBankRequest(bank_name="kept", dimension=CHANNELS, model_sha256=sha256))
    labels = [*LABELS[:1], "", *LABELS[2:]]
    return stub.banks.AppendReferences(
        rb.AppendReferencesRequest(
            bank_name="kept", model_sha256=sha256, embeddings=tensor(embeddings), labels=labels
        )
    ).bank


def explain(stub: Stubs, target: me.Target, x: np.ndarray, model: str = "average", **rest: Any) -> Any:
    """The header and the maps."""
    message = request(x, model, target=target, **{"layers": LAYERS, **rest})
    events = [event for event in stub.explanation.Explain(message) if not event.HasField("progress")]
    assert events[-1].HasField("summary")
    return events[0].header, assembled(events)


def same(found: tuple[ex.Header, dict[int, np.ndarray]], wanted: nf.Result, *, names: bool = True) -> None:
    """Maps and facts, bit for bit."""
    header, maps = found
    assert sorted(maps) == [flow.index for flow in wanted.flows]
    for flow in wanted.flows:
        assert maps[flow.index].tobytes() == flow.map.tobytes(), flow.tensor
    facts = wanted.prediction.similarity
    assert facts is not None
    for i, prediction in enumerate(header.predictions):
        told = prediction.similarity
        assert told.score == prediction.target_score == facts.score[i]
        assert told.comparison.metric == facts.metric
        assert [(c.channel, c.contribution) for c in told.channels] == facts.top_channels(i)
        assert [(n.similarity, n.used) for n in told.neighbours] == [
            (n.similarity, n.used) for n in facts.neighbours[i]
        ]
        assert prediction.target.class_index == wanted.prediction.target[i]
        assert [(b.class_index, b.score) for b in prediction.best] == wanted.prediction.best(i)
        labels = [facts.candidates[b.class_index] if names else "" for b in prediction.best]
        assert [b.label for b in prediction.best] == labels
        assert [n.label for n in told.neighbours] == [n.label if names else "" for n in facts.neighbours[i]]


@pytest.mark.parametrize(
    ("comparison", "options"),
    [
        (sim.Comparison(), {}),
        (sim.Comparison(metric="euclidean"), {"metric": "euclidean"}),
        (
            sim.Comparison(
                metric="dot",
                coefficients=sim.COEFFICIENTS_CONTRIBUTION,
                normalisation=sim.NORMALISATION_NONE,
            ),
            {"metric": "dot", "coefficients": "contribution", "normalise": "none"},
        ),
    ],
)
def test_references(
    comparison: sim.Comparison,
    options: dict[str, str],
    stub: Stubs,
    models: dict[str, nf.Model],
    embeddings: np.ndarray,
) -> None:
    x = pictures(2)
    found = explain(stub, of_references(embeddings[:3], comparison=comparison), x)
    target = nf.SimilarityTarget(embeddings[:3], **options)
    same(found, models["average"].explain(x, target, layers=SHOWN).collect(), names=False)
    told = found[0].predictions[0].similarity.comparison
    assert told.coefficients
    assert told.normalisation
    assert sorted(n.index for n in found[0].predictions[0].similarity.neighbours) == [0, 1, 2]


def test_references_as_pictures_are_embedded_one_by_one(stub: Stubs, models: dict[str, nf.Model]) -> None:
    x, others = pictures(2), pictures(3, seed=9)
    references = sim.References(pictures=sim.Pictures(inputs={"": tensor(others)}))
    target = me.Target(similarity_target=sim.SimilarityTarget(references=references))
    own = nf.SimilarityTarget(models["average"].embed(others, batch_size=1))
    same(explain(stub, target, x), models["average"].explain(x, own, layers=SHOWN).collect(), names=False)


def test_pairs_keep_their_numbers(stub: Stubs, models: dict[str, nf.Model], embeddings: np.ndarray) -> None:
    x = pictures(2)
    found = explain(stub, of_references(embeddings[:2], paired=True), x)
    own = nf.SimilarityTarget(embeddings[:2], paired=True)
    same(found, models["average"].explain(x, own, layers=SHOWN).collect(), names=False)
    assert [p.similarity.neighbours[0].index for p in found[0].predictions] == [0, 1]


@pytest.mark.parametrize("options", [{}, {"wanted": "c"}, {"contrast": True}])
def test_prototypes(
    options: dict[str, Any], stub: Stubs, models: dict[str, nf.Model], embeddings: np.ndarray
) -> None:
    x = pictures(2)
    supports = sim.References(embeddings=tensor(embeddings))
    message = sim.PrototypeTarget(supports=supports, labels=LABELS, **options)
    own = nf.PrototypeTarget(embeddings, LABELS, **options)
    found = explain(stub, me.Target(prototype_target=message), x)
    same(found, models["average"].explain(x, own, layers=SHOWN).collect())


def test_local_descriptors(stub: Stubs, models: dict[str, nf.Model]) -> None:
    x, supports = pictures(1), models["map"].embed(pictures(3, seed=2), batch_size=1)
    comparison = sim.Comparison(metric="image-to-class")
    message = sim.PrototypeTarget(
        supports=sim.References(embeddings=tensor(supports)), labels=["a", "a", "b"], comparison=comparison
    )
    own = nf.PrototypeTarget(supports, ["a", "a", "b"], metric="image-to-class")
    found = explain(stub, me.Target(prototype_target=message), x, "map", layers=me.Layers(tensors=[TOP]))
    same(found, models["map"].explain(x, own, layers=TOP).collect())


def test_a_bank_that_comes_along(stub: Stubs, models: dict[str, nf.Model], embeddings: np.ndarray) -> None:
    x, sha256 = pictures(2), models["average"].sha256
    own = sim.LabelledEmbeddings(embeddings=tensor(embeddings), labels=LABELS, model_sha256=sha256)
    found = explain(stub, of_bank(embeddings=own, neighbours=4, temperature=0.5), x)
    target = nf.BankTarget(nf.Bank(embeddings, LABELS, sha256), 4, temperature=0.5)
    same(found, models["average"].explain(x, target, layers=SHOWN).collect())
    assert not found[0].predictions[0].similarity.bank_id


def test_a_bank_of_the_server(
    stub: Stubs, models: dict[str, nf.Model], embeddings: np.ndarray, bank: rb.BankStatus
) -> None:
    """Rows without a label do not vote, and positions are those of the bank all the same."""
    x, sha256 = pictures(2), models["average"].sha256
    rows = [0, 2, 3, 4, 5]
    found = explain(stub, of_bank(bank_name="kept", wanted="b"), x, reference_prediction=True)
    own = nf.BankTarget(nf.Bank(embeddings[rows], [LABELS[i] for i in rows], sha256), wanted="b")
    wanted = models["average"].explain(x, own, layers=SHOWN).collect()
    same(found, wanted)
    facts = wanted.prediction.similarity
    assert facts is not None
    for i, prediction in enumerate(found[0].predictions):
        told = prediction.similarity
        assert [n.index for n in told.neighbours] == [rows[n.index] for n in facts.neighbours[i]]
        assert (told.bank_id, told.bank_version) == (bank.bank_id, bank.version)
        assert not prediction.reference.best
        assert prediction.reference.largest_difference < 1e-4
    added = rb.AppendReferencesRequest(
        bank_name="kept",
        model_sha256=sha256,
        embeddings=tensor(models["average"].embed(x[:1])),
        labels=["new"],
    )
    version = stub.banks.AppendReferences(added).version
    header, _ = explain(stub, of_bank(bank_name="kept", neighbours=1), x[:1])
    told = header.predictions[0].similarity
    assert (told.bank_version, told.neighbours[0].index, told.neighbours[0].label) == (version, 6, "new")
    assert header.predictions[0].target.label == "new"


def test_a_header_stays_small() -> None:
    """Of very many neighbours with long names the first are told."""
    neighbours = tuple(nf.Neighbour(i, "x" * 1000, 1.0 - i, True) for i in range(4000))
    one = np.ones((2, 1), np.float32)
    facts = nf.Similarity("dot", "none", "gradient", ("x",), one, one[:, 0], one, one, (neighbours,) * 2)
    prediction = nf.Prediction("e", one, one, "", np.zeros(2, int), one[:, 0], facts)
    header = types.Header("m", "1", "0" * 64, prediction, ())
    told = [similarity(header, types.BankQuery("b"), i, 5) for i in range(2)]
    assert 900_000 < sum(message.ByteSize() for message in told) < 1 << 20
    assert [n.index for n in told[1].neighbours] == list(range(len(told[0].neighbours)))


def test_similarities_are_never_joined(
    stub: Stubs, models: dict[str, nf.Model], embeddings: np.ndarray
) -> None:
    """Two at once, of the same model and shape, with a window in which classes would share a batch."""
    x = pictures(1)
    messages = [
        request(x, "average", target=of_references(embeddings[i : i + 1]), layers=LAYERS, request_id=str(i))
        for i in range(2)
    ]
    events = list(stub.explanation.ExplainStream(iter(messages)))
    for i in range(2):
        own = [e for e in events if e.request_id == str(i) and not e.HasField("progress")]
        assert own[-1].summary.batch_size == 1
        target = nf.SimilarityTarget(embeddings[i : i + 1])
        wanted = models["average"].explain(x, target, layers=SHOWN).collect()
        same((own[0].header, assembled(own)), wanted, names=False)
