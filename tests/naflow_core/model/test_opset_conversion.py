"""A converted model computes what onnxruntime computes on the original, bit for bit or nearly."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from naflow_core.errors import ModelError, UnsupportedOperatorError
from naflow_core.model import read_model
from support.onnx_graphs import make_model, run_onnxruntime

node = helper.make_node
F32 = np.float32
UP = np.array([1, 1, 2, 2], F32)
DOWN = np.array([1, 1, 0.5, 0.5], F32)
ODD = np.array([1, 1, 1.7, 2.4], F32)
ODD_DOWN = np.array([1, 1, 0.7, 0.41], F32)
MIXED = np.array([1, 1, 2, 0.5], F32)
STATISTICS = {
    name: np.array(v, F32) for name, v in (("s", [1, 2]), ("b", [0, 1]), ("m", [3, 4]), ("v", [5, 6]))
}

Case = tuple[int, NodeProto, tuple[int, ...], dict[str, np.ndarray]]
CASES: dict[str, Case] = {
    "softmax-middle-axis": (9, node("Softmax", ["x"], ["y"], axis=1), (2, 3, 4), {}),
    "softmax-default-axis": (7, node("Softmax", ["x"], ["y"]), (2, 3, 4, 2), {}),
    "softmax-12": (12, node("Softmax", ["x"], ["y"], axis=2), (2, 3, 4), {}),
    "log-softmax": (11, node("LogSoftmax", ["x"], ["y"]), (2, 3, 4), {}),
    "hardmax-last-axis": (11, node("Hardmax", ["x"], ["y"], axis=-1), (2, 3, 4), {}),
    "clip-6": (7, node("Clip", ["x"], ["y"], min=-0.5, max=0.5), (2, 3), {}),
    "clip-6-one-sided": (7, node("Clip", ["x"], ["y"], max=0.5), (2, 3), {}),
    "slice-1": (7, node("Slice", ["x"], ["y"], starts=[1, -3], ends=[9, -1], axes=[1, 2]), (2, 3, 4), {}),
    "squeeze-1": (7, node("Squeeze", ["x"], ["y"], axes=[1]), (2, 1, 4), {}),
    "squeeze-1-all": (7, node("Squeeze", ["x"], ["y"]), (2, 1, 1), {}),
    "unsqueeze-1": (7, node("Unsqueeze", ["x"], ["y"], axes=[0, 2]), (2, 3), {}),
    "pad-2": (7, node("Pad", ["x"], ["y"], pads=[0, 1, 2, 0], value=0.25), (3, 3), {}),
    "pad-2-reflect": (10, node("Pad", ["x"], ["y"], mode="reflect", pads=[0, 1, 1, 0]), (3, 3), {}),
    "split-2": (7, node("Split", ["x"], ["y", "z"], axis=1, split=[1, 3]), (2, 4), {}),
    "split-2-even": (7, node("Split", ["x"], ["y", "z"], axis=1), (2, 4), {}),
    "batch-normalization-7": (7, node("BatchNormalization", ["x", *"sbmv"], ["y"]), (3, 2, 4), STATISTICS),
    "dropout-7": (7, node("Dropout", ["x"], ["y"], ratio=0.5), (2, 3), {}),
    "top-k-1": (7, node("TopK", ["x"], ["y", "indices"], k=2, axis=1), (2, 5), {}),
    "gather": (7, node("Gather", ["x", "i"], ["y"], axis=1), (2, 5), {"i": np.array([4, 0])}),
    "average-pool-7": (
        7,
        node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        (1, 2, 7, 7),
        {},
    ),
    "max-pool-1": (
        7,
        node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        (1, 2, 5, 5),
        {},
    ),
    "leaky-relu-6": (7, node("LeakyRelu", ["x"], ["y"], alpha=0.3), (2, 3), {}),
    "prelu-7": (7, node("PRelu", ["x", "slope"], ["y"]), (2, 3), {"slope": np.array([0.1, 0.2, 0.3], F32)}),
    "upsample-7": (7, node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0]), (1, 2, 3, 4), {}),
    "upsample-7-odd": (7, node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 1.7, 2.4]), (1, 2, 5, 4), {}),
    "upsample-7-linear": (
        7,
        node("Upsample", ["x"], ["y"], mode="linear", scales=[1.0, 1.0, 2.0, 2.0]),
        (1, 2, 3, 4),
        {},
    ),
    "upsample-9": (9, node("Upsample", ["x", "k"], ["y"]), (1, 2, 3, 4), {"k": UP}),
    "upsample-9-odd": (9, node("Upsample", ["x", "k"], ["y"]), (1, 2, 5, 4), {"k": ODD}),
    "upsample-9-linear": (9, node("Upsample", ["x", "k"], ["y"], mode="linear"), (1, 2, 3, 4), {"k": ODD}),
    "resize-10-nearest": (10, node("Resize", ["x", "k"], ["y"]), (1, 2, 3, 4), {"k": UP}),
    "resize-10-nearest-odd": (10, node("Resize", ["x", "k"], ["y"]), (1, 2, 5, 4), {"k": ODD}),
    "resize-10-nearest-down": (10, node("Resize", ["x", "k"], ["y"]), (1, 2, 8, 9), {"k": DOWN}),
    "resize-10-nearest-odd-down": (10, node("Resize", ["x", "k"], ["y"]), (1, 2, 9, 11), {"k": ODD_DOWN}),
    "resize-10-linear": (10, node("Resize", ["x", "k"], ["y"], mode="linear"), (1, 2, 3, 4), {"k": UP}),
    "resize-10-linear-odd": (10, node("Resize", ["x", "k"], ["y"], mode="linear"), (1, 2, 5, 4), {"k": ODD}),
    "resize-10-linear-down": (
        10,
        node("Resize", ["x", "k"], ["y"], mode="linear"),
        (1, 2, 9, 8),
        {"k": ODD_DOWN},
    ),
    "resize-10-linear-mixed": (
        10,
        node("Resize", ["x", "k"], ["y"], mode="linear"),
        (1, 2, 4, 8),
        {"k": MIXED},
    ),
}
for _name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"):
    CASES[f"reduce-{_name.lower()}"] = (
        7,
        node(f"Reduce{_name}", ["x"], ["y"], axes=[1, 2], keepdims=0),
        (2, 3, 4),
        {},
    )


@pytest.mark.parametrize("name", CASES)
def test_conversion_keeps_the_result(name: str) -> None:
    opset, single, shape, constants = CASES[name]
    outputs = [out for out in single.output if out != "indices"]
    model = make_model([single], {"x": shape}, outputs, constants, opset=opset)
    x = np.random.default_rng(3).normal(size=shape).astype(F32)
    loaded = read_model(model)

    assert loaded.graph.opsets[""] == 18
    assert loaded.graph.original_opsets[""] == opset
    got = run_onnxruntime(loaded.serialized_with_outputs(), {"x": x})
    for mine, theirs in zip(got, run_onnxruntime(model, {"x": x}), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)


def test_a_node_keeps_its_name_through_conversion() -> None:
    nodes = [
        node("Clip", ["x"], ["c"], min=0.0, max=6.0, name="the clip"),
        node("Softmax", ["c"], ["y"], axis=1, name="the softmax"),
    ]
    graph = read_model(make_model(nodes, {"x": (2, 3, 4)}, opset=9)).graph
    makers = {out: n.name for n in graph.nodes for out in n.outputs}
    assert makers["c"] == "the clip"
    assert makers["y"] == "the softmax"
    assert len({n.name for n in graph.nodes}) == len(graph.nodes)


def test_declared_shapes_are_not_replaced_by_inferred_ones() -> None:
    graph = read_model(make_model([node("Clip", ["x"], ["y"], min=0.0)], {"x": ("N", None)}, opset=9)).graph
    assert graph.inputs[0].shape == ("N", None)
    assert graph.outputs[0].shape is None


def test_newer_opsets_stay_as_they_are() -> None:
    graph = read_model(make_model([node("Relu", ["x"], ["y"])], {"x": (2,)}, opset=21)).graph
    assert graph.opsets[""] == 21
    assert graph.nodes[0].version == 21


def test_other_domains_keep_their_versions() -> None:
    model = make_model([node("Relu", ["x"], ["y"])], {"x": (2,)}, opset=13, extra_opsets={"ai.onnx.ml": 2})
    graph = read_model(model).graph
    assert dict(graph.opsets) == {"": 18, "ai.onnx.ml": 2}
    assert dict(graph.original_opsets) == {"": 13, "ai.onnx.ml": 2}


def test_a_custom_operator_survives_conversion() -> None:
    nodes = [node("Clip", ["x"], ["c"], min=0.0), node("Twist", ["c"], ["y"], domain="my.ops", turns=3)]
    model = make_model(nodes, {"x": (2,)}, opset=9, extra_opsets={"my.ops": 4})
    twist = next(n for n in read_model(model).graph.nodes if n.op_type == "Twist")
    assert (twist.domain, twist.version, twist.inputs, dict(twist.attributes)) == (
        "my.ops",
        4,
        ("c",),
        {"turns": 3},
    )


def test_large_weights_never_go_through_the_converter() -> None:
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(F32)
    model = make_model([node("MatMul", ["x", "w"], ["y"])], {"x": (1, 64)}, constants={"w": weights}, opset=8)
    loaded = read_model(model)
    assert [spec.name for spec in loaded.graph.inputs] == ["x"]
    np.testing.assert_array_equal(loaded.graph.constants["w"], weights)
    assert loaded.proto.ByteSize() < 1000


@pytest.mark.parametrize(("opset", "word"), [(6, "oldest"), (29, "newest")])
def test_opsets_outside_the_range_are_refused(opset: int, word: str) -> None:
    with pytest.raises(ModelError, match=f"opset {opset}.*{word}"):
        read_model(make_model([node("Relu", ["x"], ["y"])], {"x": (2,)}, opset=opset))


@pytest.mark.parametrize("scales", [MIXED, None], ids=["up and down", "computed"])
def test_old_resize_without_a_counterpart_is_refused(scales: np.ndarray | None) -> None:
    constants = {} if scales is None else {"k": scales}
    inputs = {"x": (1, 2, 4, 8)} | ({"k": (4,)} if scales is None else {})
    model = make_model(
        [node("Resize", ["x", "k"], ["y"], name="grow")], inputs, constants=constants, opset=10
    )
    with pytest.raises(UnsupportedOperatorError, match=r"'grow'.*nearest Resize before opset 11") as caught:
        read_model(model)
    assert caught.value.nodes[0].node == "grow"


def test_hardmax_over_several_axes_is_refused() -> None:
    model = make_model([node("Hardmax", ["x"], ["y"], name="pick")], {"x": (2, 3, 4)}, opset=12)
    with pytest.raises(UnsupportedOperatorError, match=r"'pick'.*Hardmax before opset 13"):
        read_model(model)


def test_scan_over_batches_is_refused() -> None:
    body = helper.make_graph(
        [node("Identity", ["a"], ["b"])],
        "body",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])],
    )
    scan = node("Scan", ["", "x"], ["y"], name="over", body=body, num_scan_inputs=1)
    with pytest.raises(UnsupportedOperatorError, match=r"'over'.*Scan before opset 9"):
        read_model(make_model([scan], {"x": (1, 3, 2)}, opset=8))


def test_an_operator_that_the_converter_cannot_know_is_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedOperatorError, match=r"'odd' .Nonsense.*opset 11.*register\(\"Nonsense\", domain="
    ):
        read_model(make_model([node("Nonsense", ["x"], ["y"], name="odd")], {"x": (2,)}, opset=11))
