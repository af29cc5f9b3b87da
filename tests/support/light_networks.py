"""Nine widely used networks: the graphs that the onnx package ships without weights, with seeded ones.

The package's `light` models keep the architecture and the shapes of well-known classifiers and replace each
weight by a constant: an initializer or a ConstantOfShape node. `light_network` gives each a random value of
the right kind instead: He-normal weights (He et al. 2015), normalisations near the identity, small biases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

NINE = {
    "AlexNet": "bvlc_alexnet",
    "ZFNet": "zfnet512",
    "VGG-19": "vgg19",
    "GoogLeNet": "inception_v1",
    "Inception v2": "inception_v2",
    "ResNet-50": "resnet50",
    "DenseNet-121": "densenet121",
    "SqueezeNet": "squeezenet",
    "ShuffleNet": "shufflenet",
}
FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
THROUGH = {"Reshape", "Unsqueeze"}

Use = tuple[str, int]


def light_network(name: str, seed: int = 0) -> onnx.ModelProto:
    """One of `NINE` with seeded weights as initializers; its only input is the picture."""
    model = onnx.load(FOLDER / f"light_{NINE[name]}.onnx")
    graph, random = model.graph, np.random.default_rng(seed)
    uses = _uses(graph)
    given = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    shapes = {
        node.output[0]: tuple(int(size) for size in given[node.input[0]])
        for node in graph.node
        if node.op_type == "ConstantOfShape"
    }
    weights = {**shapes, **{k: v.shape for k, v in given.items() if v.dtype == np.float32}}
    fresh = {
        key: _value(random, uses[key], shape).astype(np.float32)
        for key, shape in weights.items()
        if uses.get(key) is not None
    }
    kept = [item for item in graph.initializer if item.name not in fresh]
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape" or node.output[0] not in fresh]
    del graph.initializer[:], graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in fresh.items())
    read = {item for node in nodes for item in node.input}
    pictures = [item for item in graph.input if item.name in read and item.name not in {*given, *fresh}]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(pictures)
    return model


def input_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """Of its only input."""
    (only,) = model.graph.input
    return tuple(size.dim_value for size in only.type.tensor_type.shape.dim)


def _uses(graph: onnx.GraphProto) -> Mapping[str, Use]:
    """What each constant is to the layer that reads it: operator and position, through changes of shape."""
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for position, key in enumerate(node.input):
            readers[key].append((node, position))

    def use(key: str) -> Use | None:
        for node, position in readers[key]:
            if node.op_type in THROUGH and position == 0:
                return use(node.output[0])
            return node.op_type, position
        return None

    return {key: found for key in list(readers) if (found := use(key)) is not None}


def _value(random: np.random.Generator, use: Use, shape: tuple[int, ...]) -> np.ndarray:
    match use:
        case ("Conv" | "Gemm", 1):
            return random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        case ("BatchNormalization" | "Mul", 1):
            return random.uniform(0.8, 1.2, shape)
        case ("BatchNormalization", 4):
            return random.uniform(0.8, 1.2, shape)
        case ("BatchNormalization", 2 | 3) | ("Add", 1) | ("Conv" | "Gemm", 2):
            return random.standard_normal(shape) * 0.1
    raise AssertionError(f"no value for input {use[1]} of {use[0]}, shape {shape}")
