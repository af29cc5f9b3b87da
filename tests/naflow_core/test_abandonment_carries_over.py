"""Neither abandonment nor solves depend on how a network was written down: one-to-one layers add nothing."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import naflow_core as nf
from naflow_core.analysis.plan import Segment, make_plan
from support.blocks import Net

SIZE = 6


def network(*, folded: bool, channels_last: bool) -> ModelProto:
    """conv - normalisation - Relu - conv - Relu - pool - linear; the normalisation folded or not, the input
    channels first or behind a Transpose, with Identity and Dropout between."""
    generator = np.random.default_rng(7)
    weights = {
        "w1": generator.normal(size=(5, 3, 3, 3)),
        "b1": generator.normal(size=5),
        "scale": generator.uniform(0.5, 2, 5),
        "shift": generator.normal(size=5),
        "mean": generator.normal(size=5),
        "variance": generator.uniform(0.5, 2, 5),
        "w2": generator.normal(size=(4, 5, 3, 3)),
        "b2": generator.normal(size=4),
        "fc": generator.normal(size=(4, 3)),
    }
    if folded:
        gain = weights["scale"] / np.sqrt(weights["variance"] + 1e-5)
        weights["w1"] = weights["w1"] * gain[:, None, None, None]
        weights["b1"] = (weights["b1"] - weights["mean"]) * gain + weights["shift"]
    nodes = []

    def add(op: str, inputs: list[str], output: str, **attributes: object) -> None:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))

    first = "x"
    if channels_last:
        add("Transpose", ["x"], "t", perm=[0, 3, 1, 2])
        add("Identity", ["t"], "same")
        first = "same"
    add("Conv", [first, "w1", "b1"], "c1", pads=[1, 1, 1, 1])
    if not folded:
        add("BatchNormalization", ["c1", "scale", "shift", "mean", "variance"], "n1")
    add("Relu", ["c1" if folded else "n1"], "r1")
    if channels_last:
        add("Dropout", ["r1"], "d1")
    add("Conv", ["d1" if channels_last else "r1", "w2", "b2"], "c2", pads=[1, 1, 1, 1])
    add("Relu", ["c2"], "r2")
    add("GlobalAveragePool", ["r2"], "g")
    add("Flatten", ["g"], "flat")
    add("MatMul", ["flat", "fc"], "y")
    shape = ["N", SIZE, SIZE, 3] if channels_last else ["N", 3, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def flows(method: nf.Method, *, folded: bool, channels_last: bool) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    model = nf.load(network(folded=folded, channels_last=channels_last))
    x = np.moveaxis(x, 1, -1) if channels_last else x
    return {flow.tensor: flow.map for flow in model.explain(x, method=method, layers="spine")}


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_transposing_changes_no_flow(damping):
    method = nf.Method(damping=damping, tolerance=1e-6, max_iterations=2000)
    plain = flows(method, folded=False, channels_last=False)
    other = flows(method, folded=False, channels_last=True)
    for tensor in ("x", "r1", "c2", "r2"):
        np.testing.assert_allclose(other[tensor], plain[tensor], atol=1e-4 * plain[tensor].max())


@pytest.mark.parametrize(
    "options",
    [
        {"damping": 0.0},
        {"damping": 0.3},
        {"damping": 0.3, "rows": "all"},
        {"rows": "active", "feasible": False},
    ],
    ids=str,
)
def test_folding_a_normalisation_changes_no_flow(options):
    """With damping, or more equations than unknowns, rows of other scales would weigh otherwise."""
    method = nf.Method(**options, tolerance=1e-6, max_iterations=2000)
    plain = flows(method, folded=True, channels_last=False)
    other = flows(method, folded=False, channels_last=False)
    for tensor in ("x", "r1", "c2", "r2"):
        np.testing.assert_allclose(other[tensor], plain[tensor], atol=1e-3 * plain[tensor].max())


@pytest.mark.parametrize(
    ("behind", "read"),
    [
        (["BatchNormalization"], "Relu"),
        (["Transpose", "Mul", "Add"], "Relu"),
        (["Add", "BatchNormalization", "Cast"], "Clip"),
    ],
)
def test_what_only_scales_a_layer_weighs_its_equations(behind, read):
    """The scaling reaches to the last step that scales, whatever else stands between."""
    segment = first_convolution([*behind, read])
    assert segment.scaling is not None
    found = [instruction.operator.op_type for instruction in segment.scaling.instructions]
    assert found == [op for op in behind if op != "Cast"]


@pytest.mark.parametrize(
    "behind", [["Relu", "BatchNormalization"], ["Transpose", "Relu"], ["Sigmoid", "Mul"]]
)
def test_nothing_else_does(behind):
    assert first_convolution(behind).scaling is None


def first_convolution(behind: list[str]) -> Segment:
    """The first segment of a network in which these operators follow a convolution."""
    net, made = Net(), "c1"
    net.conv("x", "c1", 3, 4)
    vectors = [net.constant(f"v{i}", np.float32([1, 2, 3, 4])) for i in range(4)]
    two = [net.constant("two", np.float32(2))]
    operands = {"BatchNormalization": vectors, "Mul": two, "Add": two}
    attributes = {"Transpose": {"perm": [0, 2, 3, 1]}, "Cast": {"to": TensorProto.FLOAT}}
    for i, op in enumerate(behind):
        made = net.add(op, [made, *operands.get(op, [])], f"t{i}", **attributes.get(op, {}))
    net.dense(net.add("Flatten", [made], "f"), "y", 4 * 25, 3)
    program = nf.load(net.model(1)).program({"x": (1, 3, 5, 5)})
    return make_plan(program, top=made).segments[0]


def test_choosing_anew_at_every_tensor_does_depend_on_them():
    method = nf.Method(abandon=nf.Abandonment("mass-each", 0.8), tolerance=1e-6, max_iterations=2000)
    plain = flows(method, folded=True, channels_last=False)["x"]
    other = flows(method, folded=False, channels_last=True)["x"]
    assert np.abs(other - plain).max() > 0.01 * plain.max()
