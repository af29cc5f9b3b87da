"""Model-local functions: checked for recursion and size, then inlined."""

from __future__ import annotations

import onnx
from onnx import inliner

from naflow_core.errors import ModelError
from naflow_core.model.convert import ONNX_ERRORS, plain_message
from naflow_core.model.source import Limits
from naflow_core.model.structure import all_nodes, describe

_Key = tuple[str, str, str]


def inline_functions(model: onnx.ModelProto, limits: Limits) -> onnx.ModelProto:
    """The model, already checked by onnx, with every call of a model-local function replaced by the
    function's nodes.

    Raises:
        ModelError: a function defined twice or calling itself, too many nodes, or a call that cannot be
            inlined.
    """
    functions: dict[_Key, onnx.FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise ModelError(f"function {_title(key)} is defined twice")
        functions[key] = function
    _check_expansion(model, functions, limits)
    if not functions:
        return model
    # onnx's checker has made sure that the operators of a function mean the same at the model's opsets.
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for function in model.functions:
        for entry in function.opset_import:
            entry.version = versions.get(entry.domain, entry.version)
    try:
        inlined = inliner.inline_local_functions(model)
    except ONNX_ERRORS as error:
        raise ModelError(f"the model's local functions cannot be inlined: {plain_message(error)}") from None
    for node in all_nodes(inlined.graph.node):
        if _key(node) in functions:
            raise ModelError(
                f"{describe(node)} calls a local function that cannot be inlined",
                hint="export the model without local functions",
            )
    del inlined.functions[:]
    return inlined


def _check_expansion(
    model: onnx.ModelProto, functions: dict[_Key, onnx.FunctionProto], limits: Limits
) -> None:
    """Count the nodes before making them: functions that call functions can double at every level."""
    sizes: dict[_Key, int] = {}
    for key in functions:
        _expanded_size(key, functions, sizes, [])
    total = sum(sizes.get(_key(node), 1) for node in all_nodes(model.graph.node))
    if total > limits.nodes:
        raise ModelError(
            f"the graph has {total} nodes, the limit is {limits.nodes}", hint="raise Limits.nodes"
        )


def _expanded_size(
    key: _Key, functions: dict[_Key, onnx.FunctionProto], sizes: dict[_Key, int], path: list[_Key]
) -> int:
    if key in path:
        raise ModelError(f"function {_title(key)} calls itself")
    if len(path) > 100:
        raise ModelError(f"function {_title(key)} is nested more than 100 levels deep")
    if key not in sizes:
        callees = map(_key, all_nodes(functions[key].node))
        sizes[key] = sum(
            _expanded_size(callee, functions, sizes, [*path, key]) if callee in functions else 1
            for callee in callees
        )
    return sizes[key]


def _key(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _title(key: _Key) -> str:
    return f"{key[0] or 'ai.onnx'}:{key[1]}"
