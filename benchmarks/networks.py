"""The networks that the speed and accuracy benchmarks run on, and what they are asked.

Six are the graphs that the onnx package ships without weights, with seeded ones, on seeded noise. Two have
the weights of their authors; they are used where NAFLOW_ZOO (or the option zoo) names a folder with models/
and images/, on photographs.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image, ImageOps

import naflow_core as nf

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.light_networks import light_network

LIGHT = ("AlexNet", "VGG-19", "ResNet-50", "DenseNet-121", "GoogLeNet", "SqueezeNet")
PRESETS = ("paper", "default", "published-code")


@dataclass(frozen=True, slots=True)
class Trained:
    """A file with weights, and how a picture becomes its input: (RGB - subtract) / divide."""

    file: str
    channels_last: bool
    reverse: bool
    subtract: tuple[float, float, float]
    divide: float

    def __call__(self, pictures: Sequence[Path], size: int = 224) -> np.ndarray:
        """Pictures cut square and shrunk."""
        parts = []
        for path in pictures:
            with Image.open(path) as picture:
                cut = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
            array = np.asarray(cut, np.float32)[..., :: -1 if self.reverse else 1]
            parts.append((array - np.asarray(self.subtract, np.float32)) / np.float32(self.divide))
        stacked = np.stack(parts)
        return stacked if self.channels_last else np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


TRAINED = {
    "MobileNetV2": Trained("mobilenetv2_100_224_tf_logits", True, False, (127.5, 127.5, 127.5), 127.5),
    "SqueezeNet 1.1": Trained("squeezenet11_fp32_winml", False, True, (104.0, 117.0, 123.0), 1.0),
}
NAMES = (*LIGHT, *TRAINED)


@dataclass(frozen=True)
class Network:
    """One network with a batch of inputs; `proto` takes batches of any size if that is not 1."""

    name: str
    proto: onnx.ModelProto
    feeds: dict[str, np.ndarray]


def add_options(parser: argparse.ArgumentParser, names: Iterable[str] = NAMES) -> None:
    """The options that choose networks and change the method."""
    parser.add_argument("--networks", nargs="+", default=list(names), choices=NAMES, metavar="NAME")
    parser.add_argument("--zoo", type=Path, default=os.environ.get("NAFLOW_ZOO") or None)
    parser.add_argument(
        "--set",
        dest="changes",
        nargs="+",
        default=[],
        metavar="OPTION=VALUE",
        help="change options of every preset, such as tolerance=1e-4",
    )


def chosen(options: argparse.Namespace, batch: int) -> Iterator[Network]:
    """The networks of the options, one at a time; a note on stderr where the files of one are not there."""
    for name in options.networks:
        if name in LIGHT:
            yield light(name, batch)
        elif options.zoo is None or not (path := _file(Path(options.zoo), name)).is_file():
            print(f"{name} is left out: NAFLOW_ZOO names no folder that has it", file=sys.stderr)
        else:
            yield _trained(name, path, batch)


def light(name: str, batch: int, size: int = 224) -> Network:
    """A graph with seeded weights, on noise.

    Args:
        size: of the pictures; other than 224 only for networks that end in a global pooling.
    """
    proto = with_batch(light_network(name), batch)
    axes = proto.graph.input[0].type.tensor_type.shape.dim[2:]
    for axis in axes:
        axis.dim_value = size
    x = np.random.default_rng(1).standard_normal((batch, 3, size, size)).astype(np.float32)
    return Network(name, proto, {proto.graph.input[0].name: x})


def _trained(name: str, path: Path, batch: int) -> Network:
    proto = with_batch(onnx.load(path), batch)
    held = {item.name for item in proto.graph.initializer}
    (spec,) = (item for item in proto.graph.input if item.name not in held)
    pictures = sorted((path.parents[1] / "images").glob("*.[jp][pn]g"))[:batch]
    if len(pictures) < batch:
        raise SystemExit(
            f"{path.parents[1] / 'images'}: {batch} pictures are needed, {len(pictures)} are there"
        )
    return Network(name, proto, {spec.name: TRAINED[name](pictures)})


def _file(zoo: Path, name: str) -> Path:
    return zoo / "models" / f"{TRAINED[name].file}.onnx"


def with_batch(proto: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same network for one picture, or for batches of any size: inputs, outputs, and targets of Reshape
    that begin with 1.

    These files have a batch of one written into them in all three places.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    held = {item.name: item for item in graph.initializer}
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in held and len(dims) > 0:
            dims[0].Clear()
            if batch == 1:
                dims[0].dim_value = 1
            else:
                dims[0].dim_param = "N"
    del graph.value_info[:]
    constants = {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"
    } | held
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants:
            tensor = constants[node.input[1]]
            target = numpy_helper.to_array(tensor).copy()
            if len(target) > 1 and target[0] == 1 and batch > 1:
                target[0] = 0  # as the input of the node has it
                tensor.CopyFrom(numpy_helper.from_array(target, tensor.name))
    return copy


def deep(layers: int, size: int = 56, channels: int = 32, seed: int = 0) -> Network:
    """A seeded plain network of equal 3x3 convolutions with ReLU between them, one picture."""
    random = np.random.default_rng(seed)
    constants = {"head": random.normal(0, 1, (channels, 10))}
    nodes, source, inputs = [], "x", 3
    for number in range(layers):
        kernel = f"w{number}"
        constants[kernel] = random.normal(0, np.sqrt(2 / (9 * inputs)), (channels, inputs, 3, 3))
        nodes.append(helper.make_node("Conv", [source, kernel], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        source, inputs = f"r{number}", channels
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    x = np.random.default_rng(1).standard_normal((1, 3, size, size)).astype(np.float32)
    return Network(f"{layers} layers", proto, {"x": x})


def method(preset: str, changes: Sequence[str]) -> nf.Method:
    """A preset with options changed as "option=value" says, where "quality" is an option too.

    Raises:
        SystemExit: no such preset or option, or a value that does not fit.
    """
    known = {"quality", *(field.name for field in dataclasses.fields(nf.Method))}
    values: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in known:
            raise SystemExit(f"{change!r}: the options are {', '.join(sorted(known))}")
        values[name] = _parsed(getattr(nf.Method(), name, text), text)
    try:
        return nf.Method.preset(preset, **values)
    except (nf.OptionError, TypeError) as error:
        raise SystemExit(f"{' '.join(changes)}: {error}") from None


def _parsed(like: Any, text: str) -> Any:
    if isinstance(like, nf.Abandonment):
        return nf.Abandonment.parse(text)
    if isinstance(like, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return type(like)(text) if isinstance(like, int | float) else text
    except ValueError:
        return text
