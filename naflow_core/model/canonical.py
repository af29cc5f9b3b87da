"""One spelling for everything that ONNX files may write in several ways, and what no valid file has."""

from __future__ import annotations

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper

from naflow_core.errors import ModelError
from naflow_core.model.floats import ReadTensor
from naflow_core.model.structure import all_nodes, describe, subgraphs, used_domains


def check_header(model: ModelProto) -> None:
    """Raise ModelError for a message that is not a whole model, or one from a newer ONNX."""
    if not model.HasField("graph"):
        raise ModelError("holds no graph", hint="is it really an ONNX model?")
    _check_text(model)
    if not model.graph.node:
        raise ModelError("has a graph without nodes")
    if not model.graph.output:
        raise ModelError("has a graph without outputs")
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"uses ONNX IR version {model.ir_version}, the newest supported is {onnx.IR_VERSION}",
            hint="update the onnx package, or export with an older version",
        )
    if model.graph.sparse_initializer:
        raise ModelError("has sparse initializers, which are not supported", hint="store them densely")


def canonicalise(model: ModelProto) -> None:
    """One spelling of the default domain, one declaration per domain, nothing that later steps ignore."""
    declared: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        declared[domain] = max(entry.version, declared.get(domain, 0))
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for body in bodies:
        for node in all_nodes(body):
            if node.domain == "ai.onnx":
                node.domain = ""
            _infer_attribute_types(node)
    for function in model.functions:
        for entry in function.opset_import:
            if entry.domain == "ai.onnx":
                entry.domain = ""
            if entry.domain:
                declared.setdefault(entry.domain, entry.version)
    # A domain that is used but not declared is left to the operator lookup, which names the node.
    for domain in sorted(used_domains(model) - set(declared) - {""}):
        declared[domain] = 1
    del model.opset_import[:], model.graph.value_info[:], model.graph.quantization_annotation[:]
    del model.training_info[:]
    model.opset_import.extend(helper.make_opsetid(*item) for item in declared.items())
    model.graph.name = model.graph.name or "graph"


def check_tensors(model: ModelProto, read: ReadTensor) -> None:
    """Read every tensor that sits in an attribute or in a subgraph once, so that what later steps and
    onnx's C++ tools are given has data that fits its dims.

    Raises:
        ModelError: as `TensorReader.read`, or a sparse tensor.
    """
    for body in (model.graph.node, *(function.node for function in model.functions)):
        for node in all_nodes(body):
            for attribute in node.attribute:
                label = f"attribute {attribute.name!r} of {describe(node)}"
                if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                    raise ModelError(f"{label} is a sparse tensor, which is not supported")
                for tensor in (attribute.t, *attribute.tensors):
                    if tensor.data_type or attribute.type == AttributeProto.TENSOR:
                        read(tensor, label)
            for graph in subgraphs(node):
                _check_subgraph(graph, read)


def _check_subgraph(graph: GraphProto, read: ReadTensor) -> None:
    if graph.sparse_initializer:
        raise ModelError(f"subgraph {graph.name!r} has sparse initializers, which are not supported")
    for tensor in graph.initializer:
        read(tensor, f"initializer {tensor.name!r}")


def _check_text(message: Message) -> None:
    """protobuf hands out bytes instead of text where a string field is not UTF-8."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                _check_text(inner)
        elif field.type == FieldDescriptor.TYPE_STRING:
            for text in value if field.is_repeated else (value,):
                if not isinstance(text, str):
                    raise ModelError(f"has a damaged {field.name} that is not UTF-8 text: {text[:40]!r}")


def _infer_attribute_types(node: NodeProto) -> None:
    """Fill in the type tag that files from before IR version 2 leave out.

    Raises:
        ModelError: an attribute without a value, or with a type that its value does not have.
    """
    for attribute in node.attribute:
        filled = [
            kind
            for field, kind in _VALUE_FIELDS.items()
            if (attribute.HasField(field) if field in _SINGLE else len(getattr(attribute, field)))
        ]
        if attribute.ref_attr_name:
            continue
        if attribute.type == AttributeProto.UNDEFINED and len(filled) == 1:
            attribute.type = filled[0]
        elif attribute.type == AttributeProto.UNDEFINED:
            label = f"attribute {attribute.name!r} of {describe(node)}"
            raise ModelError(f"{label} has no type and no single value")


_VALUE_FIELDS: dict[str, AttributeProto.AttributeType] = {
    "f": AttributeProto.FLOAT,
    "i": AttributeProto.INT,
    "s": AttributeProto.STRING,
    "t": AttributeProto.TENSOR,
    "g": AttributeProto.GRAPH,
    "floats": AttributeProto.FLOATS,
    "ints": AttributeProto.INTS,
    "strings": AttributeProto.STRINGS,
    "tensors": AttributeProto.TENSORS,
    "graphs": AttributeProto.GRAPHS,
}
_SINGLE = frozenset("fistg")
