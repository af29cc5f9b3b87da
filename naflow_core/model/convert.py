"""Old ai.onnx opsets converted to one that the operators are written for."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper, version_converter

from naflow_core.errors import ModelError, UnsupportedNode, UnsupportedOperatorError
from naflow_core.model.floats import ReadTensor
from naflow_core.model.structure import subgraphs
from naflow_core.model.wire import DETACH_BYTES

TARGET_OPSET = 18
OLDEST_OPSET = 7
NEWEST_OPSET = defs.onnx_opset_version()
ONNX_ERRORS = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    version_converter.ConvertError,
    DecodeError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    MemoryError,
)
"""What onnx's C++ tools raise: their own kinds, and pybind's for the C++ library's exceptions."""


def ai_onnx_opset(model: ModelProto) -> int:
    """The declared version of the default domain; 0 if it is not declared."""
    return max((entry.version for entry in model.opset_import if entry.domain == ""), default=0)


def check_opset(model: ModelProto) -> None:
    """Raises:
    ModelError: no ai.onnx opset is declared, or one outside OLDEST_OPSET..NEWEST_OPSET.
    """
    opset = ai_onnx_opset(model)
    if not opset:
        raise ModelError("declares no ai.onnx opset version", hint="export the model again")
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"uses ai.onnx opset {opset}, the oldest supported is {OLDEST_OPSET}",
            hint="export the model again with a newer opset",
        )
    if opset > NEWEST_OPSET:
        raise ModelError(
            f"uses ai.onnx opset {opset}, the newest supported is {NEWEST_OPSET}",
            hint="update the onnx package, or export with an older opset",
        )


_EARLY = frozenset({"LayerNormalization"})
"""Operators that ONNX Runtime's optimiser writes into ai.onnx whatever the model's opset."""
_ASIDE = "naflow.early"


def set_aside(model: ModelProto) -> bool:
    """Move such operators, where the opset has none yet, to a domain that onnx's tools leave alone."""
    opset, moved = ai_onnx_opset(model), False
    for node in model.graph.node:
        if node.domain == "" and node.op_type in _EARLY and not _exists(node.op_type, opset):
            node.domain, moved = _ASIDE, True
    if moved:
        model.opset_import.append(helper.make_opsetid(_ASIDE, 1))
    return moved


def put_back(model: ModelProto, moved: bool) -> None:
    """Undo `set_aside` at an opset that has them."""
    if not moved:
        return
    for node in model.graph.node:
        node.domain = "" if node.domain == _ASIDE else node.domain
    kept = [entry for entry in model.opset_import if entry.domain != _ASIDE]
    kept = [helper.make_opsetid(entry.domain, entry.version) for entry in kept]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def unknown_operators(model: ModelProto) -> list[UnsupportedNode]:
    """Nodes of the default domain that ONNX does not have at the model's opset."""
    opset = ai_onnx_opset(model)
    unknown = []
    for node in model.graph.node:
        if node.domain == "" and not _exists(node.op_type, opset):
            reason = f"ONNX has no operator ai.onnx:{node.op_type} at opset {opset}"
            unknown.append(UnsupportedNode(node.name or next(iter(node.output), ""), node.op_type, reason))
    return unknown


def refuse_unknown(model: ModelProto) -> None:
    """Refuse `unknown_operators`, which cannot be converted to another opset.

    Raises:
        UnsupportedOperatorError: there are some.
    """
    unknown = unknown_operators(model)
    if unknown:
        line = f'@nf.ops.register("{unknown[0].op_type}", domain="my.domain", since=1)'
        raise UnsupportedOperatorError(
            unknown,
            hint="state the opset that has it; or give its nodes a domain of their own, where "
            f"{line} would add it",
        )


def _exists(op_type: str, opset: int) -> bool:
    try:
        return not defs.get_schema(op_type, opset, "").deprecated
    except defs.SchemaError:
        return False


def check_by_schema(model: ModelProto, constants: Mapping[str, np.ndarray]) -> None:
    """onnx's own checker (arity, attribute names and types) over the model without its weights.

    Raises:
        ModelError: what the checker objects to, in one line.
    """
    checked = with_stand_ins(model, constants)
    _fill_gaps(checked.graph)
    try:
        onnx.checker.check_model(checked.SerializeToString())
    except ONNX_ERRORS as error:
        raise ModelError(f"is not valid ONNX: {plain_message(error)}") from None


def _fill_gaps(graph: GraphProto) -> None:
    """The checker insists on declared types and shapes, which runtimes do without, and ignores them."""
    for value in (*graph.input, *graph.output):
        if value.type.WhichOneof("value") in (None, "tensor_type"):
            value.type.tensor_type.elem_type = value.type.tensor_type.elem_type or TensorProto.FLOAT
            value.type.tensor_type.shape.SetInParent()
    for node in graph.node:
        for inner in subgraphs(node):
            inner.name = inner.name or "subgraph"
            _fill_gaps(inner)


def plain_message(error: Exception) -> str:
    """What onnx's C++ tools say without their source positions, led by the node it is about."""
    message = re.sub(r"\S+\.(cc|h):\d+: ", "", str(error))
    text, _, context = message.partition("==> Context")
    node = re.search(r"Name: (.*?) OpType: (\S*)", context, re.DOTALL)
    return f"node {node[1]!r} ({node[2]}): {text}" if node else text


def convert_opset(model: ModelProto, constants: Mapping[str, np.ndarray], read: ReadTensor) -> ModelProto:
    """The model at TARGET_OPSET if it is older, else unchanged. Initializers are not part of it before or
    after: `constants` stand in for them meanwhile, the large ones by type and shape only. A node that
    makes the first output of an old node also has its name.

    Raises:
        UnsupportedOperatorError: operators that the converter cannot know.
        ModelError: the conversion failed or would change the result.
    """
    if ai_onnx_opset(model) >= TARGET_OPSET:
        return model
    refuse_unknown(model)
    misconverted = _misconverted(model)
    if misconverted:
        raise UnsupportedOperatorError(misconverted)
    resized = _old_resizes(model, constants, read)
    named = {node.output[0]: node.name for node in model.graph.node if node.output}
    declared = [(entry.domain, entry.version) for entry in model.opset_import]
    outputs = [value.name for value in model.graph.output]
    try:
        converted = version_converter.convert_version(with_stand_ins(model, constants), TARGET_OPSET)
    except ONNX_ERRORS as error:
        raise ModelError(
            f"ai.onnx opset {ai_onnx_opset(model)} cannot be converted: {plain_message(error)}",
            hint=f"export the model again with opset {TARGET_OPSET} or newer",
        ) from None
    if [value.name for value in converted.graph.output] != outputs:
        raise ModelError(f"conversion to opset {TARGET_OPSET} lost an output of the graph")
    _restore_interface(converted, model, constants)
    _correct_resizes(converted, resized)
    for node in converted.graph.node:
        node.name = named.get(node.output[0], "") if node.output else ""
    del converted.opset_import[:]
    converted.opset_import.extend(
        helper.make_opsetid(domain, version if domain else TARGET_OPSET) for domain, version in declared
    )
    return converted


def with_stand_ins(model: ModelProto, constants: Mapping[str, np.ndarray]) -> ModelProto:
    """A copy in which small constants are initializers and large ones are inputs of their type and shape:
    onnx's tools copy what they are given several times, and need no large values."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for name, array in constants.items():
        if array.nbytes < DETACH_BYTES:
            copy.graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            copy.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    return copy


def _restore_interface(
    converted: ModelProto, original: ModelProto, constants: Mapping[str, np.ndarray]
) -> None:
    """Inputs and outputs as they were declared: without the stand-ins, and without the shapes that the
    converter infers. What it added as an initializer becomes a Constant node."""
    graph = converted.graph
    added = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in graph.initializer
        if tensor.name not in constants
    ]
    nodes = [*added, *graph.node]
    del graph.input[:], graph.output[:], graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.input.extend(original.graph.input)
    graph.output.extend(original.graph.output)
    graph.node.extend(nodes)


def _misconverted(model: ModelProto) -> list[UnsupportedNode]:
    """Old nodes whose meaning onnx's converter overlooks: before opset 13 Hardmax works on all axes from
    `axis` on together, before opset 9 Scan runs over batches."""
    opset = ai_onnx_opset(model)
    found = []
    for node in model.graph.node:
        if node.domain:
            continue
        last = any(attribute.name == "axis" and attribute.i == -1 for attribute in node.attribute)
        if node.op_type == "Hardmax" and opset < 13 and not last:
            reason = "Hardmax before opset 13 over more than the last axis has no exact counterpart"
        elif node.op_type == "Scan" and opset < 9:
            reason = "Scan before opset 9, which runs over batches, has no exact counterpart"
        else:
            continue
        found.append(UnsupportedNode(node.name, node.op_type, f"{reason} in newer opsets"))
    return found


def _old_resizes(model: ModelProto, constants: Mapping[str, np.ndarray], read: ReadTensor) -> dict[str, str]:
    """nearest_mode by output name for every Upsample and Resize from before opset 11.

    These sample at `x / scale`; onnx's converter leaves Resize-11's default, half pixels. For nearest,
    the standard does not say how to round; onnxruntime takes the floor when enlarging and the ceiling
    when shrinking.
    """
    if ai_onnx_opset(model) >= 11:
        return {}
    values = dict(constants)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            values[node.output[0]] = read(node.attribute[0].t, f"constant {node.output[0]!r}")
    found = {}
    for node in model.graph.node:
        if node.domain == "" and node.op_type in ("Upsample", "Resize") and node.output:
            found[node.output[0]] = _rounding(node, values)
    return found


def _rounding(node: NodeProto, values: Mapping[str, np.ndarray]) -> str:
    mode = b"nearest"
    for attribute in node.attribute:
        if attribute.name == "mode":
            mode = attribute.s
    if node.op_type == "Upsample" or mode != b"nearest":
        return "floor"
    scales = values.get(node.input[1]) if len(node.input) > 1 else None
    if scales is None or ((scales < 1).any() and (scales > 1).any()):
        why = "computed scales" if scales is None else "scales both above and below 1"
        reason = f"nearest Resize before opset 11 with {why} has no exact counterpart in newer opsets"
        raise UnsupportedOperatorError(
            [UnsupportedNode(node.name or node.output[0], node.op_type, reason)],
            hint="export the model again with opset 11 or newer",
        )
    return "ceil" if (scales < 1).any() else "floor"


def _correct_resizes(model: ModelProto, nearest_modes: Mapping[str, str]) -> None:
    for node in model.graph.node:
        if node.op_type != "Resize" or node.output[0] not in nearest_modes:
            continue
        kept = [
            attribute
            for attribute in node.attribute
            if attribute.name not in ("coordinate_transformation_mode", "nearest_mode")
        ]
        kept.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        kept.append(helper.make_attribute("nearest_mode", nearest_modes[node.output[0]]))
        del node.attribute[:]
        node.attribute.extend(kept)
