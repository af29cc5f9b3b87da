"""What `inspect` says of graphs with few cut vertices: which tensors get flows, which do not, and why."""

from __future__ import annotations

import numpy as np
import pytest

import naflow_core as nf
from naflow_core.analysis import coverage
from support.blocks import Net
from support.onnx_graphs import make_model


def encode(net: Net, source: str, name: str, weights: list[str]) -> str:
    net.add("Conv", [source, weights[0]], f"{name}.c1", pads=[1] * 4)
    net.add("Relu", [f"{name}.c1"], f"{name}.r1")
    net.add("Conv", [f"{name}.r1", weights[1]], f"{name}.c2", pads=[1] * 4)
    net.add("Relu", [f"{name}.c2"], f"{name}.r2")
    net.add("GlobalAveragePool", [f"{name}.r2"], f"{name}.g")
    return net.add("Flatten", [f"{name}.g"], f"{name}.f")


def siamese(*, stacked: bool) -> nf.Model:
    """Two pictures through one encoder: two inputs, or one input that holds both."""
    net = Net()
    weights = [net.weight("w1", 4, 3, 3, 3), net.weight("w2", 6, 4, 3, 3)]
    sources = ["x", "z"]
    if stacked:
        net.add("Split", ["x"], "first", axis=1, num_outputs=2)
        net.nodes[-1].output.append("second")
        sources = ["first", "second"]
    one, other = (encode(net, source, name, weights) for source, name in zip(sources, "ab", strict=True))
    net.add("Sub", [one, other], "d")
    net.add("Abs", ["d"], "distance")
    net.dense("distance", "y", 6, 2)
    shapes = {"x": (1, 6, 8, 8)} if stacked else {"x": (1, 3, 8, 8), "z": (1, 3, 8, 8)}
    return nf.load(make_model(net.nodes, shapes, constants=net.constants))


def unet() -> nf.Model:
    """One level down and up again with a skip, then a classifier."""
    net = Net()
    net.conv("x", "c0", 3, 4)
    net.add("Relu", ["c0"], "e0")
    net.add("MaxPool", ["e0"], "p0", kernel_shape=[2, 2], strides=[2, 2])
    net.conv("p0", "c1", 4, 6)
    net.add("Relu", ["c1"], "e1")
    net.add("Resize", ["e1", "", net.constant("twice", np.float32([1, 1, 2, 2]))], "u0", mode="nearest")
    net.add("Concat", ["u0", "e0"], "k0", axis=1)
    net.conv("k0", "c2", 10, 4)
    net.add("Relu", ["c2"], "d0")
    net.add("GlobalAveragePool", ["d0"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", 4, 3)
    return nf.load(net.model(1, size=8))


def cells(count: int) -> nf.Model:
    """Cells that read the outputs of the two cells before them, as in NASNet: no cut vertex between cells."""
    net = Net()
    before, last = net.conv("x", "h0", 3, 4), net.conv("h0", "h1", 4, 4)
    for n in range(count):
        net.add("Relu", [last], f"a{n}")
        net.conv(f"a{n}", f"b{n}", 4, 2)
        net.conv(before, f"c{n}", 4, 2, 1)
        net.add("Mul", [f"b{n}", f"c{n}"], f"m{n}")
        net.add("Concat", [f"c{n}", f"m{n}"], f"o{n}", axis=1)
        before, last = last, f"o{n}"
    net.add("Relu", [last], "top")
    net.add("GlobalAveragePool", ["top"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", 4, 3)
    return nf.load(net.model(1, size=8))


def test_siamese_network_explains_one_input_and_says_so():
    facts = siamese(stacked=False).inspect().to_dict()
    assert facts["top_feature_map"] == "a.r2"
    assert [entry["tensor"] for entry in facts["spine"]] == ["x", "a.c1", "a.r1", "a.c2", "a.r2"]
    assert facts["flows"] == {"blocks": 2, "spine": 5, "nodes": 5}
    why = {group["reason"]: group["tensors"] for group in facts["without_flow"]}
    assert why[coverage.OTHER_INPUT] == ["z", "b.c1", "b.r1", "b.c2", "b.r2", "b.g", "b.f"]
    assert why[coverage.BEHIND_TOP] == ["a.g", "a.f", "d", "distance", "y"]
    assert facts["notes"] == [
        "Flows are for input 'x'; 'z' keeps its value and what only 'z' reaches gets none."
    ]


def test_two_pictures_in_one_input_are_refused_with_the_place_where_they_part():
    report = siamese(stacked=True).inspect()
    assert not report.explainable
    assert "no tensor with spatial axes lies on every path from 'x' to 'y'" in report.reason
    assert "part at 'x' and meet again at 'd'" in report.reason
    facts = report.to_dict()
    assert facts["flows"] == {"blocks": 0, "spine": 0, "nodes": 0}
    assert facts["cost"]["solve_multiply_adds"] == 0


def test_the_skip_of_a_unet_makes_one_composite_with_flows_inside():
    report = unet().inspect()
    assert report.plan is not None
    assert report.plan.spine == ("x", "c0", "e0", "k0", "c2", "d0")
    assert set(report.plan.layers("nodes")) - set(report.plan.spine) == {"p0", "c1", "e1", "u0"}
    assert report.to_dict()["notes"] == []


def test_cells_are_one_composite_and_a_note_says_what_can_be_seen_inside():
    report = cells(7).inspect()
    assert report.plan is not None
    assert report.plan.spine == ("x", "h0", "o6", "top")
    facts = report.to_dict()
    assert facts["segments"][1]["cost"]["memory_bytes"] == facts["cost"]["memory_bytes"]
    (note,) = facts["notes"]
    inside = set(report.plan.layers("nodes")) - set(report.plan.spine)
    assert f"Segment 1, {len(inside) + 1} nodes from 'h0' to 'o6'" in note
    assert f"--layers nodes gives flows of {len(inside)} tensors inside" in note


def test_every_tensor_has_a_flow_or_a_reason():
    for model in (siamese(stacked=False), unet(), cells(2)):
        plan = model.inspect().plan
        assert plan is not None
        named = [name for names in coverage.without_flow(plan).values() for name in names]
        assert sorted([*named, *plan.layers("nodes")]) == sorted(plan.program.shapes)


def test_integers_vectors_and_dead_ends_have_their_own_reason():
    net = Net()
    net.conv("x", "c", 3, 4)
    net.add("Relu", ["c"], "r")
    net.add("GlobalAveragePool", ["r"], "squeezed")
    net.add("Flatten", ["squeezed"], "vector")
    net.dense("vector", "d", 4, 4)
    net.add("Reshape", ["d", net.constant("shape", np.array([1, 4, 1, 1]))], "gate")
    net.add("Mul", ["r", "gate"], "top")
    net.add("ArgMax", ["r"], "places", axis=1)
    net.add("Neg", ["c"], "aside")
    net.add("GlobalAveragePool", ["top"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", 4, 3)
    plan = nf.load(net.model(1, size=8)).inspect().plan
    assert plan is not None
    why = {name: reason for reason, names in coverage.without_flow(plan).items() for name in names}
    assert why["places"] == coverage.NOT_FLOATS
    assert why["aside"] == coverage.ASIDE
    assert why["vector"] == why["d"] == coverage.NO_SPACE
    assert why["y"] == coverage.BEHIND_TOP


@pytest.mark.parametrize("count", [1, 2])
def test_a_concatenation_that_runs_along_is_noted(count):
    net = Net()
    features = [net.add("Relu", ["x"], "f0")]
    for n in range(1, count + 2):
        source = features[0] if n == 1 else net.add("Concat", features, f"k{n}", axis=1)
        net.conv(source, f"c{n}", 3 * n, 3)
        features.append(net.add("Relu", [f"c{n}"], f"f{n}"))
    net.add("Concat", features, "top", axis=1)
    net.add("GlobalAveragePool", ["top"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", 3 * (count + 2), 3)
    (note,) = nf.load(net.model(1, size=8)).inspect().to_dict()["notes"]
    assert note.startswith(f"{count} Concat node{'s' if count > 1 else ''}, such as ")
