"""Prototypes and banks against plain NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from naflow_core.targets.search import nearest
from support.embedding_networks import embedding_network, pictures

METRICS = ("cosine", "dot", "euclidean")
LABELS = ["a", "b", "c", "a", "b", "c", "a", "b", "c", "c"]


@pytest.fixture(scope="module")
def model() -> nf.Model:
    return nf.load(embedding_network("neck"))


@pytest.fixture(scope="module")
def maps() -> nf.Model:
    return nf.load(embedding_network("map"))


def table(metric: str, e: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Similarities [N, M]."""
    e, r = e.astype(np.float64), r.astype(np.float64)
    if metric == "cosine":
        e, r = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (e, r))
    if metric == "euclidean":
        return -((e[:, None] - r[None]) ** 2).sum(axis=2)
    return e @ r.T


@pytest.mark.parametrize("metric", METRICS)
def test_prototypes(model: nf.Model, metric: str) -> None:
    x, supports = pictures(6), pictures(10, seed=1)
    e, s = model.embed(x), model.embed(supports)
    prototypes = np.stack([s[[label == way for label in LABELS]].mean(axis=0) for way in "abc"])
    expected = table(metric, e, prototypes)
    found = model.explain(x, nf.PrototypeTarget(supports, LABELS, metric=metric), layers="top").prediction
    np.testing.assert_allclose(found.scores, expected, rtol=1e-3, atol=1e-3 * abs(expected).max())
    assert found.target.tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(found.target_score, expected.max(axis=1), rtol=1e-3)
    similarity: Any = found.similarity
    assert similarity.candidates == ("a", "b", "c")
    np.testing.assert_allclose(similarity.contributions.sum(axis=1), similarity.score, rtol=1e-4)
    asked = model.explain(x, nf.PrototypeTarget(s, LABELS, "b", metric=metric), layers="top").prediction
    np.testing.assert_allclose(asked.target_score, expected[:, 1], rtol=1e-3)
    assert set(asked.target.tolist()) == {1}


@pytest.mark.parametrize("coefficients", ["contribution", "gradient"])
def test_contrast_with_the_runner_up(model: nf.Model, coefficients: str) -> None:
    x, s = pictures(3), model.embed(pictures(10, seed=1))
    target = nf.PrototypeTarget(s, LABELS, contrast=True, coefficients=coefficients)
    found = model.explain(x, target, layers="spine").collect()
    similarity: Any = found.prediction.similarity
    ordered = np.sort(found.prediction.scores, axis=1)
    np.testing.assert_allclose(similarity.score, ordered[:, -1] - ordered[:, -2], atol=1e-5)
    np.testing.assert_allclose(similarity.contributions.sum(axis=1), similarity.score, atol=1e-5)
    assert [sum(n.used for n in row) for row in similarity.neighbours] == [2, 2, 2]
    assert all(np.isfinite(flow.map).all() for flow in found.flows)
    second = nf.PrototypeTarget(s, LABELS, wanted=str(similarity.neighbours[0][1].label), contrast=True)
    asked = model.explain(x[:1], second, layers="top").prediction
    np.testing.assert_allclose(asked.target_score, -similarity.score[:1], atol=1e-5)


def test_local_descriptors_of_a_way_are_one_pool(maps: nf.Model) -> None:
    x, supports = pictures(2), pictures(4, seed=1)
    labels = ["a", "b", "a", "b"]
    found = maps.explain(x, nf.PrototypeTarget(supports, labels, metric="image-to-class"), layers="top")
    for way, members in enumerate((supports[::2], supports[1::2])):
        alone = maps.explain(x, nf.SimilarityTarget(members, "image-to-class"), layers="top").prediction
        np.testing.assert_allclose(found.prediction.scores[:, way], alone.target_score, rtol=1e-5)
    assert found.prediction.target.tolist() == found.prediction.scores.argmax(axis=1).tolist()


@pytest.mark.parametrize("k", [1, 4, 50])
@pytest.mark.parametrize("metric", METRICS)
def test_votes_of_the_nearest(model: nf.Model, metric: str, k: int) -> None:
    x, rows = pictures(5), model.embed(pictures(10, seed=1))
    bank = nf.Bank(rows, LABELS, model.sha256)
    target = nf.BankTarget(bank, k=k, metric=metric)
    found = model.explain(x, target, layers="top").prediction
    each = table(metric, model.embed(x), rows)
    similarity: Any = found.similarity
    for i, row in enumerate(each):
        chosen = np.argsort(-row, kind="stable")[:k]
        assert [n.index for n in similarity.neighbours[i]] == chosen.tolist()
        ballots = np.exp((row[chosen] - row.max()) / 0.07)
        votes = [ballots[[LABELS[j] == label for j in chosen]].sum() for label in "abc"]
        assert similarity.candidates[found.target[i]] == "abc"[int(np.argmax(votes))]
        np.testing.assert_allclose(found.scores[i], np.array(votes) / sum(votes), atol=2e-2)
        used = [j for j in chosen if LABELS[j] == similarity.candidates[found.target[i]]]
        assert [n.index for n in similarity.neighbours[i] if n.used] == used
        np.testing.assert_allclose(similarity.score[i], row[used].mean(), rtol=1e-3)
    np.testing.assert_allclose(similarity.contributions.sum(axis=1), similarity.score, rtol=1e-4)


def test_the_reference_is_the_mean_over_the_voted_neighbours(model: nf.Model) -> None:
    x, rows = pictures(1), model.embed(pictures(10, seed=1))
    by_bank = model.explain(x, nf.BankTarget(nf.Bank(rows, LABELS, model.sha256), k=6)).collect()
    similarity: Any = by_bank.prediction.similarity
    used = [n.index for n in similarity.neighbours[0] if n.used]
    by_hand = model.explain(x, nf.SimilarityTarget(rows[used])).collect()
    for mine, theirs in zip(by_bank.flows, by_hand.flows, strict=True):
        np.testing.assert_allclose(mine.map, theirs.map, rtol=1e-4, atol=1e-5 * theirs.map.max())


@pytest.mark.parametrize("metric", [*METRICS, "image-to-class"])
def test_search_in_blocks_is_exact(metric: str) -> None:
    random = np.random.default_rng(5)
    shape = (3, 2) if metric == "image-to-class" else (3,)
    bank = random.normal(size=(101, *shape)).astype(np.float32)
    bank[60] = bank[7]  # equal ones: the earlier comes first
    queries = np.concatenate([bank[7:8], random.normal(size=(3, *shape)).astype(np.float32)])
    kind = nf.metrics.REGISTRY.find(metric)
    places, values = nearest(kind, queries, bank, 9, block_bytes=20 * bank[0].nbytes)
    whole, best = nearest(kind, queries, bank, 9)
    assert places.tolist() == whole.tolist()
    np.testing.assert_allclose(values, best, rtol=1e-6)
    if metric != "image-to-class":
        expected = table(metric, queries, bank)
        assert places.tolist() == np.argsort(-expected.round(6), axis=1, kind="stable")[:, :9].tolist()
    if metric in ("cosine", "euclidean"):
        assert places[0, :2].tolist() == [7, 60]


def test_bank_file(model: nf.Model, tmp_path: Path) -> None:
    rows = model.embed(pictures(10, seed=1))
    thumbnails = np.zeros((10, 4, 4, 3), np.uint8)
    bank = nf.Bank(rows, LABELS, model.sha256, "e", [f"{i}.png" for i in range(10)], {"size": 8}, thumbnails)
    for name in ("one.npz", "two.npz"):
        bank.save(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    again = nf.Bank.read(tmp_path / "one.npz")
    np.testing.assert_array_equal(again.embeddings, rows)
    assert (again.labels, again.names) == (tuple(LABELS), bank.names)
    assert (again.model_sha256, again.output, again.preprocess) == (model.sha256, "e", {"size": 8})
    assert again.thumbnails is not None
    neighbours = model.explain(pictures(1), nf.BankTarget(again, k=1)).prediction.similarity.neighbours[0]
    assert neighbours[0].name == f"{neighbours[0].index}.png"


def test_reading_what_is_no_bank(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(nf.TargetError, match=r"text\.npz' is no reference bank"):
        nf.Bank.read(tmp_path / "text.npz")
    with pytest.raises(nf.TargetError, match=r"other\.npz' is no reference bank"):
        nf.Bank.read(tmp_path / "other.npz")
    with pytest.raises(nf.TargetError, match="cannot be read: No such file"):
        nf.Bank.read(tmp_path / "missing.npz")
