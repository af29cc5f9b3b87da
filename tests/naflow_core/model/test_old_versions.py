"""Operators as old opsets had them: after conversion the output is that of the file as it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto, helper

import naflow_core as nf
from support.onnx_graphs import make_model, run_onnxruntime
from support.op_case import floats, ints

node = helper.make_node
X = floats(1, 4, 6, 6)
WHERE, UPDATES = ints(0, 2).reshape(1, 2, 1, 1), floats(1, 2, 1, 1)
BOX = np.array([[0, 0, 4, 4]], np.float32)
BATCH = dict(
    zip("sbmv", (floats(4), floats(4, seed=1), floats(4, seed=2), np.abs(floats(4)) + 1), strict=True)
)

ROWS: list[tuple[int, NodeProto, dict[str, np.ndarray]]] = [
    (7, node("TopK", ["x"], ["y", "i"], k=2, axis=1), {}),
    (10, node("TopK", ["x", "k"], ["y", "i"], axis=1), {"k": ints(2)}),
    (9, node("Scatter", ["x", "i", "u"], ["y"], axis=1), {"i": WHERE, "u": UPDATES}),
    (10, node("Scatter", ["x", "i", "u"], ["y"], axis=1), {"i": WHERE, "u": UPDATES}),
    (11, node("ScatterElements", ["x", "i", "u"], ["y"], axis=1), {"i": WHERE - 1, "u": UPDATES}),
    (16, node("ScatterND", ["x", "i", "u"], ["y"], reduction="add"),
     {"i": ints(0, 1).reshape(1, 2), "u": floats(1, 6, 6)}),
    (11, node("GatherND", ["x", "i"], ["y"]), {"i": ints(0, 1).reshape(1, 2)}),
    (9, node("Compress", ["x", "c"], ["y"], axis=1), {"c": np.array([True, False, True])}),
    (11, node("CumSum", ["x", "a"], ["y"]), {"a": np.array(1, np.int32)}),
    (9, node("OneHot", ["q", "d", "v"], ["o"]), {"q": ints(1, 2), "d": ints(4), "v": np.float32([0, 1])}),
    (10, node("ReverseSequence", ["x", "l"], ["y"], batch_axis=0, time_axis=1), {"l": ints(2)}),
    (7, node("Upsample", ["x"], ["y"], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]), {}),
    (9, node("Upsample", ["x", "s"], ["y"], mode="linear"), {"s": np.float32([1, 1, 2, 2])}),
    (10, node("Resize", ["x", "s"], ["y"], mode="nearest"), {"s": np.float32([1, 1, 2, 1.5])}),
    (10, node("Resize", ["x", "s"], ["y"], mode="linear"), {"s": np.float32([1, 1, 0.5, 1.5])}),
    (10, node("RoiAlign", ["x", "r", "b"], ["y"], output_height=2, output_width=2, sampling_ratio=2),
     {"r": BOX, "b": ints(0)}),
    (16, node("GridSample", ["x", "g"], ["y"], mode="bicubic"), {"g": floats(1, 2, 2, 2, scale=0.3)}),
    (7, node("LpPool", ["x"], ["y"], kernel_shape=[2, 2]), {}),
    (7, node("GlobalLpPool", ["x"], ["y"]), {}),
    (8, node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], strides=[2, 2]), {}),
    (9, node("MaxUnpool", ["x", "q"], ["y"], kernel_shape=[1, 1]),
     {"q": np.arange(144).reshape(X.shape)[..., ::-1].copy()}),
    (11, node("Hardmax", ["x"], ["y"], axis=-1), {}),
    (7, node("Softmax", ["x"], ["y"], axis=2), {}),
    (9, node("MeanVarianceNormalization", ["x"], ["y"]), {}),
    (7, node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"]), BATCH),
    (10, node("ThresholdedRelu", ["x"], ["y"], alpha=0.3), {}),
    (11, node("Det", ["x"], ["y"]), {}),
    (7, node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"), {}),
    (7, node("Slice", ["x"], ["y"], starts=[1], ends=[3], axes=[2]), {}),
    (7, node("Clip", ["x"], ["y"], min=-0.5, max=0.5), {}),
    (7, node("Split", ["x"], ["y", "z"], axis=1, split=[1, 3]), {}),
    (12, node("ReduceSum", ["x"], ["y"], axes=[-1], keepdims=0), {}),
    (13, node("ReduceMax", ["x"], ["y"], axes=[-1], keepdims=0), {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("opset", "inner", "constants"), ROWS, ids=[f"{inner.op_type}-{opset}" for opset, inner, _ in ROWS]
)
def test_an_operator_of_an_old_opset(opset: int, inner: NodeProto, constants: dict[str, np.ndarray]) -> None:
    nodes = [inner]
    if "x" not in inner.input:  # the operator makes a constant: it must still meet the input
        nodes += [
            node("ReduceMax", ["x"], ["m"]),
            node("Flatten", ["m"], ["f"]),
            node("Mul", ["f", "o"], ["y"]),
        ]
    model = make_model(nodes, {"x": X.shape}, constants=constants, opset=opset, ir_version=7)
    (wanted,) = run_onnxruntime(model, {"x": X}, ["y"])
    loaded = nf.load(model)
    assert loaded.verify(X).ok
    (found,) = run_onnxruntime(loaded.loaded.serialized_with_outputs(), {"x": X}, ["y"])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
