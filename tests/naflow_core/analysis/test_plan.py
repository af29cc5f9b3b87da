"""Top feature map, logit, layouts and blocks of the heads and layouts that exporters write."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from onnx import ModelProto

import naflow_core as nf
from support.blocks import Net

SIZE = 8


class Expected(NamedTuple):
    build: Callable[[Net], None]
    top: str
    scores: str = "y"
    squashed_by: str = ""
    blocks: tuple[str, ...] = ()


def trunk(net: Net, source: str = "x") -> None:
    net.conv(source, "c1", 3, 4)
    net.add("Relu", ["c1"], "r1")
    net.conv("r1", "c2", 4, 6)
    net.add("Relu", ["c2"], "r2")


def pooled_dense(net: Net) -> None:
    trunk(net)
    net.add("GlobalAveragePool", ["r2"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", 6, 5)


def pooled_dense_softmax(net: Net) -> None:
    trunk(net)
    net.add("ReduceMean", ["r2", net.constant("axes", np.array([2, 3]))], "g", keepdims=0)
    net.dense("g", "logits", 6, 5)
    net.add("Softmax", ["logits"], "y")


def class_map(net: Net) -> None:
    """SqueezeNet: dropout, 1x1 convolution to classes, Relu, global pooling, Softmax."""
    trunk(net)
    net.add("Dropout", ["r2"], "d")
    net.conv("d", "classes", 6, 5, 1)
    net.add("Relu", ["classes"], "rc")
    net.add("GlobalAveragePool", ["rc"], "g")
    net.add("Softmax", ["g"], "s", axis=1)
    net.add("Flatten", ["s"], "y")


def flattened(net: Net) -> None:
    """VGG: max pooling, flatten, two dense layers, LogSoftmax."""
    trunk(net)
    net.add("MaxPool", ["r2"], "p", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Flatten", ["p"], "f")
    net.dense("f", "d1", 6 * 16, 7)
    net.add("Relu", ["d1"], "e1")
    net.dense("e1", "d2", 7, 5)
    net.add("LogSoftmax", ["d2"], "y")


def channels_last(net: Net) -> None:
    """A graph from a channels-last framework: Transposes around the trunk, mean over axes 1 and 2."""
    net.add("Transpose", ["x"], "t", perm=[0, 3, 1, 2])
    trunk(net, "t")
    net.add("Transpose", ["r2"], "last", perm=[0, 2, 3, 1])
    net.add("ReduceMean", ["last", net.constant("axes", np.array([1, 2]))], "g", keepdims=0)
    net.add("MatMul", ["g", net.weight("w", 6, 5)], "y")


def padded_and_shuffled(net: Net) -> None:
    """Copies and rearrangements before a convolution belong to what follows."""
    net.conv("x", "c1", 3, 4)
    net.add("Relu", ["c1"], "r1")
    net.add("Pad", ["r1", net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))], "pad")
    net.conv("pad", "c2", 4, 6, 1)
    net.add("Relu", ["c2"], "r2")
    net.add("Reshape", ["r2", net.constant("s1", np.array([0, 2, 3, 10, 10]))], "sh1")
    net.add("Transpose", ["sh1"], "sh2", perm=[0, 2, 1, 3, 4])
    net.add("Reshape", ["sh2", net.constant("s2", np.array([0, 6, 10, 10]))], "sh3")
    net.conv("sh3", "c3", 6, 6, 1)
    net.add(
        "BatchNormalization",
        ["c3", *(net.bias(n, 6) for n in "som"), net.constant("v", np.ones(6, np.float32))],
        "n",
    )
    net.add("Relu", ["n"], "r3")
    net.add("GlobalAveragePool", ["r3"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", 6, 5)


def sigmoid_scores(net: Net) -> None:
    trunk(net)
    net.add("GlobalMaxPool", ["r2"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "logits", 6, 5)
    net.add("Sigmoid", ["logits"], "s")
    net.add("Identity", ["s"], "y")


HEADS = {
    "pooled-dense": Expected(pooled_dense, "r2", blocks=("r1", "r2")),
    "softmax": Expected(pooled_dense_softmax, "r2", "logits", "Softmax", ("r1", "r2")),
    "class-map": Expected(class_map, "r2", "g", "Softmax", ("r1", "r2")),
    "flattened": Expected(flattened, "p", "d2", "LogSoftmax", ("r1", "r2", "p")),
    "channels-last": Expected(channels_last, "r2", blocks=("r1", "r2")),
    "shuffled": Expected(padded_and_shuffled, "r3", blocks=("r1", "r2", "r3")),
    "sigmoid": Expected(sigmoid_scores, "r2", "logits", "Sigmoid", ("r1", "r2")),
}


def build(name: str) -> ModelProto:
    net = Net()
    HEADS[name].build(net)
    if name == "channels-last":
        model = net.model(1, size=SIZE)
        del model.graph.input[0].type.tensor_type.shape.dim[:]
        for n in (1, SIZE, SIZE, 3):
            model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = n
        return model
    return net.model(1, size=SIZE)


@pytest.mark.parametrize("name", HEADS)
def test_head_and_blocks(name):
    expected, plan = HEADS[name], nf.load(build(name)).inspect().plan
    assert plan is not None
    assert plan.top == expected.top
    assert plan.head.scores == expected.scores
    assert plan.head.squashed_by == expected.squashed_by
    assert plan.blocks() == expected.blocks
    assert plan.spine[0] == "x"
    assert plan.spine[-1] == plan.top
    assert [s.source for s in plan.segments] + [plan.top] == list(plan.spine)


def test_layouts_of_a_channels_last_export():
    plan = nf.load(build("channels-last")).inspect().plan
    assert plan.layouts["x"] == (1, 2)
    assert plan.layouts["t"] == plan.layouts["r2"] == (2, 3)
    assert plan.layouts["last"] == (1, 2)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_flow_of_a_channels_last_input_equals_that_behind_its_transpose(preset):
    x = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)
    explanation = nf.load(build("channels-last")).explain(x, method=nf.Method.preset(preset), layers="spine")
    last = {f.tensor: f.map for f in explanation}
    assert last["x"].shape == (1, SIZE, SIZE)
    np.testing.assert_allclose(last["x"], last["t"], rtol=1e-5)


def test_layouts_follow_a_channel_shuffle():
    plan = nf.load(build("shuffled")).inspect().plan
    assert plan.layouts["sh1"] == plan.layouts["sh2"] == (3, 4)
    assert plan.layouts["sh3"] == (2, 3)


def test_the_user_may_name_the_top_feature_map():
    model = nf.load(build("pooled-dense"))
    assert model.inspect(top_feature_map="r1").plan.spine == ("x", "c1", "r1")
    with pytest.raises(nf.AnalysisError, match=r"'r9'.*r1"):
        model.inspect(top_feature_map="r9")


def test_a_feature_map_output_is_recognised():
    net = Net()
    trunk(net)
    net.add("Identity", ["r2"], "y")
    report = nf.load(net.model(1, size=SIZE)).inspect()
    assert report.plan is not None
    assert report.plan.head.is_feature_map
    assert report.plan.top == "r2"


def test_a_model_without_spatial_axes_is_refused_with_a_reason():
    net = Net()
    net.add("Flatten", ["x"], "f")
    net.dense("f", "y", 3 * SIZE * SIZE, 4)
    report = nf.load(net.model(1, size=SIZE)).inspect()
    assert not report.explainable
    assert "spatial" in report.reason


@pytest.mark.parametrize(
    ("tensor", "low", "high"), [("r1", 0, np.inf), ("c1", -np.inf, np.inf), ("x", -np.inf, np.inf)]
)
def test_bounds_are_the_range_of_the_op_before(tensor, low, high):
    plan = nf.load(build("pooled-dense")).inspect().plan
    bounds = {segment.source: segment.bounds for segment in plan.segments}
    assert bounds[tensor] == (low, high)


def test_a_wrong_layer_name_is_refused_with_a_near_one():
    model = nf.load(build("pooled-dense"))
    x = np.zeros((1, 3, SIZE, SIZE), np.float32)
    with pytest.raises(nf.AnalysisError, match="'r3'") as caught:
        model.explain(x, layers=["r3"])
    assert "r2" in str(caught.value) + str(caught.value.hint)
