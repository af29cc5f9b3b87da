"""A small classifier for tests of evaluations, and slow float64 answers to hold them against.

x [N, 3, 8, 8] -> c0 Conv -> r0 Relu -> m0 MaxPool -> c1 Conv -> n1 BatchNormalization -> r1 Relu
-> b (r1 + Conv) -> top Relu -> GlobalAveragePool -> logits Gemm -> y Softmax [N, 4].
"""

from __future__ import annotations

import functools

import numpy as np
from onnx import ModelProto, TensorProto, helper

from support.blocks import Net
from support.replicas import Function, jacobian, tensors

SIZE, CLASSES = 8, 4
BLOCKS = ("r0", "m0", "r1", "top")
SPINE = ("x", "c0", "r0", "m0", "c1", "n1", "r1", "b", "top")


@functools.cache
def network(seed: int = 0, batch: int | str = "n", closing: str = "Softmax") -> ModelProto:
    """Changing the seed changes the weights and nothing else."""
    net = Net(seed)
    random = np.random.default_rng(seed)
    net.conv("x", "c0", 3, 4)
    net.add("Relu", ["c0"], "r0")
    net.add("MaxPool", ["r0"], "m0", kernel_shape=[2, 2], strides=[2, 2])
    net.conv("m0", "c1", 4, 5)
    scales = [net.constant(f"{k}1", random.uniform(0.5, 1.5, 5).astype(np.float32)) for k in "gv"]
    shifts = [net.bias(f"{k}1", 5) for k in "sm"]
    net.add("BatchNormalization", ["c1", scales[0], *shifts, scales[1]], "n1")
    net.add("Relu", ["n1"], "r1")
    net.conv("r1", "k1", 5, 5)
    net.add("Add", ["r1", "k1"], "b")
    net.add("Relu", ["b"], "top")
    net.add("GlobalAveragePool", ["top"], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.dense("flat", "logits", 5, CLASSES)
    net.add(closing, ["logits"], "y")
    model = net.model(batch, size=SIZE)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES]))
    return model


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """[count, 3, 8, 8]."""
    return np.random.default_rng(seed).normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)


def slow_scores(model: ModelProto, x: np.ndarray) -> np.ndarray:
    """[N, classes] in float64."""
    return np.concatenate([tensors(model, picture[None], ["logits"])["logits"] for picture in x])


def slow_gradient(model: ModelProto, x: np.ndarray, kind: int, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient at one layer for one picture x [1, 3, 8, 8], both without the batch axis."""
    value = np.asarray(x, np.float64) if layer == "x" else tensors(model, x, [layer])[layer]
    matrix = jacobian(Function(model, layer, "logits"), value)
    return value[0], matrix[kind].reshape(value.shape)[0]
