"""A normalised ModelProto to the frozen Graph."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from naflow_core.errors import ModelError
from naflow_core.model.floats import ReadTensor
from naflow_core.model.graph import AttributeValue, Body, Dimension, Graph, Node, TensorSpec
from naflow_core.model.structure import describe
from naflow_core.model.tensors import dtype_name


def build_graph(
    model: ModelProto,
    constants: Mapping[str, np.ndarray],
    read: ReadTensor,
    original_opsets: Mapping[str, int],
    ir_version: int,
) -> Graph:
    """Nodes must be in order and have unique names.

    Raises:
        ModelError: an input that is not a tensor, an attribute that cannot be represented.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    producer = " ".join(filter(None, (model.producer_name, model.producer_version)))
    return Graph(
        nodes=tuple(_node(node, opsets, read) for node in model.graph.node),
        inputs=tuple(_input_spec(value) for value in model.graph.input),
        outputs=tuple(_spec(value) for value in model.graph.output),
        constants=MappingProxyType(dict(constants)),
        opsets=MappingProxyType(opsets),
        original_opsets=MappingProxyType(dict(original_opsets)),
        ir_version=ir_version,
        producer=producer,
    )


def name_nodes(model: ModelProto) -> None:
    """Give every node a unique, non-empty name: its own, else its first output, with a number if taken."""
    taken = {node.name for node in model.graph.node if node.name}
    seen: set[str] = set()
    for node in model.graph.node:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        base = node.name or next(filter(None, node.output), node.op_type)
        name, number = base, 1
        while name in taken or name in seen:
            number += 1
            name = f"{base}#{number}"
        node.name = name
        seen.add(name)


def _node(node: NodeProto, opsets: Mapping[str, int], read: ReadTensor) -> Node:
    attributes: dict[str, AttributeValue] = {}
    for attribute in node.attribute:
        if attribute.name in attributes:
            raise ModelError(f"{describe(node)} has attribute {attribute.name!r} twice")
        label = f"attribute {attribute.name!r} of {describe(node)}"
        if attribute.type == AttributeProto.GRAPH:
            attributes[attribute.name] = _body(attribute.g, opsets, read)
        else:
            attributes[attribute.name] = _value(attribute, label, read)
    return Node(
        name=node.name,
        op_type=node.op_type,
        domain=node.domain,
        version=opsets[node.domain],
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=MappingProxyType(attributes),
    )


def _body(graph: GraphProto, opsets: Mapping[str, int], read: ReadTensor) -> Body:
    return Body(
        nodes=tuple(_node(node, opsets, read) for node in graph.node),
        inputs=tuple(value.name for value in graph.input),
        outputs=tuple(value.name for value in graph.output),
        constants=MappingProxyType(
            {tensor.name: read(tensor, f"initializer {tensor.name!r}") for tensor in graph.initializer}
        ),
        version=opsets.get("", 0),
    )


def _value(attribute: AttributeProto, label: str, read: ReadTensor) -> AttributeValue:
    kind = attribute.type
    if attribute.ref_attr_name:
        raise ModelError(f"{label} refers to a function's attribute outside of any function")
    if kind == AttributeProto.INT:
        return int(attribute.i)
    if kind == AttributeProto.FLOAT:
        return float(attribute.f)
    if kind == AttributeProto.STRING:
        return _text(attribute.s, label)
    if kind == AttributeProto.TENSOR:
        return read(attribute.t, label)
    if kind == AttributeProto.INTS:
        return tuple(attribute.ints)
    if kind == AttributeProto.FLOATS:
        return tuple(attribute.floats)
    if kind == AttributeProto.STRINGS:
        return tuple(_text(item, label) for item in attribute.strings)
    name = AttributeProto.AttributeType.Name(kind).lower()
    raise ModelError(f"{label} is of kind {name}, which is not supported")


def _text(value: bytes, label: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ModelError(f"{label} is not UTF-8 text") from None


def _input_spec(value: ValueInfoProto) -> TensorSpec:
    spec = _spec(value)
    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelError(f"graph input {value.name!r} is not a tensor ({spec.dtype})")
    if value.type.tensor_type.elem_type not in TensorProto.DataType.values() or spec.dtype == "undefined":
        raise ModelError(f"graph input {value.name!r} has no element type")
    return spec


def _spec(value: ValueInfoProto) -> TensorSpec:
    """As declared. What is not a tensor gets its kind ("sequence", "map") for dtype."""
    which = value.type.WhichOneof("value")
    if which != "tensor_type":
        return TensorSpec(value.name, (which or "undefined").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    shape: tuple[Dimension, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(_dimension(dim) for dim in tensor.shape.dim)
    return TensorSpec(value.name, dtype_name(tensor.elem_type), shape)


def _dimension(dim: object) -> Dimension:
    value, name = dim.dim_value, dim.dim_param  # type: ignore[attr-defined]
    return int(value) if value > 0 else (name or None)
