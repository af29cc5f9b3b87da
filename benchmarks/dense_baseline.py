"""The inverse with a dense Jacobian and SciPy's LSMR against ours, on AlexNet's convolutions.

    python benchmarks/dense_baseline.py [--sizes 48 64 96] [--memory 2.0] [--tolerance 1e-3] [--json FILE]

Each convolution of the onnx package's AlexNet graph (seeded weights) becomes a network of its own: its input
is what the layers before it give on noise of `size` px, behind it follow ReLU, global average pooling and a
seeded linear layer. Explained with the preset paper, its one solve is the layer's, on the retained rows. The
baseline builds the whole Jacobian column by column, 64 at a time (a forward pass for each input neuron: the
cheapest way there is), keeps the retained rows, and solves with `scipy.sparse.linalg.lsmr` at the same
tolerance. Both flows at the layer's input are compared: `difference` is the largest of the min-max maps.

`ours s` is the median for inverse, coefficients and map; `J s` and `LSMR s` are the baseline's two parts, `x`
their sum over ours. A layer is left out at a size where its Jacobian would need more than --memory GiB,
or where its output is a single cell. The second table extrapolates each layer's largest measured size to
224 px: build and solve are proportional to the number of elements (the iterations taken as they were), memory
is what the matrix alone needs in float32.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from networks import light, method
from onnx import helper, numpy_helper
from scipy.sparse.linalg import lsmr
from service_process import report

import naflow_core as nf
from naflow_core.measure import Subject, compare

FULL = 224
AT_ONCE = 64
CLASSES = 10
GIB = 1 << 30


@dataclass(frozen=True)
class Layer:
    """One convolution of the network at one resolution; x [1, C, H, W] is its input."""

    name: str
    x: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    pads: list[int]
    strides: list[int]
    group: int

    @functools.cached_property
    def head(self) -> np.ndarray:
        """Seeded weights of the linear layer behind it, [outputs, classes]."""
        return np.random.default_rng(2).standard_normal((len(self.bias), CLASSES)).astype(np.float32)

    def convolve(self, x: Any) -> Any:
        """Without the bias; x [N, C, H, W]."""
        sides = list(zip(self.pads[:2], self.pads[2:], strict=True))
        return jax.lax.conv_general_dilated(
            x, self.weights, self.strides, sides, feature_group_count=self.group
        )

    @functools.cached_property
    def output(self) -> tuple[int, ...]:
        """Shape of its output, [1, C, H, W]."""
        return jax.eval_shape(self.convolve, jax.ShapeDtypeStruct(self.x.shape, np.float32)).shape

    @property
    def elements(self) -> int:
        """Of its Jacobian."""
        return math.prod(self.output) * self.x.size

    def network(self) -> onnx.ModelProto:
        """It alone, with a head."""
        nodes = [
            helper.make_node(
                "Conv", ["x", "w", "b"], ["c"], pads=self.pads, strides=self.strides, group=self.group
            ),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "h"], ["y"]),
        ]
        constants = {"w": self.weights, "b": self.bias, "h": self.head}
        graph = helper.make_graph(
            nodes,
            self.name,
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, self.x.shape)],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, CLASSES])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def layers(size: int) -> list[Layer]:
    """The convolutions with what reaches them at that size."""
    network = light("AlexNet", 1, size)
    graph = network.proto.graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    end = max(number for number, node in enumerate(graph.node) if node.op_type == "Conv")
    held = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    del graph.node[end + 1 :], graph.output[:]
    read = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    wanted = list(dict.fromkeys(node.input[0] for node in convolutions))
    (picture,) = network.feeds
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name != picture)
    session = onnxruntime.InferenceSession(
        network.proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    values = {**dict(zip(names, session.run(names, network.feeds), strict=True)), **network.feeds}
    found = []
    for number, node in enumerate(convolutions, 1):
        given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        found.append(
            Layer(
                f"conv{number}",
                values[node.input[0]],
                held[node.input[1]],
                held[node.input[2]],
                list(given.get("pads", [0] * 4)),
                list(given.get("strides", [1, 1])),
                given.get("group", 1),
            )
        )
    return found


def dense(layer: Layer, tolerance: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Flow [H, W] at the layer's input by the dense way, and what it took."""
    image = np.asarray(layer.convolve(layer.x))
    active = np.maximum(image + layer.bias[:, None, None], 0)
    scores = active.mean(axis=(2, 3)) @ layer.head
    weights = layer.head[:, int(scores.argmax())] / active[0, 0].size
    coefficients = (weights[None, :, None, None] * (active > 0)).astype(np.float32)
    began = time.perf_counter()
    matrix = _jacobian(layer)
    built = time.perf_counter() - began
    retained = coefficients.ravel() != 0
    right = (active - layer.bias[:, None, None]).ravel()[retained]
    began = time.perf_counter()
    kept = matrix[retained]
    with np.errstate(over="ignore"):  # of its estimates of the condition, in float32
        x, _, iterations = lsmr(kept, right, atol=tolerance, btol=tolerance, maxiter=5000)[:3]
    solved = time.perf_counter() - began
    gradient = coefficients.ravel() @ matrix
    flow = np.maximum(x * gradient, 0).reshape(layer.x.shape[1:]).sum(axis=0)
    return flow, {"J s": built, "LSMR s": solved, "LSMR iterations": int(iterations)}


def _jacobian(layer: Layer) -> np.ndarray:
    """[outputs, inputs], float32."""
    inputs = layer.x.size
    matrix = np.empty((math.prod(layer.output), inputs), np.float32)
    columns = jax.jit(layer.convolve)
    for begin in range(0, inputs, AT_ONCE):
        basis = np.zeros((AT_ONCE, inputs), np.float32)
        count = min(AT_ONCE, inputs - begin)
        basis[np.arange(count), begin + np.arange(count)] = 1
        found = np.asarray(columns(jnp.asarray(basis.reshape(AT_ONCE, *layer.x.shape[1:]))))
        matrix[:, begin : begin + count] = found.reshape(AT_ONCE, -1)[:count].T
    return matrix


def measure(layer: Layer, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    own = method("paper", [f"tolerance={options.tolerance}", "max_iterations=5000", *options.changes])
    subject = Subject(nf.load(layer.network()), {"x": layer.x})
    found = compare(subject, {"it": own}, options.repeats)["segments"]["it"][-1]
    flow = subject.explain(own).flows[-1]
    theirs, parts = dense(layer, options.tolerance)
    ours = flow.map[0]
    gap = np.abs(ours / max(ours.max(), 1e-30) - theirs / max(theirs.max(), 1e-30)).max()
    return {
        "layer": layer.name,
        "size": size,
        "rows": layer.elements // layer.x.size,
        "columns": layer.x.size,
        "ours s": found["seconds"],
        "iterations": found["iterations"],
        **parts,
        "x": (parts["J s"] + parts["LSMR s"]) / found["seconds"],
        "difference": f"{gap:.1e}",
    }


def extrapolated(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each layer at 224 px, and all of them."""
    table = []
    for layer in layers(FULL):
        measured = [row for row in rows if row["layer"] == layer.name]
        if not measured:
            continue
        largest = max(measured, key=lambda row: row["size"])
        times = layer.elements / (largest["rows"] * largest["columns"])
        table.append(
            {
                "layer": layer.name,
                "from size": largest["size"],
                "elements x": times,
                "J s": largest["J s"] * times,
                "LSMR s": largest["LSMR s"] * times,
                "GiB": 4 * layer.elements / GIB,
            }
        )
    total = {name: sum(row[name] for row in table) for name in ("J s", "LSMR s")}
    return [*table, {"layer": "all", **total, "GiB": max((row["GiB"] for row in table), default=0.0)}]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[48, 64, 96])
    parser.add_argument("--memory", type=float, default=2.0, help="GiB that a Jacobian may need")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--set", dest="changes", nargs="+", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows = [
        measure(layer, size, options)
        for size in options.sizes
        for layer in layers(size)
        if 4 * layer.elements <= options.memory * GIB and min(layer.output[2:]) > 1
    ]
    beyond = extrapolated(rows)
    facts = {"tolerance": options.tolerance, "memory": f"{options.memory:g} GiB"}
    report("Dense Jacobian and LSMR", rows, options.json, unprinted={"extrapolated": beyond}, **facts)
    print()
    report("Extrapolated to 224 px", beyond, None)


if __name__ == "__main__":
    main()
