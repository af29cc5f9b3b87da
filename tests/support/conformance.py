"""One case of ONNX's backend test suite against the forward program.

The inputs of a case are fed as inputs first. Many cases feed what a network has as constants (shapes, axes,
pads, scales); the program wants those when it is built. So where a case is refused, all inputs but the first
become initializers, then all of them; the outcome says which it was. The same values as initializers also
go through the numpy half of every operator, whose results must be right too.

float16, bfloat16 and float64 models are computed in float32, and integers that depend on the input in int32
(quantised ones in float32), so results are compared by value, at the expected type's own precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto, numpy_helper

from naflow_core.errors import ModelError, UnsupportedNode, UnsupportedOperatorError
from naflow_core.model.inputs import device_value
from naflow_core.model.load import read_model
from naflow_core.model.program import Program, evaluate
from naflow_core.model.rewrite import REMOVED
from naflow_core.model.specialise import build_program
from naflow_core.model.unfold import UNFOLDED
from naflow_core.model.unfuse import FUSED
from naflow_core.ops import REGISTRY
from support.conformance_cases import ConformanceCase

Status = Literal["passed", "refused", "failed", "unsupported", "outside"]
_T = TensorProto
_PLAIN_TYPES = frozenset((_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE, _T.BOOL)) | frozenset(
    (_T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64)
)
_IN_FLOAT = frozenset(("ConvInteger", "MatMulInteger"))
_PRECISION = {"float16": 2.0**-9, "bfloat16": 2.0**-6}


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        status: "passed"; "refused" and "failed" (wrong values) by a supported operator; "unsupported" where
            the model has an operator that is not registered; "outside" where its types are not ours to take.
        reason: what was refused, wrong or missing.
        constants: how many inputs had to be constants for the case to pass.
    """

    status: Status
    reason: str = ""
    constants: int = 0


def run_case(case: ConformanceCase) -> Outcome:
    """Load, build and evaluate the case's model, with as few inputs as constants as it takes."""
    reason = outside(case)
    if reason:
        return Outcome("outside", reason)
    names = [n for n in case.inputs if n]
    levels = dict.fromkeys((0, max(len(names) - 1, 0), len(names)))
    refusal: Outcome | None = None
    for constants in levels:
        outcome = _attempt(case, names[len(names) - constants :])
        if outcome.status == "failed":
            return outcome
        if outcome.status == "passed":
            folded = _attempt(case, names, folded_only=True) if constants < len(names) else outcome
            return folded if folded.status == "failed" else outcome
        refusal = outcome  # the last one is about the operator, not about what is an input
    assert refusal is not None
    return refusal


def outside(case: ConformanceCase) -> str:
    """Why the case's types are not ours to take; "" where they are."""
    graph = case.model.graph
    for value in (*graph.input, *graph.output):
        reason = _odd_type(value.type)
        if reason:
            return reason
    for tensor in _tensors(graph):
        if tensor.data_type not in _PLAIN_TYPES:
            return f"{TensorProto.DataType.Name(tensor.data_type).lower()} tensors"
    return ""


def _odd_type(kind: TypeProto) -> str:
    which = str(kind.WhichOneof("value"))
    if which != "tensor_type":
        return f"{which.removesuffix('_type')} values"
    element = kind.tensor_type.elem_type
    return "" if element in _PLAIN_TYPES else f"{TensorProto.DataType.Name(element).lower()} tensors"


def _tensors(graph: GraphProto) -> list[TensorProto]:
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                found.append(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                found += _tensors(attribute.g)
    return found


def _attempt(case: ConformanceCase, constants: list[str], *, folded_only: bool = False) -> Outcome:
    model = _with_constants(case.model, {name: case.inputs[name] for name in constants})
    try:
        loaded = read_model(model)
    except UnsupportedOperatorError as error:
        return _unsupported(error.nodes, len(constants))
    except ModelError as error:
        missing = {n.op_type for n in case.model.graph.node if (n.domain, n.op_type) not in _registered()}
        if missing:
            return Outcome("unsupported", ", ".join(sorted(missing)), len(constants))
        return Outcome("refused", str(error), len(constants))
    feeds = {name: value for name, value in case.inputs.items() if name not in constants}
    shapes = {spec.name: feeds[spec.name].shape for spec in loaded.graph.inputs}
    program = build_program(loaded.graph, shapes)
    if program.unsupported:
        return _unsupported(program.unsupported, len(constants))
    if folded_only and program.steps:
        return Outcome("passed")  # compiled operators, which have run already
    found = _outputs(program, loaded.graph.constants, feeds)
    for name, expected in zip(program.outputs, case.outputs, strict=False):
        whole = case.operator in _IN_FLOAT or _small(expected)
        difference = compare(found[name], expected, case.rtol, case.atol, carried=whole)
        if difference:
            how = f" with {len(constants)} inputs as constants" if constants else ""
            return Outcome("failed", f"output {name!r}{how}: {difference}", len(constants))
    return Outcome("passed", constants=len(constants))


def _unsupported(nodes: tuple[UnsupportedNode, ...], constants: int) -> Outcome:
    known = {name for _, name in _registered()}
    missing = sorted({node.op_type for node in nodes} - known)
    if missing:
        return Outcome("unsupported", ", ".join(missing), constants)
    return Outcome("refused", f"{nodes[0].op_type}: {nodes[0].reason}", constants)


def _registered() -> set[tuple[str, str]]:
    """What is computed, or becomes something else while the model is loaded."""
    return {(domain, name) for domain, name, _ in REGISTRY.names()} | {*FUSED, *REMOVED, *UNFOLDED}


def _with_constants(model: ModelProto, values: Mapping[str, np.ndarray]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    inputs = [value for value in copy.graph.input if value.name not in values]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    copy.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in values.items())
    return copy


def _outputs(
    program: Program, weights: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Every graph output, wherever it comes from: the compiled steps, folding, a weight or an input."""
    values = {name: device_value(feeds[name]) for name in program.inputs}
    found: dict[str, Any] = {}
    computed = [name for name in dict.fromkeys(program.outputs) if name in program.producer]
    if computed:
        source = next(iter(program.inputs), "")
        subprogram, operands = program.extract(source, computed, whole=True)
        x = values[source] if source else np.zeros((), np.float32)
        found.update(zip(computed, evaluate(subprogram, x, program.operands(operands, values)), strict=True))
    for name in program.outputs:
        for store in (program.known, weights, values):
            if name not in found and name in store:
                found[name] = store[name]
    return found


def _small(expected: np.ndarray) -> bool:
    return _kind(expected.dtype) == "integer" and expected.dtype.itemsize <= 2


def compare(found: Any, expected: np.ndarray, rtol: float, atol: float, *, carried: bool = False) -> str:
    """What differs, in one line; "" where the values agree.

    Args:
        carried: integers may come in float32, with the same values.
    """
    ours = np.asarray(found)
    if ours.shape != expected.shape:
        return f"shape {ours.shape} instead of {expected.shape}"
    kinds = {_kind(ours.dtype), _kind(expected.dtype)}
    if len(kinds) > 1 and not (carried and kinds == {"integer", "float"}):
        return f"{ours.dtype} instead of {expected.dtype}"
    rtol = max(rtol, _PRECISION.get(expected.dtype.name, 0.0))
    a, b = ours.astype(np.float64), expected.astype(np.float64)
    if kinds != {"float"}:
        rtol, atol = 0.0, 0.0
    with np.errstate(all="ignore"):
        wrong = ~np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return ""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{int(wrong.sum())} of {wrong.size} elements, {a[place]} instead of {b[place]} at {place}"


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype == np.bool_:
        return "bool"
    return "integer" if np.issubdtype(dtype, np.integer) else "float"


def release_programs() -> None:
    """Drop the compiled programs of the cases so far: two thousand of them take memory."""
    jax.clear_caches()
