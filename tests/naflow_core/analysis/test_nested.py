"""Running concatenations: the same values, more cut vertices, the graph's own names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import naflow_core as nf
from naflow_core.analysis.nested import with_running_concatenations
from naflow_core.analysis.spine import cut_vertices
from naflow_core.model.program import Program, evaluate
from naflow_core.model.specialise import build_program
from support.blocks import Net
from support.onnx_graphs import make_model

SHAPE = (1, 2, 3, 3)


def dense(layers: int, join, close=None) -> nf.Model:
    """A dense block of Relu layers; `join(net, features, name)` joins all features so far."""
    net = Net()
    features = [net.add("Relu", ["x"], "f0")]
    for layer in range(1, layers + 1):
        source = join(net, features, f"k{layer}") if layer > 1 else "f0"
        net.conv(source, f"c{layer}", 2 * layer, 2, 1)
        features.append(net.add("Relu", [f"c{layer}"], f"f{layer}"))
    join(net, features, "y")
    return nf.load(make_model(net.nodes, {"x": SHAPE}, constants=net.constants))


def anew(net, features, name):
    return net.add("Concat", features, name, axis=1)


def newest_first(net, features, name):
    return net.add("Concat", features[::-1], name, axis=-3)


def through_copies(net, features, name):
    """An Identity for every reader, as some exporters write."""
    copies = [net.add("Identity", [feature], f"{feature}-{name}") for feature in features]
    return net.add("Concat", copies, name, axis=1)


def quantised(net, features, name):
    """Integers between layers, made real again for every reader."""
    if not net.constants.get("scale"):
        net.constant("scale", np.float32(0.05))
    for feature in features:
        if f"{feature}-q" not in {node.output[0] for node in net.nodes}:
            net.add("QuantizeLinear", [feature, "scale"], f"{feature}-q")
    parts = [
        net.add("DequantizeLinear", [f"{feature}-q", "scale"], f"{feature}-{name}") for feature in features
    ]
    return net.add("Concat", parts, name, axis=1)


def outputs(program: Program, x: np.ndarray) -> dict[str, np.ndarray]:
    names = tuple(name for step in program.steps for name in step.outputs if name)
    subprogram, operands = program.extract("x", names, whole=True)
    values = evaluate(subprogram, x, program.operands(operands, {"x": x}))
    return dict(zip(names, map(np.asarray, values), strict=True))


@pytest.mark.parametrize("join", [anew, newest_first, through_copies])
def test_every_layer_of_a_dense_block_ends_at_a_cut_vertex(join):
    model = dense(4, join)
    before = build_program(model.loaded.graph, {"x": SHAPE})
    after = model.program({"x": SHAPE})
    assert not {"k2", "k3", "k4"} & set(cut_vertices(before, "x", "y"))
    assert set(cut_vertices(after, "x", "y")) >= {"f0", "k2", "k3", "k4", "y"}
    assert [step.node for step in after.steps] == [step.node for step in before.steps]
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    was, now = outputs(before, x), outputs(after, x)
    assert list(was) == list(now)
    for name, value in was.items():
        np.testing.assert_array_equal(now[name], value, err_msg=name)


def test_repeated_dequantisation_is_seen_through():
    before = dense(3, quantised)
    program = before.program({"x": SHAPE})
    joined = {step.outputs[0]: step.sources for step in program.steps if step.node.op_type == "Concat"}
    assert joined["k3"] == ("k2", "f2-k3")
    assert joined["y"] == ("k3", "f3-y")


def test_verify_still_compares_every_tensor_with_the_file_as_it_is():
    model = dense(4, anew)
    verification = model.verify()
    assert verification.ok
    assert {t.tensor for t in verification.tensors} == {
        n for node in model.loaded.proto.graph.node for n in node.output
    }


def concat(sources, name, axis=1):
    return helper.make_node("Concat", sources, [name], axis=axis, name=f"join-{name}")


def relu(source, name):
    return helper.make_node("Relu", [source], [name])


def test_only_what_gives_cut_vertices_changes():
    """A feature that leads on its own past the first concatenation keeps both from being one."""
    nodes = [relu("x", "a"), relu("a", "b"), concat(["a", "b"], "k"), relu("k", "r"), relu("b", "aside")]
    nodes += [concat(["a", "b", "r", "aside"], "y")]
    program = build_program(nf.load(make_model(nodes, {"x": SHAPE})).loaded.graph, {"x": SHAPE})
    assert with_running_concatenations(program) is program


def test_a_useful_share_changes_and_a_useless_one_beside_it_stays():
    nodes = [relu("x", "a"), relu("a", "b"), concat(["a", "b"], "k"), relu("k", "r")]
    nodes += [concat(["a", "b", "r"], "m"), relu("m", "n")]
    nodes += [relu("n", "p"), relu("n", "q"), concat(["p", "q"], "s"), relu("q", "t")]
    nodes += [relu("s", "u"), concat(["p", "q", "u", "t"], "y")]
    program = nf.load(make_model(nodes, {"x": SHAPE})).program({"x": SHAPE})
    sources = {step.outputs[0]: step.sources for step in program.steps}
    assert sources["m"] == ("k", "r")
    assert sources["y"] == ("p", "q", "u", "t")


def test_another_axis_is_another_concatenation():
    nodes = [relu("x", "a"), relu("a", "b"), concat(["a", "b"], "k", axis=2), relu("k", "r")]
    nodes += [
        helper.make_node("ReduceMean", ["r"], ["g"], keepdims=1),
        helper.make_node("Add", ["b", "g"], ["c"]),
    ]
    nodes += [concat(["a", "b", "c"], "y", axis=1)]
    program = nf.load(make_model(nodes, {"x": SHAPE})).program({"x": SHAPE})
    assert program.steps[-1].sources == ("a", "b", "c")


@st.composite
def graphs(draw):
    """Random graphs of Relu and Concat; a later Concat often begins as an earlier one does."""
    names, nodes, lists = ["x"], [], [["x"]]
    for number in range(draw(st.integers(3, 10))):
        name = f"t{number}"
        if draw(st.booleans()):
            nodes.append(relu(draw(st.sampled_from(names[-4:])), name))
        else:
            parts = [*draw(st.sampled_from(lists)), draw(st.sampled_from(names[-3:]))]
            lists.append(parts)
            nodes.append(concat(parts, name))
        names.append(name)
    nodes.append(concat(draw(st.sampled_from(lists)) + names[-1:], "y"))
    return nodes


@settings(max_examples=20, deadline=None)
@given(graphs())
def test_no_cut_vertex_is_lost_and_each_change_gains_one(nodes):
    before = build_program(nf.load(make_model(nodes, {"x": SHAPE})).loaded.graph, {"x": SHAPE})
    after = with_running_concatenations(before)
    had, has = (set(cut_vertices(program, "x", "y")) for program in (before, after))
    assert had <= has
    for a, b in zip(before.steps, after.steps, strict=True):
        assert a == b or (set(b.sources) - set(a.sources)) & (has - had)
        assert parts(before, a.outputs[0]) == parts(after, b.outputs[0])


def parts(program: Program, name: str) -> list[str]:
    """What a tensor joins, all the way down to what no Concat makes."""
    step = program.steps[program.producer[name]] if name in program.producer else None
    if step is None or step.node.op_type != "Concat":
        return [name]
    return [part for source in step.sources for part in parts(program, str(source))]
