"""Operators that ONNX took out again, and tails that turn scores into labels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import naflow_core as nf
from naflow_core.model.rewrite import REMOVED
from support.onnx_graphs import make_model, run_onnxruntime
from support.op_case import floats

node = helper.make_node

REMOVED_ROWS = [
    node("ImageScaler", ["x"], ["y"], bias=[1.0, 2.0, -3.0], scale=0.5),
    node("Affine", ["x"], ["y"], alpha=2.0, beta=-1.0),
    node("ScaledTanh", ["x"], ["y"], alpha=2.0, beta=0.5),
    node("ParametricSoftplus", ["x"], ["y"], alpha=2.0, beta=0.5),
    node("ThresholdedRelu", ["x"], ["y"], alpha=0.5),
    node("Crop", ["x"], ["y"], border=[1, 0, 2, 1]),
    node("Crop", ["x"], ["y"], border=[1, 1, 0, 0], scale=[2, 3]),
]


@pytest.mark.parametrize("opset", [7, 9, 11])
def test_removed_operators(opset: int) -> None:
    for inner in REMOVED_ROWS:
        model = make_model([inner], {"x": (2, 3, 4, 4)}, opset=opset)
        loaded = nf.load(model)
        x = floats(2, 3, 4, 4)
        assert loaded.verify(x).ok
        if inner.op_type == "Crop" or opset > 9:
            continue  # onnxruntime has none; see below for Crop
        (wanted,) = run_onnxruntime(model, {"x": x}, ["y"])
        (found,) = run_onnxruntime(loaded.loaded.serialized_with_outputs(), {"x": x}, ["y"])
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert {op for _, op in REMOVED} == {inner.op_type for inner in REMOVED_ROWS}


@pytest.mark.parametrize("opset", [7, 12])
def test_crop_takes_left_top_right_bottom(opset: int) -> None:
    x = floats(2, 3, 5, 6)
    for attributes, expected in (
        ({"border": [1, 0, 2, 1]}, x[:, :, 0:4, 1:4]),
        ({"border": [2, 1, 0, 0], "scale": [2, 3]}, x[:, :, 1:3, 2:5]),
    ):
        loaded = nf.load(make_model([node("Crop", ["x"], ["y"], **attributes)], {"x": x.shape}, opset=opset))
        np.testing.assert_array_equal(
            run_onnxruntime(loaded.loaded.serialized_with_outputs(), {"x": x})[0], expected
        )


def labelled(outputs: list[str]) -> onnx.ModelProto:
    """A classifier whose file ends in a look-up of class names and a map from names to scores."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("GlobalAveragePool", ["c"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Softmax", ["f"], ["p"]),
        node("ArgMax", ["p"], ["best"], axis=1, keepdims=0),
        node("ArrayFeatureExtractor", ["names", "best"], ["found"], domain="ai.onnx.ml"),
        node("Reshape", ["found", "one"], ["label"]),
        node("ZipMap", ["p"], ["scores"], domain="ai.onnx.ml", classlabels_strings=["cat", "dog"]),
    ]
    model = make_model(
        nodes, {"x": (1, 3, 6, 6)}, outputs, opset=12, extra_opsets={"ai.onnx.ml": 1},
        constants={"w": floats(2, 3, 3, 3), "one": np.array([1])},
    )  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array(["cat", "dog"], object), "names"))
    for value in model.graph.output:
        if value.name == "label":
            value.type.tensor_type.elem_type = TensorProto.STRING
    return model


@pytest.mark.parametrize(
    ("outputs", "left"), [(["label", "scores"], ("p",)), (["scores"], ("p",)), (["label"], ("best",))]
)
def test_label_tails_are_cut_off(outputs: list[str], left: tuple[str, ...]) -> None:
    model = nf.load(labelled(outputs))
    assert tuple(spec.name for spec in model.outputs) == left
    x = floats(1, 3, 6, 6)
    assert model.verify(x).ok
    plan = model.inspect().plan
    assert plan is not None
    assert (plan.head.output, plan.head.scores) == ("p", "f")
    (layer,) = model.explain(x, layers=["c"])
    assert layer.map.any()
