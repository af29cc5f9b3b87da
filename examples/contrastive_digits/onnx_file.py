"""Writes the trained encoder as an ONNX model: opset 17, batch axis 'N', one name for every tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder import CONVOLUTIONS, EMBEDDING, EPSILON, SHORTEST, Conv
from views import SIZE

OPSET = 17
IR_VERSION = 8


class _Writer:
    """Collects nodes and initializers; every method adds nodes and returns the last one's output name."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        array = np.ascontiguousarray(value, np.float32)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def conv_norm_relu(self, source: str, conv: Conv) -> str:
        kernel = self.weights[f"{conv.name}.weight"].transpose(3, 2, 0, 1)
        weight = self.constant(f"{conv.name}.weight", kernel)
        window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        convolved = self.node("Conv", [source, weight], f"{conv.name}_conv", **window)
        parts = [f"{conv.name}.{part}" for part in ("scale", "shift", "mean", "variance")]
        inputs = [convolved, *(self.constant(part, self.weights[part]) for part in parts)]
        normalised = self.node("BatchNormalization", inputs, f"{conv.name}_norm", epsilon=EPSILON)
        return self.node("Relu", [normalised], f"{conv.name}_relu")


def to_onnx(weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The checked ONNX model of `weights`, the parameters and statistics of `encoder`."""
    w = _Writer(weights)
    x = "image"
    for conv in CONVOLUTIONS:
        x = w.conv_norm_relu(x, conv)
        if conv.halve:
            x = w.node("MaxPool", [x], f"{conv.name}_pool", kernel_shape=[2, 2], strides=[2, 2])
    x = w.node("Flatten", [w.node("GlobalAveragePool", [x], "pooled")], "features")
    linear = [w.constant(name, weights[name]) for name in ("project.weight", "project.bias")]
    projected = w.node("Gemm", [x, *linear], "projected")
    length = w.node("ReduceL2", [projected], "length", axes=[1], keepdims=1)
    length = w.node("Clip", [length, w.constant("shortest", np.array(SHORTEST))], "length_above_zero")
    w.node("Div", [projected, length], "embedding")

    def floats(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        w.nodes,
        "contrastive_digits",
        [floats("image", ["N", 1, SIZE, SIZE])],
        [floats("embedding", ["N", EMBEDDING])],
        w.initializers,
    )
    model = helper.make_model(
        graph,
        producer_name="naflow example",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    return model
