"""float16, bfloat16 and float64 models become float32 models, in every place where a type is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, numpy_helper

from naflow_core.model.structure import describe, subgraphs
from naflow_core.model.tensors import WIDENED

_TYPE_ATTRIBUTES = frozenset(
    ("to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision")
)
"""Integer attributes of ONNX operators that hold an element type."""

ReadTensor = Callable[[TensorProto, str], np.ndarray]


def widen_model(model: onnx.ModelProto, read: ReadTensor) -> None:
    """Rewrite types and small tensors of the whole graph in place; initializers of the main graph are the
    caller's."""
    widen_graph(model.graph, read)


def widen_graph(graph: GraphProto, read: ReadTensor) -> None:
    """The same for one graph and the subgraphs of its nodes."""
    for value in (*graph.input, *graph.output):
        _widen_type(value.type)
    for tensor in graph.initializer:
        _widen_tensor(tensor, read, f"initializer {tensor.name!r}")
    for node in graph.node:
        _widen_node(node, read)
        for inner in subgraphs(node):
            del inner.value_info[:]
            widen_graph(inner, read)


def _widen_node(node: NodeProto, read: ReadTensor) -> None:
    for attribute in node.attribute:
        label = f"attribute {attribute.name!r} of {describe(node)}"
        if attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES:
            if attribute.i in WIDENED:
                attribute.i = TensorProto.FLOAT
        elif attribute.type == AttributeProto.TENSOR:
            _widen_tensor(attribute.t, read, label)
        elif attribute.type == AttributeProto.TENSORS:
            for tensor in attribute.tensors:
                _widen_tensor(tensor, read, label)
        elif attribute.type == AttributeProto.TYPE_PROTO:
            _widen_type(attribute.tp)


def _widen_tensor(tensor: TensorProto, read: ReadTensor, label: str) -> None:
    if tensor.data_type in WIDENED:
        tensor.CopyFrom(numpy_helper.from_array(read(tensor, label), tensor.name))


def _widen_type(kind: TypeProto) -> None:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        holder = getattr(kind, which)
        if holder.elem_type in WIDENED:
            holder.elem_type = TensorProto.FLOAT
    elif which in ("sequence_type", "optional_type"):
        _widen_type(getattr(kind, which).elem_type)
    elif which == "map_type":
        _widen_type(kind.map_type.value_type)
