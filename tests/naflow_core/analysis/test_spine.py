"""Cut vertices against brute force, and the segments between them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import naflow_core as nf
from naflow_core.analysis.spine import cut_vertices
from naflow_core.model.program import Program
from support.onnx_graphs import make_model

SHAPE = (1, 2, 3, 3)


@st.composite
def graphs(draw):
    """Random small DAGs: node i makes "ti" from one to three of the tensors before it."""
    count = draw(st.integers(1, 9))
    return [
        sorted(draw(st.sets(st.integers(max(-1, i - 4), i - 1), min_size=1, max_size=3)))
        for i in range(count)
    ]


def name(number: int) -> str:
    return "x" if number < 0 else f"t{number}"


def program_of(edges: list[list[int]]) -> Program:
    nodes = [
        helper.make_node("Sum", [name(s) for s in sources], [name(i)]) for i, sources in enumerate(edges)
    ]
    model = make_model(nodes, {"x": SHAPE}, [name(len(edges) - 1)])
    return nf.load(model).program({"x": SHAPE})


def reaches(edges: list[list[int]], without: int) -> bool:
    """Whether the last tensor can still be reached from the input once a tensor is taken out."""
    reached = {-1} - {without}
    for i, sources in enumerate(edges):
        if i != without and reached & set(sources):
            reached.add(i)
    return len(edges) - 1 in reached


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_cut_vertices_are_what_cannot_be_taken_out(edges):
    last = len(edges) - 1
    expected = [name(i) for i in range(-1, last + 1) if not reaches(edges, i)]
    if not reaches(edges, -2):
        expected = []
    assert list(cut_vertices(program_of(edges), "x", name(last))) == expected


def test_a_tensor_read_twice_by_one_node_is_one_edge():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    program = nf.load(make_model(nodes, {"x": SHAPE})).program({"x": SHAPE})
    assert cut_vertices(program, "x", "y") == ("x", "a", "b", "y")


def test_unrelated_tensors_have_no_spine():
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["z"], ["y"])]
    program = nf.load(make_model(nodes, {"x": SHAPE, "z": SHAPE})).program({"x": SHAPE, "z": SHAPE})
    assert cut_vertices(program, "x", "y") == ()


def test_many_paths_are_counted_exactly():
    """2^200 paths: far more than a float can count."""
    edges: list[list[int]] = [[-1]]
    for i in range(200):
        base = 3 * i
        edges += [[base], [base], [base + 1, base + 2]]
    spine = cut_vertices(program_of(edges), "x", name(len(edges) - 1))
    assert spine == ("x", *(name(3 * i) for i in range(201)))


def test_squaring_is_inverted_by_its_frozen_gate():
    made = (("Mul", "xx", "a"), ("Add", "ax", "b"), ("Conv", "bw", "c"), ("GlobalAveragePool", "c", "p"))
    nodes = [helper.make_node(op, list(inputs), [output]) for op, inputs, output in made]
    nodes.append(helper.make_node("Flatten", ["p"], ["y"]))
    model = make_model(nodes, {"x": SHAPE}, constants={"w": np.ones((2, 2, 1, 1), np.float32)})
    plan = nf.load(model).inspect().plan
    assert plan.spine == ("x", "b")  # the 1x1 convolution is the classifier
    assert [(segment.kind, segment.rule.name) for segment in plan.segments] == [("composite", "frozen-gate")]
