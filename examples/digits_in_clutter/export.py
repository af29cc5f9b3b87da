"""Writes the trained network as an ONNX model: opset 17, batch axis 'N', one name for every tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from network import BLOCK_A, BLOCK_B, CLASSES, DEEPEN, EPSILON, STEM, TOP, WIDEN, Conv

OPSET = 17
IR_VERSION = 8
SIZE = 64


class _Writer:
    """Collects nodes and initializers; every method adds one node and returns its output's name."""

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

    def conv_norm(self, source: str, conv: Conv) -> str:
        kernel = self.weights[f"{conv.name}.weight"].transpose(3, 2, 0, 1)
        convolved = self.node(
            "Conv",
            [source, self.constant(f"{conv.name}.weight", kernel)],
            f"{conv.name}_conv",
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
        )
        parts = [f"{conv.name}.{part}" for part in ("scale", "shift", "mean", "variance")]
        constants = [self.constant(part, self.weights[part]) for part in parts]
        return self.node("BatchNormalization", [convolved, *constants], f"{conv.name}_norm", epsilon=EPSILON)

    def conv_norm_relu(self, source: str, conv: Conv) -> str:
        return self.node("Relu", [self.conv_norm(source, conv)], f"{conv.name}_relu")

    def halve(self, source: str, output: str) -> str:
        return self.node("MaxPool", [source], output, kernel_shape=[2, 2], strides=[2, 2])


def to_onnx(weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The checked ONNX model of `weights`, the parameters and statistics of `network`."""
    w = _Writer(weights)
    x = w.halve(w.conv_norm_relu("image", STEM), "stem_pool")
    x = w.halve(w.conv_norm_relu(x, WIDEN), "widen_pool")
    branch = w.conv_norm(w.conv_norm_relu(x, BLOCK_A), BLOCK_B)
    joined = w.node("Relu", [w.node("Add", [x, branch], "block_sum")], "block_relu")
    x = w.conv_norm_relu(w.halve(joined, "block_pool"), DEEPEN)
    x = w.conv_norm_relu(x, TOP)
    x = w.node("Flatten", [w.node("GlobalAveragePool", [x], "pooled")], "features")
    head = w.constant("head.weight", weights["head.weight"]), w.constant("head.bias", weights["head.bias"])
    w.node("Gemm", [x, *head], "logits")

    def floats(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        w.nodes,
        "digits_in_clutter",
        [floats("image", ["N", 1, SIZE, SIZE])],
        [floats("logits", ["N", CLASSES])],
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
