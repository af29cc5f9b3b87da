"""Nodes written as others while loading: how, and the operators that ONNX once had and took out again.

What runtimes fuse or store in a form of their own is taken apart into standard nodes, so that everything
after the loader (forward, inverse rules, blocks, `verify`) sees the network as it was exported. The node's
own outputs keep their names; what lies in between is called after the first output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from naflow_core.errors import UnsupportedNode, UnsupportedOperatorError
from naflow_core.model.floats import ReadTensor
from naflow_core.model.structure import subgraphs


class Site:
    """One node that is being replaced.

    Attributes:
        node: the node.
        opset: the model's ai.onnx opset version.
        attributes: by name; tensors stay protobuf messages.
    """

    def __init__(self, node: NodeProto, opset: int, values: _Values) -> None:
        self.node, self.opset, self._values = node, opset, values
        self.attributes = {a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute}
        self.emitted: list[NodeProto] = []

    def input(self, position: int) -> str:
        """Name of an input, "" where it is absent."""
        return self.node.input[position] if position < len(self.node.input) else ""

    def known(self, position: int) -> np.ndarray | None:
        """Value of an input that is a constant of the graph."""
        return self._values.find(self.input(position))

    def constant(self, value: Any, what: str) -> str:
        """Name of a new constant."""
        name = self._values.new_name(f"{self.node.output[0]}/{what}")
        self._values.constants[name] = np.asarray(value)
        return name

    def emit(
        self, op_type: str, inputs: Sequence[str], *, out: str = "", domain: str = "", **given: Any
    ) -> str:
        """Add a node with one output and give the output's name: `out`, or one of its own."""
        base = self.node.name or self.node.output[0]
        name = out or self._values.new_name(f"{self.node.output[0]}/{op_type}")
        label = base if out else f"{base}/{op_type}"
        inputs = list(inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        self.emitted.append(helper.make_node(op_type, inputs, [name], name=label, domain=domain, **given))
        return name

    def becomes_float(self) -> None:
        """Say that the node's output holds the same numbers in another type now."""
        self._values.floats.add(self.node.output[0])

    def dynamic_quantise(self, x: str) -> tuple[str, str, str]:
        """Add a DynamicQuantizeLinear: names of the integers, their scale and their zero point."""
        parts = ("quantised", "scale", "zero_point")
        whole, scale, zero = (self._values.new_name(f"{self.node.output[0]}/{part}") for part in parts)
        label = f"{self.node.name or self.node.output[0]}/DynamicQuantizeLinear"
        self.emitted.append(helper.make_node("DynamicQuantizeLinear", [x], [whole, scale, zero], name=label))
        return whole, scale, zero

    def refuse(self, reason: str) -> UnsupportedOperatorError:
        """The error to raise where this node cannot be taken apart."""
        label = self.node.name or self.node.output[0]
        return UnsupportedOperatorError([UnsupportedNode(label, self.node.op_type, reason)])


Rewrite = Callable[[Site], None]
Table = dict[tuple[str, str], Rewrite]


class _Values:
    """Constants of a graph by name, and names that are still free."""

    def __init__(self, model: ModelProto, constants: dict[str, np.ndarray], read: ReadTensor) -> None:
        self.constants, self._read = constants, read
        self.floats: set[str] = set()
        self._nodes = {
            node.output[0]: node.attribute[0]
            for node in model.graph.node
            if node.op_type == "Constant" and len(node.attribute) == 1 and node.output
        }
        self._taken = {name for node in model.graph.node for name in (*node.input, *node.output)}

    def find(self, name: str) -> np.ndarray | None:
        if name in self._nodes and self._nodes[name].name == "value":
            return self._read(self._nodes[name].t, f"constant {name!r}")
        return self.constants.get(name)

    def new_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken or name in self.constants:
            number += 1
            name = f"{wanted}#{number}"
        self._taken.add(name)
        return name


def rewrite(
    model: ModelProto,
    table: Mapping[tuple[str, str], Rewrite],
    constants: dict[str, np.ndarray],
    read: ReadTensor,
) -> None:
    """Replace every node of the main graph that the table, by (domain, op type), knows.

    New constants are put into `constants`.

    Raises:
        UnsupportedOperatorError: a node that the table knows but cannot take apart.
    """
    if not any((node.domain, node.op_type) in table for node in model.graph.node):
        return
    opset = max((entry.version for entry in model.opset_import if entry.domain == ""), default=0)
    values = _Values(model, constants, read)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        rule = table.get((node.domain, node.op_type))
        if rule is None or not node.output:
            nodes.append(node)
            continue
        site = Site(node, opset, values)
        rule(site)
        nodes.extend(site.emitted)
    copies = [NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)
    for value in model.graph.output:
        if value.name in values.floats:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    declared = {entry.domain for entry in model.opset_import}
    for domain in sorted({node.domain for node in copies} - declared - {""}):
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


# Operators that ONNX took out ----------------------------------------------------------------------

REMOVED: Table = {}


def _removed(op_type: str) -> Callable[[Rewrite], Rewrite]:
    def add(function: Rewrite) -> Rewrite:
        REMOVED[("", op_type)] = function
        return function

    return add


def _number(site: Site, name: str, default: float) -> str:
    return site.constant(np.float32(site.attributes.get(name, default)), name)


@_removed("ImageScaler")
def _image_scaler(site: Site) -> None:
    bias = np.asarray(site.attributes.get("bias", [0.0]), np.float32).reshape(1, -1, 1, 1)
    scaled = site.emit("Mul", [site.input(0), _number(site, "scale", 1.0)])
    site.emit("Add", [scaled, site.constant(bias, "bias")], out=site.node.output[0])


@_removed("Affine")
def _affine(site: Site) -> None:
    scaled = site.emit("Mul", [site.input(0), _number(site, "alpha", 1.0)])
    site.emit("Add", [scaled, _number(site, "beta", 0.0)], out=site.node.output[0])


@_removed("ScaledTanh")
def _scaled_tanh(site: Site) -> None:
    inner = site.emit("Tanh", [site.emit("Mul", [site.input(0), _number(site, "beta", 1.0)])])
    site.emit("Mul", [inner, _number(site, "alpha", 1.0)], out=site.node.output[0])


@_removed("ParametricSoftplus")
def _parametric_softplus(site: Site) -> None:
    inner = site.emit("Softplus", [site.emit("Mul", [site.input(0), _number(site, "beta", 1.0)])])
    site.emit("Mul", [inner, _number(site, "alpha", 1.0)], out=site.node.output[0])


@_removed("Crop")
def _crop(site: Site) -> None:
    left, top, right, bottom = (int(v) for v in site.attributes["border"])
    starts, ends = [top, left], [-bottom or 1 << 30, -right or 1 << 30]
    if "scale" in site.attributes:
        height, width = (int(v) for v in site.attributes["scale"])
        ends = [top + height, left + width]
    if site.opset < 10:
        site.emit("Slice", [site.input(0)], out=site.node.output[0], starts=starts, ends=ends, axes=[2, 3])
        return
    names = [
        site.constant(np.array(v, np.int64), n)
        for v, n in ((starts, "starts"), (ends, "ends"), ([2, 3], "axes"))
    ]
    site.emit("Slice", [site.input(0), *names], out=site.node.output[0])


@_removed("ThresholdedRelu")
def _thresholded_relu(site: Site) -> None:
    above = site.emit("Greater", [site.input(0), _number(site, "alpha", 1.0)])
    kept = site.emit("Cast", [above], to=TensorProto.FLOAT)
    site.emit("Mul", [site.input(0), kept], out=site.node.output[0])


def removed_operators(opset: int) -> Table:
    """Those that ONNX has none of at this opset."""
    return {key: rule for key, rule in REMOVED.items() if key[1] != "ThresholdedRelu" or opset < 10}


# Tails that turn scores into labels ----------------------------------------------------------------

_LABELLING = frozenset({"ArrayFeatureExtractor", "LabelEncoder", "CategoryMapper"})
_ML = "ai.onnx.ml"


def cut_label_tails(model: ModelProto) -> None:
    """Take ZipMap and the look-up of class names off the graph's end.

    Where an output was a map of scores by label, it is the scores; an output that is only a label goes, as
    long as another is left, and otherwise becomes what the label was looked up by.
    """
    graph = model.graph
    if not any(node.domain == _ML for node in graph.node):
        return
    instead: dict[str, str] = {}
    labels: set[str] = set()
    nodes = []
    for node in graph.node:
        label = any(name in labels for name in node.input)
        if node.domain == _ML and node.op_type == "ZipMap":
            instead[node.output[0]] = node.input[0]
        elif label or (node.domain == _ML and node.op_type in _LABELLING):
            labels.update(node.output)
            looked_up = node.input[1] if node.op_type == "ArrayFeatureExtractor" else node.input[0]
            instead.update((name, instead.get(looked_up, looked_up)) for name in node.output)
        else:
            nodes.append(node)
    if not instead:
        return
    kept = [value for value in graph.output if value.name not in labels] or list(graph.output)
    names = dict.fromkeys(instead.get(value.name, value.name) for value in kept)
    declared = {value.name: value for value in kept}
    outputs = [declared.get(name) or helper.make_empty_tensor_value_info(name) for name in names]
    outputs = [type(value).FromString(value.SerializeToString()) for value in outputs]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.output[:], graph.node[:]
    graph.output.extend(outputs)
    graph.node.extend(copies)
    _drop_unread_text(graph)


def _drop_unread_text(graph: GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    read |= {name for node in graph.node for inner in subgraphs(node) for n in inner.node for name in n.input}
    kept = [t for t in graph.initializer if t.name in read or t.data_type != TensorProto.STRING]
    if len(kept) < len(graph.initializer):
        copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)
