"""Heads that end in an embedding: where they begin, and what `inspect` says about them."""

from __future__ import annotations

import pytest
from onnx import helper

import naflow_core as nf
from support.embedding_networks import MAPS, TOP, VECTORS, embedding_network, pictures

EXPECTED = {
    "average": ("class scores or embedding", "GlobalAveragePool", False),
    "neck": ("embedding", "GlobalAveragePool", False),
    "flatten": ("class scores or embedding", "Flatten", False),
    "gem": ("embedding", "GeM", False),
    "unit": ("embedding", "GlobalAveragePool", True),
    "lp": ("embedding", "GlobalAveragePool", True),
    "map": ("local descriptors", "none", False),
    "unit-map": ("local descriptors", "none", True),
}


@pytest.mark.parametrize("head", [*VECTORS, *MAPS])
def test_inspect_tells_the_head(head: str) -> None:
    report = nf.load(embedding_network(head)).inspect().to_dict()
    found = report["head"]
    assert (found["kind"], found["pooling"], found["unit_length"]) == EXPECTED[head]
    assert found["top_feature_map"] == TOP
    assert tuple(found["shape"]) == ((4, 4, 4) if head in MAPS else (4,) if head == "average" else (6,))


def test_a_last_convolution_is_trunk_for_similarities_and_classifier_for_classes() -> None:
    report = nf.load(embedding_network("average")).inspect().to_dict()
    assert report["top_feature_map"] == "r"
    assert report["head"]["top_feature_map"] == TOP


def test_descriptors_with_channels_last_are_refused() -> None:
    proto = embedding_network("map")
    proto.graph.node.append(helper.make_node("Transpose", ["e"], ["last"], perm=[0, 2, 3, 1]))
    proto.graph.output[0].name = "last"
    model = nf.load(proto)
    with pytest.raises(nf.AnalysisError, match="with its channels last"):
        model.explain(pictures(1), nf.SimilarityTarget(pictures(1, seed=1)))
    assert model.inspect().to_dict()["head"] is None


def test_closing_softmax_means_classes() -> None:
    proto = embedding_network("neck")
    proto.graph.node.append(helper.make_node("Softmax", ["e"], ["scores"], axis=1))
    proto.graph.output[0].name = "scores"
    assert nf.load(proto).inspect().to_dict()["head"]["kind"] == "class scores"
