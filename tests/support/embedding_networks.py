"""Small networks that end in an embedding, one for each kind of head."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper

from support.onnx_graphs import make_model
from support.op_case import floats

node = helper.make_node
CHANNELS, WIDTH = 4, 6
VECTORS = ("average", "neck", "flatten", "gem", "unit", "lp")
MAPS = ("map", "unit-map")
TOP = "top"


def embedding_network(head: str, size: int | str = 8) -> ModelProto:
    """Conv, Relu, Conv, Relu (tensor "top"), then the head, from [N, 2, size, size] to "e"."""
    constants = {
        "w1": floats(3, 2, 3, 3),
        "w2": floats(CHANNELS, 3, 3, 3),
        "g": floats(CHANNELS, WIDTH),
        "b": floats(WIDTH) / 4,
        "power": np.array([3.0], np.float32),
        "root": np.array([1 / 3], np.float32),
        "low": np.array(1e-6, np.float32),
    }
    trunk = [
        node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w2"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], [TOP]),
    ]
    pool = [node("GlobalAveragePool", [TOP], ["p"]), node("Flatten", ["p"], ["f"])]
    gemm = [node("Gemm", ["f", "g", "b"], ["v"])]
    axes = {"axes": np.array([1])}
    length = [node("ReduceL2", ["v", "axes"], ["n"]), node("Clip", ["n", "low"], ["n2"])]
    if head == "average":
        tail = [*pool[:1], node("Flatten", ["p"], ["e"])]
    elif head == "neck":
        constants |= {"s": 1 + abs(floats(WIDTH)), "m": floats(WIDTH) / 8, "var": 1 + abs(floats(WIDTH))}
        tail = [*pool, *gemm, node("BatchNormalization", ["v", "s", "b", "m", "var"], ["e"])]
    elif head == "flatten":
        constants["g"] = floats(CHANNELS * 16, WIDTH)
        tail = [node("Flatten", [TOP], ["f"]), node("Gemm", ["f", "g", "b"], ["e"])]
    elif head == "gem":
        tail = [
            node("Clip", [TOP, "low"], ["floored"]),
            node("Pow", ["floored", "power"], ["powers"]),
            node("GlobalAveragePool", ["powers"], ["mean"]),
            node("Pow", ["mean", "root"], ["rooted"]),
            node("Flatten", ["rooted"], ["f"]),
            node("Gemm", ["f", "g", "b"], ["e"]),
        ]
    elif head == "unit":
        constants |= axes
        tail = [*pool, *gemm, *length, node("Div", ["v", "n2"], ["e"])]
    elif head == "lp":
        tail = [*pool, *gemm, node("LpNormalization", ["v"], ["e"], axis=1)]
    elif head == "map":
        tail = [node("Identity", [TOP], ["e"])]
    else:
        constants |= axes
        length = [node("ReduceL2", [TOP, "axes"], ["n"]), node("Clip", ["n", "low"], ["n2"])]
        tail = [*length, node("Div", [TOP, "n2"], ["e"])]
    return make_model([*trunk, *tail], {"x": ["N", 2, size, size]}, ["e"], constants=constants)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Float32 [count, 2, 8, 8]."""
    return np.random.default_rng(seed).normal(size=(count, 2, 8, 8)).astype(np.float32)
