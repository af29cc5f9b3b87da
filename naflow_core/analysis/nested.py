"""Concatenations of all earlier features, as dense blocks have them, written as running concatenations.

Many exporters write Concat(x0, ..., xk) anew at every layer of a dense block. Then each feature has an edge
to every later layer, no tensor inside the block lies on every path, and the block is one huge segment. With
Concat(x0, ..., xk) = Concat(Concat(x0, ..., xk-1), xk) the same values, bit for bit, come along a chain whose
links are tensors of the graph already: every dense layer becomes a segment of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

from naflow_core.analysis.spine import cut_vertices
from naflow_core.model.program import Known, Program, Step, thawed
from naflow_core.ops.array import normalise_axis

RESPELLED = frozenset({"Identity", "Dropout", "Cast", "QuantizeLinear", "DequantizeLinear"})
"""What exporters and quantisers repeat for each reader of a tensor."""
SMALL = 64

Source = str | Known | None


def with_running_concatenations(program: Program) -> Program:
    """The same program, in which a Concat reads what an earlier one already joined, where that gives the
    graph new cut vertices. Nodes, tensors and values stay; only what a Concat reads from changes.
    """
    shared = _shared(program)
    had = _all_cuts(program) if shared else set()
    while shared:
        changed = _replaced(program, shared)
        gained = _all_cuts(changed) - had
        useful = {
            at: step
            for at, step in shared.items()
            if any(source in gained for source in step.sources if source not in program.steps[at].sources)
        }
        if len(useful) == len(shared):
            return changed
        shared = useful
    return program


def _shared(program: Program) -> dict[int, Step]:
    """By position: every Concat that can read an earlier one, reading it."""
    same = _Spellings(program)
    joined: dict[str, tuple[int, tuple[Source, ...]]] = {}  # what each Concat joins, down to what none makes
    earlier: dict[tuple[int, tuple[Source, ...]], str] = {}
    found = {}
    for at, step in enumerate(program.steps):
        if step.node.op_type != "Concat" or step.node.domain:
            continue
        name = step.outputs[0]
        axis = normalise_axis(int(thawed(step.attributes)["axis"]), len(program.shapes[name]))
        parts: list[tuple[Source, ...]] = []  # of each input
        for source in map(same.one, step.sources):
            inner = joined.get(source) if isinstance(source, str) else None
            parts.append(inner[1] if inner and inner[0] == axis else (source,))
        sources = _over_longest_run(step.sources, parts, axis, earlier)
        if sources != step.sources:
            found[at] = dataclasses.replace(step, sources=sources)
        flat = tuple(itertools.chain.from_iterable(parts))
        joined[name] = axis, flat
        earlier.setdefault((axis, flat), name)
    return found


def _over_longest_run(
    sources: tuple[Source, ...],
    parts: list[tuple[Source, ...]],
    axis: int,
    earlier: dict[tuple[int, tuple[Source, ...]], str],
) -> tuple[Source, ...]:
    """`sources` with the longest run of neighbours that an earlier Concat has joined replaced by it."""
    for length in range(len(parts), 1, -1):
        for begin in range(len(parts) - length + 1):
            run = tuple(itertools.chain.from_iterable(parts[begin : begin + length]))
            if (axis, run) in earlier:
                return (*sources[:begin], earlier[axis, run], *sources[begin + length :])
    return sources


class _Spellings:
    """One name for tensors that hold the same values because a file spells one computation several times."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[str, Source] = {}
        self._first: dict[tuple[object, ...], str] = {}
        for step in program.steps:
            if step.node.op_type not in RESPELLED or len(step.outputs) != 1:
                continue
            name, sources = step.outputs[0], tuple(self.one(source) for source in step.sources)
            if step.node.op_type == "Identity":
                self._known[name] = sources[0]
            else:
                self._known[name] = self._first.setdefault((step.operator, step.attributes, sources), name)

    def one(self, source: Source) -> Source:
        """The name of the first tensor with these values; small constants are known by content."""
        if not isinstance(source, str):
            return source
        constant = self._program.constants.get(source)
        if constant is not None and constant.size <= SMALL:
            return Known(constant)
        return self._known.get(source, source)


def _all_cuts(program: Program) -> set[str]:
    """Cut vertices between any input and any output."""
    outputs = [name for name in program.outputs if name in program.producer]
    pairs: Iterable[tuple[str, str]] = itertools.product(program.inputs, outputs)
    return {name for source, sink in pairs for name in cut_vertices(program, source, sink)}


def _replaced(program: Program, steps: dict[int, Step]) -> Program:
    changed = tuple(steps.get(at, step) for at, step in enumerate(program.steps))
    return dataclasses.replace(program, steps=changed)
