"""Graphs that end in a choice (ArgMax, TopK, Hardmax), and integers that lead past the spine."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

import naflow_core as nf
from support.onnx_graphs import make_model
from support.op_case import floats

node = helper.make_node
SHAPE = (2, 3, 8, 8)


def segmenter(outputs: list[str]) -> ModelProto:
    """MaxPool hands the places of its maxima to MaxUnpool; the end tells classes in several ways."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p", "places"], kernel_shape=[2, 2], strides=[2, 2]),
        node("LeakyRelu", ["p"], ["l"]),
        node("MaxUnpool", ["l", "places"], ["u"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["u", "w2"], ["c2"]),
        node("GlobalAveragePool", ["c2"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Softmax", ["f"], ["scores"], axis=1),
        node("ArgMax", ["scores"], ["best"], axis=1),
        node("TopK", ["scores", "k"], ["values", "positions"]),
        node("Hardmax", ["scores"], ["only"], axis=1),
    ]
    constants = {"w": floats(4, 3, 3, 3), "w2": floats(4, 4, 3, 3), "k": np.array([2])}
    return make_model(nodes, {"x": SHAPE}, outputs, constants=constants)


@pytest.mark.parametrize(
    "outputs",
    [["scores"], ["best"], ["positions"], ["values"], ["only"], ["scores", "best"], ["best", "scores"]],
)
def test_what_is_explained_is_what_is_chosen_from(outputs: list[str]) -> None:
    head = nf.load(segmenter(outputs)).inspect().plan.head
    assert (head.output, head.scores, head.squashed_by) == ("scores", "f", "Softmax")


def test_two_choices_ask_for_one() -> None:
    model = nf.load(segmenter(["best", "positions"]))
    assert "choose one with --output" in model.inspect().reason
    assert model.inspect(output="best").plan.head.scores == "f"


def test_places_are_held_and_do_not_close_the_spine() -> None:
    model = nf.load(segmenter(["scores"]))
    plan = model.inspect().plan
    assert plan.spine == ("x", "c", "r", "p", "l", "u")
    rules = [segment.rule.name for segment in plan.segments]
    assert rules[2:] == ["unpool-to-argmax", "leaky-relu-inverse", "rearrangement"]
    assert plan.segments[-1].operands == ("places",)
    x = floats(*SHAPE)
    assert model.verify(x).ok
    method = nf.Method(abandon=nf.Abandonment("zero-gradient"), evidence="positive")
    explanation = model.explain(x, layers=["r", "p", "u"], method=method)
    assert explanation.prediction.scores.shape == (2, 4)
    flows = {layer.tensor: layer.map for layer in explanation}
    assert all(np.isfinite(flow).all() and flow.any() for flow in flows.values())
    # unpooled and pooled again, and all that was not a maximum is abandoned
    pooled = flows["u"].reshape(2, 4, 2, 4, 2).sum(axis=(2, 4))
    np.testing.assert_allclose(pooled, flows["p"], rtol=1e-3, atol=1e-4 * pooled.max())
    np.testing.assert_allclose(flows["u"], flows["r"], rtol=1e-3, atol=1e-4 * pooled.max())
