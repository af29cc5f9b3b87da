"""Small seeded networks for the service benchmarks, and a folder of models as a server takes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits_in_clutter" / "digits_in_clutter.onnx"
CLASSES = 10


def relay(layers: int, size: int, channels: int = 4, seed: int = 0) -> bytes:
    """A network whose spine has `layers` tensors of `size` x `size`, quick to invert: one convolution, then
    scalings and leaky units, each with an exact inverse. Input "x" [N, 1, size, size]."""
    random = np.random.default_rng(seed)
    constants = {
        "kernel": random.normal(0, 0.5, (channels, 1, 3, 3)),
        "scale": random.uniform(0.8, 1.25, (1, channels, 1, 1)),
        "weight": random.normal(0, 1, (channels, CLASSES)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["t1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["t1"], ["t2"]),
    ]
    for index in range(3, layers):
        source, target = f"t{index - 1}", f"t{index}"
        if index % 2:
            nodes.append(helper.make_node("Mul", [source, "scale"], [target]))
        else:
            nodes.append(helper.make_node("LeakyRelu", [source], [target], alpha=0.5))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"t{layers - 1}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "relay",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, size, size])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def repository(root: Path, **models: Path | bytes) -> Path:
    """Version 1 of each model in a folder in Triton's layout."""
    for name, model in models.items():
        folder = root / name / "1"
        folder.mkdir(parents=True)
        if isinstance(model, Path):
            shutil.copy(model, folder / "model.onnx")
        else:
            (folder / "model.onnx").write_bytes(model)
    return root


def pictures(count: int, shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Random inputs [1, ...] in 0..1 for a model's input shape."""
    random = np.random.default_rng(seed)
    return [random.random((1, *shape), np.float32) for _ in range(count)]
