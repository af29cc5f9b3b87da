"""Which tensors get flows, which do not, and why: for people who look at a graph before they run it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from naflow_core.analysis.plan import Plan, Segment
from naflow_core.model.program import Program

LARGE = 30
"""Nodes from which on a composite is worth a note: no usual residual or inception block has more."""

NOT_FLOATS = "holds integers, not activations"
OTHER_INPUT = "does not depend on the explained input"
BEHIND_TOP = "lies behind the top feature map"
ASIDE = "does not lead to the top feature map"
FOLDED = "has no axis of its own for the pictures of a batch"
NO_SPACE = "has no spatial axes"


def flow_counts(plan: Plan) -> dict[str, int]:
    """How many flows each choice of layers gives."""
    return {name: len(plan.layers(name)) for name in ("blocks", "spine", "nodes")}


def without_flow(plan: Plan) -> dict[str, list[str]]:
    """Tensors that get no flow whatever layers are asked for, by reason."""
    program = plan.program
    mapped = set(plan.layers("nodes"))
    reached, behind = _downstream(program, plan.source), _downstream(program, plan.top)
    leading = {name for i in program.needed((plan.top,)) for name in program.steps[i].outputs}
    found: dict[str, list[str]] = {}
    for name in program.shapes:
        if name in mapped:
            continue
        if name in program.integers:
            reason = NOT_FLOATS
        elif name not in reached and name != plan.source:
            reason = OTHER_INPUT
        elif name in behind:
            reason = BEHIND_TOP
        elif name not in leading and name != plan.source:
            reason = ASIDE
        elif not program.numbers_pictures(name):
            reason = FOLDED
        else:
            reason = NO_SPACE
        found.setdefault(reason, []).append(name)
    return found


def notes(plan: Plan) -> list[str]:
    """What is worth knowing about this graph, one sentence each."""
    return [*_on_inputs(plan), *_on_concatenations(plan), *_on_composites(plan)]


def _on_inputs(plan: Plan) -> Iterator[str]:
    held = [name for name in plan.program.inputs if name != plan.source]
    if held:
        names = ", ".join(map(repr, held))
        keep = "keeps its value" if len(held) == 1 else "keep their values"
        yield f"Flows are for input {plan.source!r}; {names} {keep} and what only {names} reaches gets none."


def _on_concatenations(plan: Plan) -> Iterator[str]:
    changed = [
        step
        for step in plan.program.steps
        if step.node.op_type == "Concat" and len(step.sources) < len(step.node.inputs)
    ]
    if changed:
        nodes = "Concat node" if len(changed) == 1 else "Concat nodes"
        yield (
            f"{len(changed)} {nodes}, such as {changed[0].node.name!r}, taken as adding to what an earlier "
            "one joined (the same values): so every layer in between gets its flow."
        )


def _on_composites(plan: Plan) -> Iterator[str]:
    for index, segment in enumerate(plan.segments):
        if len(segment.steps) >= LARGE:
            mapped = sum(part.source in plan.layouts for part in plan.interior(segment))
            inside = f"; --layers nodes gives flows of {mapped} tensors inside" if mapped else ""
            yield (
                f"Segment {index}, {_extent(plan, segment)}, is inverted as a whole, since "
                f"no tensor inside lies on every path through it{inside}."
            )


def _extent(plan: Plan, segment: Segment) -> str:
    everything = segment.source == plan.source and segment.target == plan.top
    extent = f"{len(segment.steps)} nodes from {segment.source!r} to {segment.target!r}"
    return f"{extent} (the whole network up to its top feature map)" if everything else extent


def _downstream(program: Program, name: str) -> set[str]:
    """Tensors that depend on one, without itself."""
    found: set[str] = {name}
    for step in program.steps:
        if any(source in found for source in step.sources if isinstance(source, str)):
            found.update(filter(None, step.outputs))
    return found - {name}


def coverage(plan: Plan | None) -> dict[str, Any]:
    """The fields of `naflow inspect --json` that say what will be explained."""
    if plan is None:
        return {"flows": {"blocks": 0, "spine": 0, "nodes": 0}, "without_flow": [], "notes": []}
    return {
        "flows": flow_counts(plan),
        "without_flow": [
            {"reason": reason, "tensors": names} for reason, names in without_flow(plan).items()
        ],
        "notes": notes(plan),
    }
