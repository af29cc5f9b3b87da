"""What will be explained and how: top feature map, spine, segments, an inverse rule for each, and blocks."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import math
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import jax

from naflow_core.analysis.batch import refuse_mixing
from naflow_core.analysis.head import Head, find_head
from naflow_core.analysis.spelt_out import is_normalisation
from naflow_core.analysis.spine import cut_vertices
from naflow_core.errors import AnalysisError
from naflow_core.inverse.affine import FROZEN_STATISTICS
from naflow_core.inverse.registry import FROZEN_GATE, LEAST_SQUARES, Rule, RuleRegistry, Site
from naflow_core.inverse.registry import REGISTRY as RULES
from naflow_core.model.layout import Layout, infer_layouts
from naflow_core.model.program import Known, Program, Step, Subprogram, thawed
from naflow_core.ops.conv import is_channels_last
from naflow_core.ops.registry import REALS, Interval

MOVING = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})
FEW_CHANNELS = 32
MOST_NORMAL_NUMBERS = 2**24  # 64 MiB for each picture
DEPTHWISE = frozenset({"AveragePool"})
LINEAR = frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "Gemm", "GlobalAveragePool", "Pad", "Sum"}
)
"""Whose derivative does not depend on what they read."""


@dataclass(frozen=True)
class Segment:
    """What lies between two tensors of the cascade: `target = f(source)`.

    Attributes:
        source, target: tensor names.
        steps: the nodes, in order.
        subprogram: f, with everything else it reads as operands.
        operands: names of those operands.
        rule: how f is inverted.
        position: for a single node, which of its inputs is `source`.
        bounds: range of the op that produced `source` (for the feasible solve).
        systems: axes that number independent systems in the least-squares solve.
        activation: name of the tensor whose being inside its range means that a neuron of `target` is on,
            or None where every neuron is (for rows = active).
        order: the axes of `target` in the order in which `activation` has them.
        scaling: the steps behind `target` that only scale, shift and rearrange it by constants, as a
            BatchNormalization does; None where there is none, or where it is the rule's business.
        scales: names of the constants that `scaling` reads.
        small_cells: whether it multiplies the few channels of each cell by one matrix, so that the normal
            equations of the cells are cheap.
        channels_last: whether it is a convolution that is computed with its channels on the last axis.
    """

    source: str
    target: str
    steps: tuple[Step, ...]
    subprogram: Subprogram
    operands: tuple[str, ...]
    rule: Rule
    position: int
    bounds: Interval
    systems: tuple[int, ...]
    activation: str | None
    order: tuple[int, ...]
    scaling: Subprogram | None = None
    scales: tuple[str, ...] = ()
    small_cells: bool = False
    channels_last: bool = False

    @functools.cached_property
    def inside(self) -> dict[str, int]:
        """Tensors between source and target that the derivative depends on, with their slots."""
        slots = {
            name: slot
            for step, instruction in zip(self.steps, self.subprogram.instructions, strict=True)
            for name, slot in zip(step.outputs, instruction.outputs, strict=True)
            if name and name != self.target
        }
        read = (name for step in self.steps if step.node.op_type not in LINEAR for name in step.sources)
        return {name: slots[name] for name in read if isinstance(name, str) and name in slots}

    @property
    def kind(self) -> Literal["node", "composite"]:
        """ "node" for a single ONNX node, "composite" for more."""
        return "node" if len(self.steps) == 1 else "composite"


@dataclass(frozen=True)
class Plan:
    """The cascade for one program, fixed before anything is computed.

    Attributes:
        program: the specialised graph.
        source: the input that is explained.
        head: the scores that are explained, and how to reach them.
        top: name of the top feature map t_K.
        spine: t_0 ... t_K.
        segments: between neighbouring spine tensors, in order.
        layouts: spatial axes by tensor.
    """

    program: Program
    source: str
    head: Head
    top: str
    spine: tuple[str, ...]
    segments: tuple[Segment, ...]
    layouts: dict[str, Layout]

    def blocks(self) -> tuple[str, ...]:
        """Spine tensors that end a block: what follows looks at other positions or channels.

        Where copies or rearrangements (padding, dropout, channel shuffle) lie in between, the tensor before
        them ends the block. What only prepares the input (before the first mixing segment) is not a block.
        """
        ends = []
        first = next((i for i, seg in enumerate(self.segments) if seg.rule.mixes), len(self.segments))
        for i in range(first + 1, len(self.segments)):
            if self.segments[i].rule.mixes:
                j = i
                while self.segments[j - 1].rule.name in {"passthrough", "rearrangement"}:
                    j -= 1
                ends.append(self.segments[j].source)
        return tuple(dict.fromkeys([*ends, self.top]))

    def interior(self, segment: Segment) -> tuple[Segment, ...]:
        """Steps through the inside of a composite, deepest first, one for each interior tensor.

        A tensor that one node reads is reached by that node's rule; one that several nodes read (a fork) by
        the solve of all that lies between it and the point where its branches meet again.
        """
        if segment.kind == "node":
            return ()
        known = self._interiors  # the one that threads share, whoever made it
        if segment.source not in known:
            known[segment.source] = self._find_interior(segment)
        return known[segment.source]

    def interior_for(self, segment: Segment, wanted: Set[str]) -> tuple[Segment, ...]:
        """The steps inside a composite that lead to the wanted tensors, deepest first."""
        inside = {name for step in segment.steps for name in step.outputs} - {segment.target}
        needed = inside & wanted
        if not needed:
            return ()
        parts = self.interior(segment)
        for part in reversed(parts):  # on the way to a wanted tensor, others that have no map themselves
            if part.source in needed:
                needed.add(part.target)
        return tuple(part for part in parts if part.source in needed)

    @functools.cached_property
    def compiled(self) -> set[Hashable]:
        """Methods and layers of which every program is known to be compiled; for `ahead`."""
        return set()

    @functools.cached_property
    def _interiors(self) -> dict[str, tuple[Segment, ...]]:
        return {}

    def _find_interior(self, segment: Segment) -> tuple[Segment, ...]:
        end, program = segment.target, self.program
        # by tensor: what lies on every path from it on, nearest first
        behind = {end: self.spine[self.spine.index(end) + 1 :]}
        found = []
        for name in (name for step in reversed(segment.steps) for name in reversed(step.outputs)):
            readers = [program.steps[i] for i in program.consumers.get(name, ())]
            ways = [(out, *behind[out]) for step in readers for out in step.outputs if out in behind]
            if not ways or name == end or name in program.integers:
                continue
            behind[name] = tuple(other for other in ways[0] if all(other in way for way in ways))
            if program.numbers_pictures(name):
                target = next(filter(program.numbers_pictures, behind[name]))
                found.append(make_segment(program, name, target, behind[target]))
        return tuple(found)

    def layers(self, wanted: str | Sequence[str]) -> tuple[str, ...]:
        """Tensor names, input side first, for "blocks", "spine", "nodes" or a list of names.

        Raises:
            AnalysisError: a name is not a tensor of the spine or inside one of its composites.
        """
        with_map = [name for name in self.spine if name in self.layouts]
        if wanted == "blocks":
            return tuple(name for name in self.blocks() if name in self.layouts)
        if wanted == "spine":
            return tuple(with_map)
        inside = self._interior_names()
        order = [n for n in self.program.shapes if n in inside or n in with_map]
        if wanted == "nodes":
            return tuple(order)
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            if name not in order:
                near = difflib.get_close_matches(name, order, 3)
                raise AnalysisError(
                    f"layer {name!r} is not a tensor that can be explained",
                    hint=f"did you mean {', '.join(map(repr, near))}?"
                    if near
                    else f"use blocks, spine, nodes, or names from `naflow inspect` such as {self.top!r}",
                )
        return tuple(name for name in order if name in set(names))

    def _interior_names(self) -> set[str]:
        return {
            inner.source
            for segment in self.segments
            for inner in self.interior(segment)
            if inner.source in self.layouts
        }


def make_segment(program: Program, source: str, target: str, following: Sequence[str]) -> Segment:
    """The segment between two tensors, with its rule. `following`: later spine tensors, nearest first."""
    positions = program.between(source, (target,))
    steps = tuple(program.steps[i] for i in positions)
    subprogram, operands = program.extract(source, (target,))
    rule, position = _choose_rule(program, steps, subprogram, source, operands, target, RULES)
    systems = (0, 1) if _channels_are_independent(program, steps, source, target) else (0,)
    bounds = program.ranges.get(source, REALS)
    activation, order = _activation_of(program, (target, *following))
    segment = Segment(
        source, target, steps, subprogram, operands, rule, position, bounds, systems, activation, order
    )
    if rule.function is not None or segment.kind == "composite":
        return segment
    scaling, scales = _scaling(program, target, following)
    (only,) = steps
    weights = program.constants.get(str(only.sources[1])) if only.node.op_type == "Conv" else None
    if weights is None or only.sources[0] != source:
        return dataclasses.replace(segment, scaling=scaling, scales=scales)
    return dataclasses.replace(
        segment,
        scaling=scaling,
        scales=scales,
        small_cells=_has_small_cells(program, only, weights.shape, source, target),
        channels_last=is_channels_last(weights.shape, thawed(only.attributes).get("group", 1)),
    )


def _has_small_cells(
    program: Program, step: Step, weights: tuple[int, ...], source: str, target: str
) -> bool:
    """Whether the normal equations of all cells of a convolution are worth their price: memory, and more
    products than an iteration takes."""
    (_, inner, *spatial), (_, _, *after) = program.shapes[source], program.shapes[target]
    return (
        weights[1:] == (inner, *[1] * len(spatial))
        and spatial == after
        and set(thawed(step.attributes).get("strides") or [1]) == {1}
        and inner <= FEW_CHANNELS
        and inner**2 * math.prod(spatial) <= MOST_NORMAL_NUMBERS
    )


def _scaling(
    program: Program, source: str, following: Sequence[str]
) -> tuple[Subprogram | None, tuple[str, ...]]:
    """What lies between a layer's output and the last tensor of which it is a scaled, shifted copy."""
    end = last = source
    for name in following:
        steps = [program.steps[i] for i in program.between(last, (name,))]
        subprogram, operands = program.extract(last, (name,))
        rule, _ = _choose_rule(program, tuple(steps), subprogram, last, operands, name, RULES)
        if len(steps) != 1 or any(program.is_dynamic(operand) for operand in operands):
            break
        if rule.name != "affine" and steps[0].node.op_type not in MOVING:
            break
        last = name
        end = name if rule.name == "affine" else end
    return (None, ()) if end == source else program.extract(source, (end,))


def _struct(program: Program, name: str) -> jax.ShapeDtypeStruct:
    if name in program.shapes:
        return program.struct(name)
    return jax.ShapeDtypeStruct(program.constants[name].shape, program.constants[name].dtype)


def _choose_rule(
    program: Program,
    steps: tuple[Step, ...],
    subprogram: Subprogram,
    source: str,
    operands: tuple[str, ...],
    target: str,
    rules: RuleRegistry,
) -> tuple[Rule, int]:
    if (
        len(steps) == 1
        and steps[0].sources.count(source) == 1
        and len([o for o in steps[0].outputs if o and o not in program.integers]) == 1
    ):
        position = steps[0].sources.index(source)
        inputs = tuple(
            s.value if isinstance(s, Known) else None if s is None else _struct(program, s)
            for s in steps[0].sources
        )
        site = Site(subprogram.instructions[0], inputs, position, _struct(program, target))
        return rules.find(site), position
    shapes = {program.shapes[name] for step in steps for name in step.outputs if name}
    pointwise = all(step.operator.pointwise for step in steps) and shapes == {program.shapes[source]}
    scalars = all(name in program.constants and program.constants[name].size == 1 for name in operands)
    if pointwise and scalars:
        return FROZEN_GATE, 0
    return (FROZEN_STATISTICS if is_normalisation(program, steps, source, target) else LEAST_SQUARES), 0


def _channels_are_independent(program: Program, steps: tuple[Step, ...], source: str, target: str) -> bool:
    """A depthwise convolution (or a pooling) solves one small system per channel."""
    shape, out = program.shapes[source], program.shapes[target]
    if len(steps) != 1 or len(shape) < 3 or len(out) != len(shape) or shape[1] != out[1]:
        return False
    if steps[0].node.op_type in DEPTHWISE:
        return True
    return steps[0].node.op_type == "Conv" and steps[0].node.attributes.get("group", 1) == shape[1]


def _activation_of(program: Program, names: Sequence[str]) -> tuple[str | None, tuple[int, ...]]:
    """The first of `names` with a bounded range, as long as pointwise steps and transpositions make those
    before it, and the axes of the first name in its order.

    A residual sum counts as the Add that makes it: a skip connection passes on to the activation behind it,
    whatever its other branch does.
    """
    order = tuple(range(len(program.struct(names[0]).shape)))
    for i, name in enumerate(names):
        step = program.steps[program.producer[name]]
        if i and step.node.op_type == "Transpose":
            moved = thawed(step.attributes).get("perm") or tuple(reversed(range(len(order))))
            order = tuple(order[axis] for axis in moved)
        elif i and not step.operator.pointwise and step.node.op_type != "BatchNormalization":
            break
        if program.ranges.get(name, REALS) != REALS:
            return name, order
    return None, order


def make_plan(
    program: Program,
    *,
    output: str | None = None,
    top: str | None = None,
    source: str | None = None,
    embedding: bool = False,
) -> Plan:
    """Analyse a program.

    Args:
        output: which graph output is explained; needed when there are several.
        top: name of the top feature map; found by analysis when None.
        source: the input that is explained; the picture-like one when None.
        embedding: a similarity is explained, not a class score.

    Raises:
        AnalysisError: no such output or tensor, nothing with spatial axes leads to the output, or a node
            mixes the pictures of a batch.
    """
    layouts = infer_layouts(program)
    head = find_head(program, layouts, output=output, top=top, source=source, embedding=embedding)
    refuse_mixing(program, head.scores)
    spine = cut_vertices(program, head.source, head.top)
    spine = tuple(name for name in spine if name not in program.integers and program.numbers_pictures(name))
    segments = tuple(
        make_segment(program, before, after, spine[i + 2 :])
        for i, (before, after) in enumerate(itertools.pairwise(spine))
    )
    return Plan(program, head.source, head, head.top, spine, segments, layouts)
