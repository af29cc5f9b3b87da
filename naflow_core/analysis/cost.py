"""What a segment costs, estimated from shapes before anything runs.

Work is counted in multiply-adds of one application of the Jacobian J: a convolution or matrix product has
one for every output element and weight that it sees, pooling one for every cell of a window, anything else
one for every output element, and what only moves values none. J^T costs the same. A least-squares solve
applies both in every iteration, an exact rule about once.

Memory is what one picture or batch needs beside weights and forward activations: what the linearisation keeps
of every node that is not linear, the solver's vectors, the intermediate values of one application, and what
the most demanding convolution is transformed to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from naflow_core.analysis.plan import Segment
from naflow_core.model.program import Known, Program, Step, thawed
from naflow_core.ops.conv import transformed_numbers

TYPICAL_ITERATIONS = 30
"""Of a least-squares solve with the default options; networks differ by a factor of three or so."""
FLOAT_BYTES = 4
INPUT_VECTORS, OUTPUT_VECTORS = 6, 5
"""Copies of a segment's input and output that the bounded solver holds at a time."""
MOVING = frozenset(
    {"Identity", "Dropout", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
    | {"Slice", "Split", "Concat", "Pad", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"}
)
WINDOWED = frozenset({"MaxPool", "AveragePool", "LpPool"})
LINEAR = (
    MOVING
    | {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "AveragePool", "GlobalAveragePool"}
    | {"Add", "Sub", "Neg", "Sum", "Mean", "ReduceMean", "ReduceSum", "Resize"}
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimates for one segment or a whole cascade.

    Attributes:
        application: multiply-adds of one application of J.
        solve: multiply-adds of the inverse, a solve taken as TYPICAL_ITERATIONS iterations.
        memory: bytes that the inverse needs beside weights and forward activations.
    """

    application: int
    solve: int
    memory: int

    def to_dict(self) -> dict[str, int]:
        """As `naflow inspect --json` prints it."""
        return {
            "jacobian_multiply_adds": self.application,
            "solve_multiply_adds": self.solve,
            "memory_bytes": self.memory,
        }


def segment_cost(program: Program, segment: Segment) -> Cost:
    """Cost of inverting one segment at the program's shapes (all pictures of its batch)."""
    application = sum(multiply_adds(program, step) for step in segment.steps)
    solved = segment.rule.function is None
    times = 2 * TYPICAL_ITERATIONS if solved else 1
    ends = _elements(program, segment.source), _elements(program, segment.target)
    vectors = INPUT_VECTORS * ends[0] + OUTPUT_VECTORS * ends[1] if solved else sum(ends)
    floats = _kept(program, segment.steps) + vectors + _live(program, segment)
    if solved:
        floats += max((_transformed(program, step) for step in segment.steps), default=0)
    memory = FLOAT_BYTES * floats
    return Cost(application, times * application, memory)


def total_cost(costs: Iterable[Cost]) -> Cost:
    """Of segments one after the other: the work adds up, the memory is that of the hungriest."""
    costs = tuple(costs)
    return Cost(
        sum(cost.application for cost in costs),
        sum(cost.solve for cost in costs),
        max((cost.memory for cost in costs), default=0),
    )


def multiply_adds(program: Program, step: Step) -> int:
    """Of one application of a node's Jacobian to the inputs that depend on the model's input."""
    kind, out = step.node.op_type, _elements(program, step.outputs[0])
    shapes = [_shape(program, source) for source in step.sources]
    attributes: dict[str, Any] = thawed(step.attributes)
    if kind in MOVING:
        return 0
    if kind == "Conv":
        return out * math.prod(shapes[1][1:])
    if kind == "ConvTranspose":
        return math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if kind == "Gemm":
        return out * shapes[0][0 if attributes.get("transA", 0) else 1]
    if kind == "MatMul":
        return out * shapes[0][-1] * _moving_inputs(program, step)
    if kind == "Einsum":
        return _einsum(str(attributes["equation"]), shapes) * _moving_inputs(program, step)
    if kind in WINDOWED:
        return out * math.prod(attributes["kernel_shape"])
    if kind == "LRN":
        return out * int(attributes["size"])
    return max(out, *(math.prod(shape) for shape in shapes)) * max(1, _moving_inputs(program, step))


def _moving_inputs(program: Program, step: Step) -> int:
    return sum(isinstance(source, str) and program.is_dynamic(source) for source in step.sources)


def _einsum(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """Product of the sizes of all indices; those under an ellipsis are counted with the longest operand."""
    sizes: dict[str, int] = {}
    hidden = 1
    for term, shape in zip(equation.replace(" ", "").split("->")[0].split(","), shapes, strict=False):
        before, dots, after = term.partition("...")
        named = [*zip(before, shape, strict=False), *zip(reversed(after), reversed(shape), strict=False)]
        sizes.update(named)
        if dots:
            hidden = max(hidden, math.prod(shape[len(before) : len(shape) - len(after)]))
    return hidden * math.prod(sizes.values())


def _kept(program: Program, steps: Iterable[Step]) -> int:
    """Elements that the linearisation keeps: the slope of each node that is not linear, and what a product
    of two moving tensors multiplies each of them with."""
    kept = 0
    for step in steps:
        moving = [s for s in step.sources if isinstance(s, str) and program.is_dynamic(s)]
        linear = step.node.op_type in LINEAR and (
            step.node.op_type not in ("MatMul", "Gemm", "Conv") or len(moving) == 1
        )
        if step.node.op_type in ("Mul", "Div", "MatMul") and not linear:
            kept += sum(_elements(program, name) for name in moving)
        elif not linear:
            kept += _elements(program, step.outputs[0])
    return kept


def _transformed(program: Program, step: Step) -> int:
    """Elements that a convolution in a solve is transformed to."""
    if step.node.op_type != "Conv":
        return 0
    x, w = (_shape(program, source) for source in step.sources[:2])
    return transformed_numbers(x, w, **thawed(step.attributes))


def _live(program: Program, segment: Segment) -> int:
    """Largest number of elements that are alive at a time while J is applied node by node."""
    last = {s: i for i, step in enumerate(segment.steps) for s in step.sources if isinstance(s, str)}
    alive: dict[str, int] = {segment.source: _elements(program, segment.source)}
    most = 0
    for i, step in enumerate(segment.steps):
        alive.update((name, _elements(program, name)) for name in step.outputs if name)
        most = max(most, sum(alive.values()))
        alive = {name: n for name, n in alive.items() if last.get(name, -1) > i}
    return most


def _elements(program: Program, name: str) -> int:
    return math.prod(program.shapes[name])


def _shape(program: Program, source: str | Known | None) -> tuple[int, ...]:
    if source is None:
        return ()
    if isinstance(source, Known):
        return source.value.shape
    return program.shapes[source] if program.is_dynamic(source) else program.constants[source].shape
