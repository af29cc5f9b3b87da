"""Heads that end in an embedding: pooling with a power (GeM), and outputs that the graph normalises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naflow_core.model.program import Program, Step

MEANS = frozenset({"GlobalAveragePool", "AveragePool", "ReduceMean"})
POOLS = MEANS | {"GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceSum", "LpPool", "GlobalLpPool"}
FLOORS = frozenset({"Clip", "Max"})
LENGTHS = frozenset({"ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceSum", "ReduceMax", "LpNormalization"})
LENGTH_PARTS = LENGTHS | frozenset(
    {"Abs", "Add", "Cast", "Clip", "Expand", "Identity", "Max", "Mul", "Pow", "Reciprocal", "Reshape"}
    | {"Sqrt", "Squeeze", "Unsqueeze", "Shape", "Div"}
)
RENAMING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


ENDINGS = frozenset({"BatchNormalization", "Relu", "PRelu", "LeakyRelu", "Tanh"})


@dataclass(frozen=True, slots=True)
class HeadDescription:
    """What lies between the top feature map and the explained output.

    Attributes:
        kind: "class scores" (a closing softmax or sigmoid), "embedding" (unit length, GeM pooling, or a
            closing BatchNormalization or activation), "local descriptors" (a feature map), or "class scores
            or embedding" where the graph does not tell.
        pooling: "GeM", the op type of the pooling node, "Flatten", or "none".
        unit_length: the graph normalises its output itself.
        steps: op types from the top feature map to the output.
        top_feature_map: for similarity targets.
        shape: of one embedding.
    """

    kind: str
    pooling: str
    unit_length: bool
    steps: tuple[str, ...]
    top_feature_map: str
    shape: tuple[int, ...]


def describe_head(
    program: Program, output: str, top: str, *, squashed: bool, is_feature_map: bool
) -> HeadDescription:
    """What kind of head leads from `top` to `output`.

    Args:
        squashed: a softmax or sigmoid closes it.
        is_feature_map: the output has spatial axes.
    """
    steps = [program.steps[i] for i in program.between(top, (output,))]
    kinds = tuple(step.node.op_type for step in steps)
    unit = bool(normalised(program, output))
    gem = any(
        kind == "Pow" and _pools_powers(program, step.outputs[0])
        for kind, step in zip(kinds, steps, strict=True)
    )
    gem = gem or bool({"LpPool", "GlobalLpPool"} & set(kinds))
    closing = next((kind for kind in reversed(kinds) if kind not in RENAMING), "")
    if is_feature_map:
        kind, pooling = "local descriptors", "none"
    else:
        pools = [name for name in kinds if name in POOLS]
        pooling = "GeM" if gem else pools[0] if pools else "Flatten"
        kind = "class scores or embedding"
        if squashed:
            kind = "class scores"
        elif unit or gem or closing in ENDINGS:
            kind = "embedding"
    return HeadDescription(kind, pooling, unit, kinds, top, program.shape_of_one(output))


def step_making(program: Program, name: str) -> Step | None:
    """The step that makes a tensor, None for inputs and weights."""
    return program.steps[program.producer[name]] if name in program.producer else None


def before_embedding(program: Program, top: str, spatial: Sequence[str]) -> str:
    """The top feature map without what belongs to the embedding: a normalisation of local descriptors, or the
    power (and the floor under it) of GeM pooling."""
    raw = normalised(program, top)
    if raw in spatial:
        return raw
    step = step_making(program, top)
    if step is None or step.node.op_type != "Pow" or not _pools_powers(program, top):
        return top
    before = step.sources[0]
    if not isinstance(before, str) or before not in spatial:
        return top
    floor = step_making(program, before)
    if floor is not None and floor.node.op_type in FLOORS and program.ranges.get(before, (0.0, 0.0))[0] > 0:
        floored = [s for s in floor.sources if isinstance(s, str) and s in spatial]
        return floored[0] if len(floored) == 1 else before
    return before


def _pools_powers(program: Program, name: str) -> bool:
    """Whether a tensor is only read by means, with a power (a root) behind them."""
    readers = [program.steps[i] for i in program.consumers.get(name, ())]
    if not readers or any(step.node.op_type not in MEANS for step in readers):
        return False
    for step in readers:
        behind = step.outputs[0]
        following = [program.steps[i] for i in program.consumers.get(behind, ())]
        while len(following) == 1 and following[0].node.op_type in RENAMING:
            behind = following[0].outputs[0]
            following = [program.steps[i] for i in program.consumers.get(behind, ())]
        if [step.node.op_type for step in following] not in (["Pow"], ["Sqrt"]):
            return False
    return True


def normalised(program: Program, name: str) -> str:
    """The tensor that `name` is at unit length: x of x / norm(x). "" where it is nothing of the kind."""
    step = step_making(program, name)
    while step is not None and step.node.op_type in RENAMING and isinstance(step.sources[0], str):
        step = step_making(program, step.sources[0])
    if step is None:
        return ""
    kind, sources = step.node.op_type, [s for s in step.sources if isinstance(s, str)]
    if kind == "LpNormalization":
        return sources[0]
    if kind not in ("Div", "Mul") or len(sources) != 2:
        return ""
    orders = [sources] if kind == "Div" else [sources, sources[::-1]]
    return next((x for x, length in orders if _is_length_of(program, length, x)), "")


def _is_length_of(program: Program, length: str, x: str) -> bool:
    """Whether `length` is computed from `x` by a sum over an axis and element by element otherwise."""
    if not (program.is_dynamic(x) and program.is_dynamic(length)) or length == x:
        return False
    between = [program.steps[i] for i in program.between(x, (length,))]
    kinds = {step.node.op_type for step in between}
    if not kinds or not kinds <= LENGTH_PARTS or not kinds & LENGTHS:
        return False
    small = [step for step in between if step.node.op_type in LENGTHS]
    full = int(np.prod(program.shapes[x]))
    return all(int(np.prod(program.shapes[step.outputs[0]])) < full for step in small)
