"""In a quantised graph the logits are explained as they were before quantisation."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import naflow_core as nf
from naflow_core.flow import ranking
from support.onnx_graphs import make_model


def quantised_model(*, softmax: bool, dequantised: bool) -> onnx.ModelProto:
    """A classifier whose logits are quantised so coarsely that the best one lies at the end of the range."""
    node = helper.make_node
    rng = np.random.default_rng(2)
    constants = {
        "w": np.abs(rng.normal(size=(4, 1, 3, 3))).astype(np.float32),
        "v": np.diag([9.0, 1.0, 1.0, 1.0]).astype(np.float32),
        "scale": np.float32(1 / 255),
        "zero": np.uint8(0),
    }
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["top"]),
        node("GlobalAveragePool", ["top"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "v"], ["logits"]),
        node("QuantizeLinear", ["logits", "scale", "zero"], ["whole"]),
        node("DequantizeLinear", ["whole", "scale", "zero"], ["again"]),
    ]
    last = "again"
    if softmax:
        nodes += [
            node("Softmax", ["again"], ["p"]),
            node("QuantizeLinear", ["p", "scale", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["r"]),
        ]
        last = "r" if dequantised else "q"
    return make_model(nodes, {"x": ["N", 1, 8, 8]}, outputs=(last,), constants=constants)


@pytest.mark.parametrize(("softmax", "dequantised"), [(True, True), (True, False), (False, True)])
def test_saturated_logit_is_explained(softmax: bool, dequantised: bool) -> None:
    model = nf.load(quantised_model(softmax=softmax, dequantised=dequantised))
    report = model.inspect().to_dict()
    assert report["explainable"], report["reason"]
    assert report["scores"] == "logits"
    x = np.ones((1, 1, 8, 8), np.float32)
    explanation = model.explain(x, nf.ClassTarget(0), layers="top")
    assert explanation.prediction.squashed_by == ("Softmax" if softmax else "")
    assert explanation.prediction.target_score[0] > 1  # far beyond what the integers can say
    assert next(explanation).map.max() > 0


def test_the_explained_class_is_the_predicted_one() -> None:
    """Rounding may put another class first than the exact logits do; what the model says counts."""
    model = nf.load(quantised_model(softmax=True, dequantised=True))
    for seed in range(8):
        x = np.random.default_rng(seed).normal(size=(1, 1, 8, 8)).astype(np.float32)
        prediction = model.explain(x, layers="top").prediction
        assert prediction.target[0] == prediction.best(0)[0][0]
        assert prediction.scores[0, prediction.target[0]] == prediction.scores.max()


def test_equal_scores_are_ranked_by_their_logits() -> None:
    scores, logits = np.array([[0.5, 1.0, 1.0, 0.5]]), np.array([[3.0, 1.0, 2.0, 4.0]])
    np.testing.assert_array_equal(ranking(scores, logits), [[2, 1, 3, 0]])
    np.testing.assert_array_equal(ranking(scores[:, :3], logits), [[1, 2, 0]])
