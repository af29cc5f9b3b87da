"""Two sides of a pair, and places that answer to places."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import naflow_core as nf
from support.embedding_networks import TOP, embedding_network, pictures
from support.finite_differences import tap_of


@pytest.fixture(scope="module")
def model() -> nf.Model:
    return nf.load(embedding_network("unit"))


def test_order_of_a_pair_only_swaps_its_sides(model: nf.Model) -> None:
    a, b = pictures(2), pictures(2, seed=1)
    for metric in ("cosine", "euclidean"):
        one, other = (nf.explain_pair(model, *sides, metric=metric) for sides in ((a, b), (b, a)))
        assert one.query is not None
        assert one.gallery is not None
        assert other.query is not None
        assert other.gallery is not None
        np.testing.assert_allclose(one.similarity, other.similarity, rtol=1e-5, atol=1e-6)
        for mine, theirs in ((one.query, other.gallery), (one.gallery, other.query)):
            for left, right in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(left.map, right.map)


def test_one_side_and_one_pair_at_a_time(model: nf.Model) -> None:
    a, b = pictures(2), pictures(2, seed=1)
    pair = nf.explain_pair(model, a, b, sides="gallery", layers=TOP)
    assert pair.query is None
    assert pair.gallery is not None
    (flow,) = pair.gallery
    for i in range(2):
        alone = model.explain(b[i : i + 1], nf.SimilarityTarget(a[i : i + 1]), layers=TOP)
        np.testing.assert_allclose(next(alone).map[0], flow.map[i], rtol=1e-4, atol=1e-5 * flow.map.max())
        np.testing.assert_allclose(alone.prediction.target_score[0], pair.similarity[i], rtol=1e-5)
    with pytest.raises(nf.OptionError, match="sides 'left'"):
        nf.explain_pair(model, a, b, sides="left")  # type: ignore[arg-type]


def bias_free(head: str) -> nf.Model:
    proto = embedding_network(head)
    for tensor in proto.graph.initializer:
        if tensor.name == "b":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(6, np.float32), "b"))
    return nf.load(proto)


@pytest.mark.parametrize("head", ["average", "flatten", "unit"])
def test_terms_of_all_places_add_up_to_the_similarity(head: str) -> None:
    model, a, b = bias_free(head), pictures(2), pictures(2, seed=1)
    total = 0
    for row in range(4):
        for column in range(4):
            total += nf.point_to_point(model, a, b, (row, column)).sum(axis=(1, 2))
    np.testing.assert_allclose(total, nf.explain_pair(model, a, b, sides="query").similarity, rtol=1e-3)


def test_terms_against_the_dense_product() -> None:
    """Average pooling: the term of two places is the inner product of their channels over 16 x 16."""
    model, a, b = bias_free("average"), pictures(1), pictures(1, seed=1)
    s, t = tap_of(model, a, TOP)[0], tap_of(model, b, TOP)[0]
    found = nf.point_to_point(model, a, b, (2, 1), metric="dot")[0]
    np.testing.assert_allclose(found, np.einsum("c,chw->hw", s[:, 2, 1], t) / 256, rtol=1e-4)


@pytest.mark.parametrize("head", ["map", "unit-map"])
def test_descriptors_are_compared_themselves(head: str) -> None:
    model, a, b = nf.load(embedding_network(head)), pictures(1), pictures(1, seed=1)
    s, t = tap_of(model, a, TOP)[0].astype(float), tap_of(model, b, TOP)[0].astype(float)
    found = nf.point_to_point(model, a, b, (2, 1))[0]
    lengths = np.linalg.norm(s[:, 2, 1]) * np.linalg.norm(t, axis=0)
    expected = np.einsum("c,chw->hw", s[:, 2, 1], t) / np.where(lengths > 0, lengths, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("point", [(4, 0), (0,), (-1, 2)])
def test_point_outside_is_refused(model: nf.Model, point: tuple[int, ...]) -> None:
    with pytest.raises(nf.InputError, match="is not in the top feature map 'top', which has \\[4, 4\\]"):
        nf.point_to_point(model, pictures(1), pictures(1), point)


def test_other_pairs_are_refused(model: nf.Model) -> None:
    with pytest.raises(nf.InputError, match="1 pictures do not pair with 2"):
        nf.point_to_point(model, pictures(1), pictures(2), (0, 0))
    with pytest.raises(nf.OptionError, match="no terms by place"):
        nf.point_to_point(model, pictures(1), pictures(1), (0, 0), metric="euclidean")
