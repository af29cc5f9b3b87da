"""Top feature map, logit, layouts and blocks of the heads and layouts that exporters write."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from onnx import ModelProto

import naflow_core as nf
from support.blocks import Net
from support.two_inputs import siamese

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


def reshaping(net: Net, op: str, source: str, target: str, to: list[int]) -> None:
    """Reshape to a shape, or Squeeze or Unsqueeze axes."""
    net.add(op, [source, net.constant(f"{target}_to", np.array(to))], target)


def test_layouts_follow_axes_of_length_one():
    """Keras' 1-D convolution is one in two dimensions with a dimension of length 1, put in and taken out."""
    net = Net()
    net.add("Relu", ["x"], "before")
    reshaping(net, "Reshape", "before", "signal", [1, 3 * SIZE, SIZE])
    reshaping(net, "Unsqueeze", "signal", "wide", [2])
    net.add("Conv", ["wide", net.weight("w", 4, 3 * SIZE, 1, 3)], "c", pads=[0, 1, 0, 1])
    reshaping(net, "Squeeze", "c", "narrow", [2])
    net.add("LeakyRelu", ["narrow"], "top")
    net.add("ReduceMean", ["top", net.constant("axes", np.array([2]))], "y", keepdims=0)
    plan = nf.load(net.model(1, size=SIZE)).inspect().plan
    assert plan.layouts["wide"] == plan.layouts["c"] == (2, 3)
    assert plan.layouts["signal"] == plan.layouts["narrow"] == plan.layouts["top"] == (2,)


def test_layouts_follow_the_only_channel():
    """A channels-last input of one channel is reshaped, not transposed."""
    net = Net()
    reshaping(net, "Reshape", "x", "first", [1, 1, SIZE, SIZE])
    net.conv("first", "c", 1, 4)
    net.add("Relu", ["c"], "top")
    net.add("GlobalAveragePool", ["top"], "g")
    net.add("Flatten", ["g"], "y")
    model = net.model(1, channels=SIZE, size=SIZE)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 1
    plan = nf.load(model).inspect().plan
    assert plan.layouts["x"] == (1, 2)
    assert "y" not in plan.layouts
    flows = nf.load(model).explain(np.ones((1, SIZE, SIZE, 1), np.float32), layers="spine").collect().flows
    assert flows[0].map.shape == flows[1].map.shape == (1, SIZE, SIZE)
    np.testing.assert_allclose(flows[0].map, flows[1].map, rtol=1e-5)


def test_statistics_over_the_batch_keep_pictures_apart():
    """BatchNormalization in training mode, written out: each picture is explained as if it were alone."""
    net = Net()
    net.conv("x", "c", 3, 4)
    net.add("ReduceMean", ["c", net.constant("axes", np.array([0, 2, 3]))], "mean", keepdims=1)
    net.add("Sub", ["c", "mean"], "centred")
    net.add("Relu", ["centred"], "top")
    net.add("GlobalMaxPool", ["top"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", 4, 3)
    model = nf.load(net.model("n", size=SIZE))
    with pytest.raises(nf.AnalysisError, match=r"'node_mean'.*mixes the pictures"):
        model.inspect(input_shapes={"x": (2, 3, SIZE, SIZE)}, top_feature_map="top")
    x = np.random.default_rng(0).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)
    method = nf.Method(inverse="activation")
    both = model.explain(x, method=method, layers="spine").collect().flows
    for i in range(2):
        alone = model.explain(x[i : i + 1], method=method, layers="spine").collect().flows
        for flow, own in zip(both, alone, strict=True):
            np.testing.assert_allclose(flow.map[i], own.map[0], rtol=1e-5, atol=1e-7)


def test_the_user_may_choose_between_inputs():
    shape = (1, 3, SIZE, SIZE)
    model = nf.load(siamese(SIZE))
    first, second = (model.inspect(explained_input=name).plan.spine for name in ("x", "z"))
    assert model.inspect().plan.spine == first == ("x", "cx", "rx", "apart", "distance")
    assert second == ("z", "cz", "rz", "apart", "distance")
    with pytest.raises(nf.AnalysisError, match="input 'zz' does not exist"):
        model.inspect(explained_input="zz")
    generator = np.random.default_rng(0)
    a, b = (generator.normal(size=shape).astype(np.float32) for _ in "ab")
    method = nf.Method(inverse="activation")
    one = model.explain({"x": a, "z": b}, method=method, layers="spine").collect()
    other = model.explain({"x": b, "z": a}, method=method, layers="spine", explained_input="z").collect()
    # the network is symmetric: exchanging the pictures and the explained input changes nothing
    assert [flow.tensor for flow in other.flows] == list(second)
    for here, there in zip(one.flows, other.flows, strict=True):
        np.testing.assert_allclose(here.map, there.map, rtol=1e-4, atol=1e-6)


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
