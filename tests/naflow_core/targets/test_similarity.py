"""Channel contributions, weights and coefficients of similarities."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import naflow_core as nf
from naflow_core.targets.aim import Weighing
from naflow_core.targets.metrics import measure, pairwise
from support.embedding_networks import MAPS, TOP, VECTORS, embedding_network, pictures
from support.finite_differences import (
    aimed,
    check_against_differences,
    check_local_descriptors,
    close,
    unit_rows,
)

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "contrastive_digits" / "contrastive_digits.onnx"
METRICS = ("cosine", "dot", "euclidean")
NEAR_THE_TOP = ("c", TOP)
node = helper.make_node


@functools.cache
def network(head: str) -> tuple[nf.Model, onnx.ModelProto]:
    proto = embedding_network(head)
    return nf.load(proto), proto


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("head", [*VECTORS, *MAPS])
def test_weights_and_coefficients_match_finite_differences(head: str, metric: str) -> None:
    model, proto = network(head)
    check_against_differences(model, proto, pictures(2), model.embed(pictures(2, seed=1)), metric, 2e-3)


def test_the_digits_encoder_matches_finite_differences() -> None:
    proto = onnx.load(DIGITS)
    model = nf.load(proto)
    x, references = (
        np.random.default_rng(seed).random((n, 1, 32, 32), np.float32) for seed, n in ((0, 1), (1, 2))
    )
    for metric in METRICS:
        check_against_differences(model, proto, x, model.embed(references), metric, 1e-2)


def test_flow_at_the_top_is_made_of_these_coefficients() -> None:
    model, _ = network("neck")
    target = nf.SimilarityTarget(pictures(2, seed=1))
    _, t, G, explanation = aimed(model, pictures(2), target)
    method = nf.Method(abandon=nf.Abandonment("zero-gradient"), evidence="positive")
    (flow,) = model.explain(pictures(2), target, layers=TOP, method=method)
    np.testing.assert_allclose(
        flow.map, np.maximum(t * G, 0).sum(axis=1), rtol=1e-3, atol=1e-4 * flow.map.max()
    )
    assert explanation.prediction.similarity is not None


@pytest.mark.parametrize("head", MAPS)
def test_local_descriptors_against_plain_numpy(head: str) -> None:
    model, _ = network(head)
    references, x = pictures(3, seed=1), pictures(2)
    aim, _, _, _ = aimed(model, x, nf.SimilarityTarget(references, "image-to-class"))
    query, pool = model.embed(x), model.embed(references)
    pool = np.moveaxis(pool, 1, -1).reshape(-1, pool.shape[1])
    pool = pool / np.maximum(np.linalg.norm(pool, axis=1, keepdims=True), 1e-30)
    for i, picture in enumerate(query):
        descriptors = picture.reshape(picture.shape[0], -1).T
        descriptors = descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-30)
        nearest = np.argsort(-(descriptors @ pool.T), axis=1)[:, :3]
        contributions = (descriptors[:, None] * pool[nearest]).mean(axis=(0, 1))
        np.testing.assert_allclose(aim.similarity.contributions[i], contributions, atol=1e-5)
        np.testing.assert_allclose(aim.similarity.score[i], contributions.sum(), rtol=1e-5)


@pytest.mark.parametrize("head", MAPS)
@pytest.mark.parametrize("held", [True, False])
def test_the_gradient_of_local_descriptors_matches_finite_differences(head: str, held: bool) -> None:
    model, proto = network(head)
    check_local_descriptors(model, proto, pictures(2), model.embed(pictures(3, seed=1)), held, 2e-3)


def test_what_local_descriptors_contribute_is_seen_where_they_are() -> None:
    """Activation times coefficient adds up, place by place, to the similarity there, and for the full
    gradient to nothing."""
    random = np.random.default_rng(5)
    e, r = (random.random((n, 4, 3, 2), np.float32) for n in (2, 3))
    e[0, :, 1, 1] = 0  # no channel is on
    pool = unit_rows(np.moveaxis(r, 1, -1).reshape(-1, 4))
    for name in ("image-to-class", "image-to-class-full"):
        p, s, G = (np.asarray(a) for a in measure(nf.metrics.REGISTRY.find(name), True, e, r))
        assert np.isfinite(G).all()
        for i in range(2):
            table = unit_rows(e[i].reshape(4, -1).T) @ pool.T
            own = np.sort(table, axis=1)[:, -3:].mean(axis=1)
            wanted = own / own.size if name == "image-to-class" else np.zeros(6)
            np.testing.assert_allclose((e[i] * G[i]).sum(axis=0).ravel(), wanted, atol=1e-6)
            np.testing.assert_allclose([s[i], p[i].sum()], own.mean(), rtol=1e-5)


def logits_like(metric: str) -> onnx.ModelProto:
    """The "neck" network's embedding, then two class scores: the similarities with two rows of weights."""
    proto = embedding_network("neck")
    rows = np.random.default_rng(4).normal(size=(2, 6)).astype(np.float32)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    graph = proto.graph
    graph.initializer.append(onnx.numpy_helper.from_array(rows, "rows"))
    if metric == "cosine":
        graph.node.extend(
            [node("LpNormalization", ["e"], ["u"], axis=1), node("Gemm", ["u", "rows"], ["y"], transB=1)]
        )
    elif metric == "dot":
        graph.node.append(node("Gemm", ["e", "rows"], ["y"], transB=1))
    else:
        constants = {"two": np.float32(2), "squares": (rows**2).sum(axis=1), "last": np.array([1])}
        graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
        graph.node.extend(
            [
                node("Gemm", ["e", "rows"], ["g1"], transB=1),
                node("Mul", ["g1", "two"], ["g2"]),
                node("ReduceSumSquare", ["e", "last"], ["length"]),
                node("Sub", ["g2", "length"], ["g3"]),
                node("Sub", ["g3", "squares"], ["y"]),
            ]
        )
    graph.output[0].name = "y"
    return proto


@pytest.mark.parametrize("metric", METRICS)
def test_a_weight_row_as_reference_is_the_class_logit(metric: str) -> None:
    proto = logits_like(metric)
    rows = next(onnx.numpy_helper.to_array(i) for i in proto.graph.initializer if i.name == "rows")
    classifier, encoder = nf.load(proto), network("neck")[0]
    x = pictures(2)
    for row in (0, 1):
        wanted = classifier.explain(x, nf.ClassTarget(row), layers=NEAR_THE_TOP, top_feature_map=TOP)
        target = nf.SimilarityTarget(rows[row], metric, coefficients="gradient")
        found = encoder.explain(x, target, layers=NEAR_THE_TOP)
        np.testing.assert_allclose(found.prediction.target_score, wanted.prediction.target_score, rtol=1e-4)
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine.tensor == theirs.tensor
            np.testing.assert_allclose(mine.map, theirs.map, rtol=2e-3, atol=2e-3 * theirs.map.max())


@pytest.mark.parametrize("normalise", ["minmax", "none"])
def test_a_unit_vector_as_reference_is_the_class_logit(normalise: str) -> None:
    """One channel contributes everything: its weight is 1 (or the sign of the logit), the others' 0."""
    model, x = network("average")[0], pictures(3)
    channel = 2
    assert (model.embed(x)[:, channel] > 0).all()
    reference = np.eye(4, dtype=np.float32)[channel]
    target = nf.SimilarityTarget(reference, "dot", normalise, "contribution")
    found = model.explain(x, target, layers=NEAR_THE_TOP).collect()
    wanted = model.explain(x, nf.ClassTarget(channel), layers=NEAR_THE_TOP, top_feature_map=TOP).collect()
    for mine, theirs in zip(found.flows, wanted.flows, strict=True):
        np.testing.assert_allclose(mine.map, theirs.map, rtol=1e-4, atol=1e-4 * theirs.map.max())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(METRICS), st.floats(1e-3, 1e3))
def test_contributions_add_up_and_weights_ignore_the_scale(seed: int, metric: str, scale: float) -> None:
    random = np.random.default_rng(seed)
    e, r = (random.normal(size=(n, 5)).astype(np.float32) for n in (2, 3))
    p, s, _ = (np.asarray(a) for a in measure(nf.metrics.REGISTRY.find(metric), True, e, r))
    np.testing.assert_allclose(p.sum(axis=1), s, rtol=1e-4, atol=1e-4 * np.abs(p).sum())
    each = np.asarray(pairwise(nf.metrics.REGISTRY.find(metric), e, r))
    np.testing.assert_allclose(each.mean(axis=1), s, rtol=1e-4, atol=1e-4 * np.abs(p).sum())
    w = Weighing(metric, "minmax", "contribution").weights(p)
    assert w.min(axis=1).tolist() == [0, 0]
    assert w.max(axis=1).tolist() == [1, 1]
    again = Weighing(metric, "minmax", "contribution").weights(p * np.float32(scale))
    np.testing.assert_allclose(again, w, atol=1e-4)
    signed = Weighing(metric, "none", "contribution").weights(p)
    np.testing.assert_array_equal(np.sign(signed), np.sign(p))


def test_weights_without_differences() -> None:
    equal = np.full((1, 4), -2.0, np.float32)
    assert Weighing("euclidean", "minmax", "contribution").weights(equal).tolist() == [[1, 1, 1, 1]]
    none = np.zeros((1, 4), np.float32)
    assert Weighing("euclidean", "none", "contribution").weights(none).tolist() == [[0, 0, 0, 0]]


def test_a_picture_compared_with_itself() -> None:
    model, x = network("gem")[0], pictures(2)
    for metric, score in (("cosine", 1.0), ("euclidean", 0.0)):
        result = model.explain(x, nf.SimilarityTarget(x, metric, paired=True)).collect()
        np.testing.assert_allclose(result.prediction.target_score, score, atol=1e-5)
        assert all(np.isfinite(flow.map).all() for flow in result.flows)


def test_pictures_and_their_embeddings_give_the_same() -> None:
    model, x, references = network("unit")[0], pictures(2), pictures(3, seed=1)
    by_picture = model.explain(x, nf.SimilarityTarget(references), layers=NEAR_THE_TOP).collect()
    target = nf.SimilarityTarget(model.embed(references))
    by_vector = model.explain(x, target, layers=NEAR_THE_TOP, batch_size=1).collect()
    for mine, theirs in zip(by_picture.flows, by_vector.flows, strict=True):
        np.testing.assert_allclose(mine.map, theirs.map, rtol=1e-4, atol=1e-5 * theirs.map.max())
    similarity = by_vector.prediction.similarity
    assert similarity is not None
    assert similarity.contributions.shape == (2, 6)
    assert by_vector.prediction.scores.shape == (2, 3)
    channel, largest = similarity.top_channels(1, 1)[0]
    assert largest == similarity.contributions[1].max() == similarity.contributions[1, channel]
    assert [n.similarity for n in similarity.neighbours[0]] == sorted(by_vector.prediction.scores[0])[::-1]


def test_embed_in_batches() -> None:
    model, x = network("neck")[0], pictures(5)
    whole = model.embed(x)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(model.embed(x, batch_size=2), whole, rtol=1e-4, atol=1e-5)


def test_metric_of_the_user() -> None:
    @nf.metrics.register("overlap")
    def overlap(embedding: Any, references: Any) -> tuple[Any, Any]:
        shared = jnp.minimum(embedding[None], references).mean(axis=0)
        return shared, shared.sum()

    try:
        model, x = network("average")[0], pictures(2)
        references = model.embed(pictures(4, seed=1))
        result = model.explain(x, nf.SimilarityTarget(references, "overlap")).collect()
        expected = np.minimum(model.embed(x)[:, None], references[None]).mean(axis=1)
        similarity = result.prediction.similarity
        assert similarity is not None
        close(similarity.contributions, expected)
        assert similarity.metric == "overlap"
        bank = nf.Bank(references, ["a", "b", "a", "b"], model.sha256)
        voted = model.explain(x, nf.BankTarget(bank, k=2, metric="overlap")).prediction
        each = np.minimum(model.embed(x)[:, None], references[None]).sum(axis=2)
        assert [n.index for n in voted.similarity.neighbours[1]] == np.argsort(-each[1])[:2].tolist()
        with pytest.raises(ValueError, match="already registered"):
            nf.metrics.register("overlap")(overlap)
    finally:
        nf.metrics.REGISTRY.unregister("overlap")
    with pytest.raises(nf.OptionError, match="metric 'overlap' does not exist"):
        nf.SimilarityTarget(references, "overlap")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda e, r: (e[None] * r, (e * r).sum()), "returns shapes"),
        (lambda e, r: e + r[:, :2], "fails on an embedding of shape \\[6\\]"),
    ],
)
def test_wrong_metric_is_named(function: Any, said: str) -> None:
    nf.metrics.register("wrong")(function)
    try:
        with pytest.raises(nf.OptionError, match=f"metric 'wrong' {said}"):
            network("neck")[0].explain(pictures(1), nf.SimilarityTarget(pictures(2, 1), "wrong"))
    finally:
        nf.metrics.REGISTRY.unregister("wrong")
