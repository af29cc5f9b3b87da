"""Our forward pass against onnxruntime, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from naflow_core.errors import ModelError, UnsupportedOperatorError
from naflow_core.model.graph import TensorSpec
from naflow_core.model.inputs import input_dtype
from naflow_core.model.load import LoadedModel
from naflow_core.model.program import Known, Program, Step, evaluate, thawed

QUANTISED_ALLOWANCE = 1e-3
ROUNDING = 16 * float(np.finfo(np.float32).eps)
"""What rounding may do to a node's result, as a share of what it is made of."""
DRAWS, SIGNS = 3, np.array([-1, 1], np.float32)


@dataclass(frozen=True, slots=True)
class TensorComparison:
    """One tensor: largest absolute difference, and that relative to the largest reference value.

    `off_by_more_than_one` is the share of elements that differ by more than one quantisation step; None for
    tensors that are not quantised. Where `only_rounding`, the reference is nothing but what rounding left of
    terms that cancel, and the relative error is that in units of those terms.
    """

    tensor: str
    node: str
    max_abs_error: float
    max_rel_error: float
    off_by_more_than_one: float | None
    only_rounding: bool = False

    def within(self, tolerance: float) -> bool:
        """By relative error; a quantised tensor by the share of its elements off by more than a step."""
        if self.off_by_more_than_one is not None:
            return self.off_by_more_than_one <= QUANTISED_ALLOWANCE
        return self.max_rel_error <= tolerance


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of `Model.verify`."""

    tolerance: float
    tensors: tuple[TensorComparison, ...]

    @property
    def ok(self) -> bool:
        """True when every tensor is within the tolerance."""
        return all(t.within(self.tolerance) for t in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `naflow verify --json` prints them."""
        return {
            "ok": self.ok,
            "tolerance": self.tolerance,
            "max_rel_error": max((t.max_rel_error for t in self.tensors), default=0.0),
            "quantised_allowance": QUANTISED_ALLOWANCE,
            "tensors": [
                {
                    "tensor": t.tensor,
                    "node": t.node,
                    "max_abs_error": t.max_abs_error,
                    "max_rel_error": t.max_rel_error,
                    "off_by_more_than_one": t.off_by_more_than_one,
                    "only_rounding": t.only_rounding,
                    "ok": t.within(self.tolerance),
                }
                for t in self.tensors
            ],
        }


def run_onnxruntime(
    model: LoadedModel, inputs: Mapping[str, np.ndarray], names: Sequence[str]
) -> list[np.ndarray]:
    """The named tensors as onnxruntime computes them on the CPU, graph optimisations off.

    Raises:
        ModelError: onnxruntime refuses the model or the input.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    try:
        session = onnxruntime.InferenceSession(
            model.serialized_with_outputs(names), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(list(names), dict(inputs)))
    except Exception as error:  # onnxruntime has no common base for its errors
        if isinstance(error, ModelError):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{model.source.name}: onnxruntime cannot run the model: {lines[0]}") from error


def compare(
    tensor: str, node: str, ours: np.ndarray, reference: np.ndarray, *, step: float | None
) -> TensorComparison:
    """Compare one tensor; `step` is its quantisation step, None for plain float tensors."""
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    if a.shape != b.shape:
        return TensorComparison(tensor, node, float("inf"), float("inf"), None)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.where(same, 0.0, np.abs(np.where(same, 0.0, a) - np.where(same, 0.0, b)))
    difference = np.where(np.isnan(difference), np.inf, difference)
    largest = float(difference.max(initial=0.0))
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max(initial=0.0))
    relative = 0.0 if largest == 0 else largest / scale if scale > 0 else float("inf")
    off = None if step is None else float(np.mean(difference > 1.5 * step)) if a.size else 0.0
    return TensorComparison(tensor, node, largest, relative, off)


def verify_program(
    model: LoadedModel,
    program: Program,
    feeds: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    tolerance: float,
) -> Verification:
    """Compare every tensor that a node makes with onnxruntime, folded constants included.

    Args:
        feeds: inputs as onnxruntime takes them.
        values: the same on the device, as the program takes them.

    Raises:
        UnsupportedOperatorError: a node cannot be computed.
        ModelError: onnxruntime refuses the model.
    """
    if program.unsupported:
        raise UnsupportedOperatorError(program.unsupported)
    nodes = {name: node.name for node in model.graph.nodes for name in node.outputs}
    # inside a branch or loop body onnxruntime shows no tensors
    names = [name for step in program.steps for name in step.outputs if name in nodes]
    source = next(iter(program.inputs))
    subprogram, operands = program.extract(source, names, whole=True)
    ours = evaluate(subprogram, values[source], program.operands(operands, values))
    folded = {name: value for name, value in program.known.items() if name in nodes}
    computed = [*ours, *folded.values()]
    names += folded
    reference = run_onnxruntime(model, feeds, names)
    steps = quantisation_steps(program)
    comparisons = {
        name: compare(name, nodes[name], np.asarray(a), b, step=steps.get(name))
        for name, a, b in zip(names, computed, reference, strict=True)
    }
    known = {**program.constants, **values}
    sides = (
        known | dict(zip(names, computed, strict=True)),
        known | dict(zip(names, reference, strict=True)),
    )
    for step in program.steps:  # in order: a node may pass on what rounding left of its inputs
        for i, name in enumerate(step.outputs):
            found = comparisons.get(name)
            if found is not None and found.off_by_more_than_one is None and not found.within(tolerance):
                comparisons[name] = _but_for_rounding(found, step, i, sides, comparisons, tolerance)
    return Verification(tolerance, tuple(comparisons.values()))


def _but_for_rounding(
    found: TensorComparison,
    step: Step,
    output: int,
    sides: tuple[Mapping[str, Any], Mapping[str, Any]],
    others: Mapping[str, TensorComparison],
    tolerance: float,
) -> TensorComparison:
    """The comparison of a tensor that differs, excused where all that differs is rounding.

    That is so where the difference is at the size of rounding errors of what the node adds up, which cancels
    (x - mean(x) of a constant x is 0 but for rounding); or where an input is such a tensor, and the node
    gives onnxruntime's result for onnxruntime's inputs.

    Args:
        sides: every value by tensor name, ours and onnxruntime's.
    """
    ours, reference = sides
    names = [name for name in step.sources if isinstance(name, str)]
    if not np.isfinite(found.max_abs_error) or any(n not in ours or n not in reference for n in names):
        return found
    terms = _size_of_terms(step, output, reference)
    if found.max_abs_error <= ROUNDING * terms:
        return replace(found, max_rel_error=found.max_abs_error / terms, only_rounding=True)
    if any(name in others and others[name].only_rounding for name in names):
        again = np.asarray(_apply(step, output, reference))
        alone = compare(found.tensor, found.node, again, reference[found.tensor], step=None)
        if alone.within(tolerance) or alone.max_abs_error <= ROUNDING * terms:
            largest = min(alone.max_rel_error, alone.max_abs_error / terms if terms else np.inf)
            return replace(found, max_rel_error=largest, only_rounding=True)
    return found


def _apply(step: Step, output: int, values: Mapping[str, Any]) -> Any:
    """One output of a node."""
    inputs = [
        jnp.asarray(values[s]) if isinstance(s, str) else s.value if isinstance(s, Known) else None
        for s in step.sources
    ]
    results = step.operator.function(*inputs, **thawed(step.attributes))
    return results[output] if isinstance(results, tuple) else results


def _size_of_terms(step: Step, output: int, values: Mapping[str, Any]) -> float:
    """How large the terms are that a node's output is the sum of: what it would change by if each input
    value changed by its own size, with signs drawn at random so that nothing cancels. 0 where the node has
    no derivative."""
    moved = {
        name: jnp.asarray(values[name], jnp.float32)
        for name in step.sources
        if isinstance(name, str) and np.asarray(values[name]).dtype.kind == "f"
    }

    def result(given: dict[str, Any]) -> Any:
        return _apply(step, output, {**values, **given})

    generator, largest = np.random.default_rng(0), 0.0
    for _ in range(DRAWS):
        change = {n: v * generator.choice(SIGNS, v.shape) for n, v in moved.items()}
        try:
            moves = jax.jvp(result, (moved,), (change,))[1]
        except (TypeError, ValueError, NotImplementedError):  # a registered operator may have none
            return 0.0
        if moves.dtype.kind == "f":
            largest = max(largest, float(jnp.max(jnp.abs(moves), initial=0.0)))
    return largest if np.isfinite(largest) else 0.0


def random_inputs(
    specs: Iterable[TensorSpec], shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, np.ndarray]:
    """Seeded noise: standard normal for float inputs, uniform over the type's range for small integers."""
    generator = np.random.default_rng(seed)
    inputs = {}
    for spec in specs:
        if spec.dtype in {"float", "float16", "double", "bfloat16"}:
            inputs[spec.name] = generator.standard_normal(shapes[spec.name]).astype(np.float32)
        else:
            kind = input_dtype(spec)
            high = 2 if kind.kind == "b" else 128 if kind == np.int8 else 256
            inputs[spec.name] = generator.integers(0, high, shapes[spec.name]).astype(kind)
    return inputs


def quantisation_steps(program: Program) -> dict[str, float]:
    """For tensors of a quantised graph, the step to measure them by.

    That is 1 for the quantised integers, else the scale of the QuantizeLinear that follows, else that of the
    DequantizeLinear before.
    """
    found: dict[str, float] = {}
    for i, step in enumerate(program.steps):
        before = [found[s] for s in step.sources if isinstance(s, str) and s in found]
        if step.node.op_type == "QuantizeLinear":
            found[step.outputs[0]] = 1.0
        elif step.node.op_type == "DequantizeLinear":
            found[step.outputs[0]] = _scale(program, i)
        elif before:
            found.update((name, max(before)) for name in step.outputs if name)
    for i, step in reversed(list(enumerate(program.steps))):
        if step.node.op_type == "DequantizeLinear":
            continue
        if step.node.op_type == "QuantizeLinear":
            following = [_scale(program, i)]
        else:
            following = [found[name] for name in step.outputs if name in found]
        for name in step.sources:
            if following and name in found and not _is_dequantised(program, name):
                found[str(name)] = max(following)
    return found


def _scale(program: Program, position: int) -> float:
    source = program.steps[position].sources[1]
    value = program.constants[source] if isinstance(source, str) else source.value if source else 1.0
    return float(np.max(value))


def _is_dequantised(program: Program, name: object) -> bool:
    made_by = program.producer.get(name) if isinstance(name, str) else None
    return made_by is not None and program.steps[made_by].node.op_type == "DequantizeLinear"
