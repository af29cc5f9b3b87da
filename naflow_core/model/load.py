"""From a path, bytes or ModelProto to a checked, normalised model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from naflow_core.errors import ModelError
from naflow_core.model import convert
from naflow_core.model.build import build_graph, name_nodes
from naflow_core.model.canonical import canonicalise, check_header, check_tensors
from naflow_core.model.floats import widen_model
from naflow_core.model.functions import inline_functions
from naflow_core.model.graph import Graph
from naflow_core.model.rewrite import cut_label_tails, removed_operators, rewrite
from naflow_core.model.source import (
    Limits,
    ModelSource,
    Source,
    guess_format,
    open_source,
    sha256,
    source_name,
)
from naflow_core.model.structure import sort_nodes
from naflow_core.model.tensors import TensorReader
from naflow_core.model.unfuse import FUSED
from naflow_core.model.wire import WireError, attach, detach

_DEFAULT_LIMITS = Limits()
_LOWEST_IR = 8
_MESSAGE_LENGTH = 500
_MESSAGE_LIMIT = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to be built into a program.

    Attributes:
        proto: the normalised model without any initializer; its tensor and node names are the graph's.
            Weights are held once, in `graph.constants`.
    """

    source: ModelSource
    proto: ModelProto
    graph: Graph

    def serialized_with_outputs(self, names: Iterable[str] = ()) -> bytes:
        """The normalised model with its weights as ONNX file bytes, for onnxruntime.

        Args:
            names: tensors to expose as graph outputs besides the model's own, in this order after them.

        Raises:
            ModelError: the result would be over protobuf's 2 GiB, or no tensor has such a name.
        """
        made = {name for node in self.graph.nodes for name in node.outputs if name}
        present = {spec.name for spec in self.graph.outputs}
        copy = ModelProto()
        copy.CopyFrom(self.proto)
        for name in names:
            if name not in made:
                raise ModelError(f"{self.source.name}: no node makes a tensor {name!r}")
            if name not in present:
                present.add(name)
                copy.graph.output.append(onnx.ValueInfoProto(name=name))
        size = copy.ByteSize() + sum(array.nbytes for array in self.graph.constants.values())
        if size > _MESSAGE_LIMIT:
            raise ModelError(f"{self.source.name}: {size} bytes do not fit into one ONNX file (2 GiB)")
        return attach(copy.SerializeToString(), self.graph.constants)


def read_model(source: Source, limits: Limits = _DEFAULT_LIMITS) -> LoadedModel:
    """Read, check and normalise a model.

    Normalised means: ai.onnx opset 18 or newer, float32 where the file has float16, bfloat16 or float64,
    model-local functions inlined, nodes sorted and uniquely named, recorded intermediate shapes dropped.
    Tensor names are those of the file; tensors that conversion adds get names of their own.

    Args:
        source: path of an .onnx file, the bytes of one, or a ModelProto (left unchanged). Only a path can
            have external data, which must lie inside the model's folder.

    Raises:
        ModelError: whatever is wrong with the file, in one line that starts with its name.
        UnsupportedOperatorError: an old model with operators that cannot be converted.
    """
    name = source_name(source)
    try:
        with open_source(source, limits) as (file, path, size):
            proto, graph = _load(file, path, size, limits)
            # Last, because what is refused should be refused at once however large it is.
            return LoadedModel(ModelSource(name, path, sha256(file), size), proto, graph)
    except ModelError as error:
        error.message, error.hint = _printable(f"{name}: {error.message}"), _printable(error.hint)
        error.args = (error.message,)
        raise


def _printable(message: str) -> str:
    """Names in a file can be long or hold control characters; a message should be neither."""
    clean = "".join(char if char.isprintable() else "?" for char in message)
    return clean if len(clean) <= _MESSAGE_LENGTH else clean[: _MESSAGE_LENGTH - 1] + "\u2026"


def _load(file: BinaryIO, path: Path | None, size: int, limits: Limits) -> tuple[ModelProto, Graph]:
    try:
        detached = detach(file, size, limits)
        model = ModelProto.FromString(detached.light)
    except (WireError, DecodeError) as error:
        raise _not_onnx(file, error) from None
    check_header(model)
    canonicalise(model)
    convert.check_opset(model)
    ir_version = model.ir_version
    model.ir_version = max(ir_version, _LOWEST_IR)
    original_opsets = {entry.domain: entry.version for entry in model.opset_import}
    cut_label_tails(model)
    reader = TensorReader(file, detached, path.parent if path else None, limits)
    constants = _take_constants(model, reader)
    check_tensors(model, reader.read)
    sort_nodes(model.graph, constants)
    name_nodes(model)
    rewrite(model, removed_operators(convert.ai_onnx_opset(model)), constants, reader.read)
    early = convert.set_aside(model)
    unknown = convert.unknown_operators(model)
    if model.functions:
        convert.refuse_unknown(model)
    if not unknown:  # the checker would refuse operators that a user may have registered
        convert.check_by_schema(model, constants)
    model = inline_functions(model, limits)
    name_nodes(model)
    widen_model(model, reader.read)
    model = convert.convert_opset(model, constants, reader.read)
    convert.put_back(model, early)
    rewrite(model, FUSED, constants, reader.read)
    sort_nodes(model.graph, constants)
    name_nodes(model)
    return model, build_graph(model, constants, reader.read, original_opsets, ir_version)


def _not_onnx(file: BinaryIO, error: Exception) -> ModelError:
    guess = guess_format(file)
    if guess:
        return ModelError(f"is not an ONNX file, it looks like {guess[0]}", hint=guess[1])
    return ModelError(
        f"is not an ONNX file, or cut off or damaged: {error}", hint="export or download it again"
    )


def _take_constants(model: ModelProto, reader: TensorReader) -> dict[str, np.ndarray]:
    """Read the initializers, and Constant nodes with large values, and take them out of the message."""
    graph = model.graph
    constants: dict[str, np.ndarray] = {}
    for tensor in graph.initializer:
        if not tensor.name:
            raise ModelError("has an initializer without a name")
        if tensor.name in constants:
            raise ModelError(f"has initializer {tensor.name!r} twice")
        constants[tensor.name] = reader.read(tensor, f"initializer {tensor.name!r}")
    inputs = [value for value in graph.input if value.name not in constants]
    for name, times in Counter(value.name for value in inputs).items():
        if not name or times > 1:
            raise ModelError(f"has graph input {name!r} twice" if name else "has an input without a name")
    nodes = []
    for node in graph.node:
        value = node.attribute[0] if node.op_type == "Constant" and len(node.attribute) == 1 else None
        if value is not None and value.name == "value" and reader.is_large(value.t):
            if len(node.output) != 1 or not node.output[0] or node.output[0] in constants:
                raise ModelError(f"Constant node {node.name!r} has no output of its own")
            constants[node.output[0]] = reader.read(value.t, f"constant {node.output[0]!r}")
        else:
            nodes.append(node)
    del graph.initializer[:], graph.input[:], graph.node[:]
    graph.input.extend(inputs)
    graph.node.extend(nodes)
    return constants
