"""Structure of well-known networks: segments, composites and interior flows. Nothing is computed."""

from __future__ import annotations

import functools
from typing import NamedTuple

import onnx
import pytest

import naflow_core as nf
from naflow_core.analysis.plan import make_plan, make_segment
from naflow_core.analysis.spine import cut_vertices
from naflow_core.model.specialise import build_program
from support.light_networks import FOLDER, NINE


class Structure(NamedTuple):
    """Numbers of an architecture: composites by their largest count of nodes, and blocks."""

    composites: int
    largest: int
    blocks: int


STRUCTURES = {
    # 58 dense layers, each with a running concatenation at its end
    "DenseNet-121": Structure(composites=58, largest=11, blocks=66),
    # 10 modules; the largest has branches of one, two and three convolutions and a pooled one
    "Inception v2": Structure(composites=10, largest=37, blocks=15),
    # 16 bottlenecks, 4 of them with a projection
    "ResNet-50": Structure(composites=16, largest=11, blocks=18),
}


@functools.cache
def report(name: str) -> nf.CoverageReport:
    """Of the file as it is shipped, whose weights are constants: structure does not depend on them."""
    return nf.load(FOLDER / f"light_{NINE[name]}.onnx").inspect()


@pytest.mark.parametrize("name", STRUCTURES)
def test_composites_are_the_blocks_of_the_architecture(name):
    plan = report(name).plan
    assert plan is not None
    sizes = [len(segment.steps) for segment in plan.segments if segment.kind == "composite"]
    assert Structure(len(sizes), max(sizes), len(plan.blocks())) == STRUCTURES[name]


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_tensor_up_to_the_top_has_a_flow_of_its_own(name):
    plan = report(name).plan
    assert plan is not None
    inside = {out for segment in plan.segments for step in segment.steps for out in step.outputs if out}
    assert set(plan.layers("nodes")) == {plan.source} | inside
    targets = {part.target for segment in plan.segments for part in plan.interior(segment)}
    assert targets <= inside


@pytest.mark.parametrize("name", STRUCTURES)
def test_an_interior_step_leads_to_where_all_paths_meet(name):
    plan = report(name).plan
    assert plan is not None
    segment = max(plan.segments, key=lambda segment: len(segment.steps))
    for part in plan.interior(segment):
        behind = cut_vertices(plan.program, part.source, segment.target)[1:]
        following = (*behind[1:], *plan.spine[plan.spine.index(segment.target) + 1 :])
        assert part == make_segment(plan.program, part.source, behind[0], following)


def test_a_bottleneck_is_walked_branch_by_branch():
    plan = report("ResNet-50").plan
    assert plan is not None
    segment = next(s for s in plan.segments if len(s.steps) == STRUCTURES["ResNet-50"].largest)
    parts = plan.interior(segment)
    assert {part.kind for part in parts} == {"node"}  # its only fork is where it begins
    assert sum(part.target == segment.target for part in parts) == 2  # both sides of the Add


def test_densenet_written_with_flat_concatenations_has_the_same_spine():
    """As other exporters write it: every Concat lists all features of its block."""
    model = onnx.load(FOLDER / f"light_{NINE['DenseNet-121']}.onnx")
    joined: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "Concat":
            parts = [part for name in node.input for part in joined.get(name, [name])]
            del node.input[:]
            node.input.extend(parts)
            joined[node.output[0]] = parts
    assert max(map(len, joined.values())) == 25
    flat = nf.load(model)
    plan = flat.inspect().plan
    assert plan is not None
    expected = report("DenseNet-121").plan
    assert expected is not None
    assert plan.spine == expected.spine
    as_written = build_program(flat.loaded.graph, plan.program.inputs)
    assert max(len(segment.steps) for segment in make_plan(as_written).segments) > 150
