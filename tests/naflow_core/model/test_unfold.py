"""If, Loop, Scan and sequences where all that decides is known beforehand; refusals where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

import naflow_core as nf
from naflow_core.model import unfold
from support.onnx_graphs import make_model, run_onnxruntime
from support.op_case import floats

node = helper.make_node
X = floats(2, 3, 6, 5)
W = floats(3, 3, 3, 3, scale=0.3)
TAIL = [node("GlobalAveragePool", ["r"], ["g"]), node("Flatten", ["g"], ["y"])]
NUMBERS = {
    "zero": np.array(0), "one": np.array(1), "two": np.array(2), "three": np.array(3), "last": np.array(-1),
    "yes": np.array(True), "w": W, "limit": np.array(0.0, np.float32), "axes": np.array([2, 3]),
}  # fmt: skip


def tensor(name: str, kind: int = TensorProto.FLOAT, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def body(
    nodes: list[NodeProto],
    inputs: list[Any],
    outputs: list[Any],
    constants: dict[str, np.ndarray] | None = None,
) -> GraphProto:
    held = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    return helper.make_graph(nodes, "body", inputs, outputs, held)


def build(nodes: list[NodeProto], opset: int = 18, **constants: np.ndarray) -> Any:
    used = {name for n in nodes for name in n.input} | {"w", "one", "axes", "two", "limit"}
    held = {name: value for name, value in {**NUMBERS, **constants}.items() if name in used}
    return make_model(nodes, {"x": X.shape}, constants=held, opset=opset)


def check(model: Any) -> nf.Model:
    """Every tensor of the outer graph agrees with onnxruntime, and the model can be explained."""
    loaded = nf.load(model)
    report = loaded.inspect()
    assert not report.unsupported
    assert report.explainable, report.reason
    verification = loaded.verify(X)
    assert verification.ok
    assert "y" in {t.tensor for t in verification.tensors}
    return loaded


def branches() -> dict[str, GraphProto]:
    then = body(
        [node("Conv", ["x", "w"], ["t"], pads=[1, 1, 1, 1]), node("Relu", ["t"], ["t2"])], [], [tensor("t2")]
    )
    other = body([node("Neg", ["x"], ["t"])], [], [tensor("t")])
    return {"then_branch": then, "else_branch": other}


@pytest.mark.parametrize(("batch", "taken"), [("two", ["Conv", "Relu"]), ("one", ["Neg"])])
@pytest.mark.parametrize("opset", [11, 18])
def test_a_branch_that_the_shape_decides(batch: str, taken: list[str], opset: int) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Equal", ["n", batch], ["c"]),
        node("If", ["c"], ["r"], **branches()),
        *TAIL,
    ]
    model = check(build(nodes, opset))
    steps = model.program({"x": X.shape}).steps
    assert [s.node.op_type for s in steps] == [*taken, "GlobalAveragePool", "Flatten"]
    assert model.inspect().to_dict()["nodes"][-3]["supported"]


def test_a_branch_that_hands_on_what_is_around_it() -> None:
    inner = body([node("Identity", ["x"], ["i"])], [], [tensor("i")])
    innermost = body(
        [node("Add", ["m", "b"], ["k"])], [], [tensor("k")], {"b": np.full((1, 1, 1, 1), 2, np.float32)}
    )
    choice = node("If", ["yes"], ["o"], then_branch=innermost, else_branch=inner)
    nested = body([node("Neg", ["x"], ["m"]), choice], [], [tensor("o")])
    nodes = [node("If", ["yes"], ["r"], then_branch=nested, else_branch=inner), *TAIL]
    check(build(nodes))


def repeated(**given: Any) -> GraphProto:
    """Convolution and Relu on what is carried along; the mean of each step is stacked."""
    nodes = [
        node("Conv", ["a", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["a2"]),
        node("ReduceMean", ["a2", "axes"], ["mean"], keepdims=0),
        *given.get("more", [node("Identity", ["going"], ["on"])]),
    ]
    inputs = [
        tensor("i", TensorProto.INT64, []),
        tensor("going", TensorProto.BOOL, []),
        tensor("a", 1, X.shape),
    ]
    return body(
        nodes,
        inputs,
        [tensor("on", TensorProto.BOOL, []), tensor("a2", 1, X.shape), tensor("mean", 1, (2, 3))],
    )


def test_a_loop_with_a_known_trip_count() -> None:
    nodes = [node("Loop", ["three", "", "x"], ["r", "means"], body=repeated(), name="rounds"), *TAIL]
    model = check(build(nodes))
    steps = model.program({"x": X.shape}).steps
    assert [s.node.op_type for s in steps].count("Conv") == 3
    assert steps[0].node.name.startswith("rounds/0/")
    layers = [layer.tensor for layer in model.explain(X, layers="spine")]
    assert sum("/a2" in name or "#1" in name for name in layers) >= 2


def test_a_loop_that_ends_by_its_condition() -> None:
    nodes = [
        node(
            "Loop", ["", "yes", "x"], ["r", "means"], body=repeated(more=[node("Less", ["i", "one"], ["on"])])
        ),
        *TAIL,
    ]
    model = check(build(nodes))
    assert [s.node.op_type for s in model.program({"x": X.shape}).steps].count("Conv") == 2


def test_a_scan_both_ways() -> None:
    step = body(
        [node("Add", ["state", "row"], ["next"]), node("Mul", ["next", "next"], ["out"])],
        [tensor("state", 1, (2, 3, 5)), tensor("row", 1, (2, 3, 5))],
        [tensor("next", 1, (2, 3, 5)), tensor("out", 1, (2, 3, 5))],
    )
    scan = node(
        "Scan", ["start", "x"], ["end", "r"], body=step, num_scan_inputs=1, scan_input_axes=[2],
        scan_output_axes=[-2], scan_input_directions=[1], scan_output_directions=[1],
    )  # fmt: skip
    nodes = [
        scan,
        node("Conv", ["r", "w"], ["k"]),
        node("GlobalAveragePool", ["k"], ["g"]),
        node("Flatten", ["g"], ["y"]),
    ]
    check(build(nodes, start=np.zeros((2, 3, 5), np.float32)))


@pytest.mark.parametrize("opset", [11, 24])
def test_sequences_of_tensors(opset: int) -> None:
    nodes = [
        node("SplitToSequence", ["x"], ["rows"], axis=2, keepdims=0),
        node("SplitToSequence", ["x", "two"], ["pairs"], axis=1),
        node("SequenceAt", ["pairs", "last"], ["tail"]),
        node("SequenceErase", ["pairs", "zero"], ["rest"]),
        node("SequenceEmpty", [], ["none"]),
        node("SequenceInsert", ["none", "x"], ["more"]),
        node("SequenceInsert", ["more", "tail", "zero"], ["many"]),
        node("SequenceConstruct", ["x", "tail"], ["two_of_them"]),
        node("Identity", ["two_of_them"], ["same"]),
        node("ConcatFromSequence", ["many"], ["joined"], axis=1),
        node("ConcatFromSequence", ["same"], ["joined2"], axis=1),
        node("ConcatFromSequence", ["rest"], ["joined3"], axis=1),
        node("ConcatFromSequence", ["rows"], ["stacked"], axis=2, new_axis=1),
        node("SequenceLength", ["rows"], ["count"]),
        node("Cast", ["count"], ["factor"], to=1),
        node("Concat", ["joined", "joined2", "joined3", "stacked"], ["all"], axis=1),
        node("Mul", ["all", "factor"], ["scaled"]),
        node("Conv", ["scaled", "wide"], ["r"]),
        *TAIL,
    ]
    check(build(nodes, opset, wide=floats(2, 12, 3, 3)))


def refusal(nodes: list[NodeProto], **constants: np.ndarray) -> tuple[str, str]:
    (first, *_) = nf.load(build(nodes, **constants)).inspect().unsupported
    return first.node, first.reason


COMPUTED = [node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Greater", ["sum", "limit"], ["open"])]


def test_what_hangs_on_the_picture_is_refused_by_name() -> None:
    name, reason = refusal([*COMPUTED, node("If", ["open"], ["r"], name="choice", **branches()), *TAIL])
    assert name == "choice"
    assert reason.startswith("its condition 'open' depends on the model's input")
    loop = node("Loop", ["three", "open", "x"], ["r", "means"], body=repeated(), name="rounds")
    assert refusal([*COMPUTED, loop, *TAIL])[0] == "rounds"
    inside = [node("ReduceSum", ["a2"], ["total"], keepdims=0), node("Greater", ["total", "limit"], ["on"])]
    loop = node("Loop", ["three", "", "x"], ["r", "means"], body=repeated(more=inside), name="rounds")
    assert "its condition after step 0 depends" in refusal([loop, *TAIL])[1]
    at = [node("Cast", ["sum"], ["where"], to=TensorProto.INT64), node("SplitToSequence", ["x"], ["s"])]
    _, reason = refusal([COMPUTED[0], *at, node("SequenceAt", ["s", "where"], ["r"]), *TAIL])
    assert reason.startswith("its position 'where' depends")


def test_a_node_that_takes_no_sequence_says_so() -> None:
    name, reason = refusal(
        [node("SequenceConstruct", ["x"], ["s"]), node("Relu", ["s"], ["r"], name="odd"), *TAIL]
    )
    assert name == "odd"
    assert "sequence" in reason


def test_an_unsupported_node_inside_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    then = body(
        [node("Conv", ["x", "odd"], ["t"], name="inner")], [], [tensor("t")], {"odd": floats(2, 5, 3, 3)}
    )
    nodes = [node("If", ["yes"], ["r"], then_branch=then, else_branch=then, name="choice"), *TAIL]
    report = nf.load(build(nodes)).inspect()
    assert [u.node for u in report.unsupported] == ["choice/inner"]
    assert not report.to_dict()["nodes"][0]["supported"]
    monkeypatch.setattr(unfold, "MOST_NODES", 10)
    endless = node("Loop", ["", "", "x"], ["r", "means"], body=repeated(), name="rounds")
    assert "more than 10 nodes" in refusal([endless, *TAIL])[1]


def test_the_reference_agrees_with_the_file_as_it_is() -> None:
    nodes = [node("Loop", ["three", "", "x"], ["r", "means"], body=repeated()), *TAIL]
    model = build(nodes)
    (wanted,) = run_onnxruntime(model, {"x": X}, ["y"])
    explanation = nf.load(model).explain(X)
    np.testing.assert_allclose(explanation.prediction.scores, wanted, rtol=1e-4)
