"""Tensors whose axis 0 is not that of the pictures: channels folded into it, or outputs that lost it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto

import naflow_core as nf
from support.blocks import Net
from support.onnx_graphs import make_model

SIZE = 8


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)


def folded(net: Net, source: str) -> str:
    """One blur for every channel, with the channels folded into the batch axis meanwhile."""
    net.constant("apart", np.array([-1, 1, SIZE, SIZE]))
    net.constant("together", np.array([-1, 4, SIZE, SIZE]))
    net.add("Reshape", [source, "apart"], "fold")
    net.conv("fold", "blur", 1, 1)
    return net.add("Reshape", ["blur", "together"], "unfold")


def depthwise(net: Net, source: str) -> str:
    """The same blur as a depthwise convolution."""
    net.conv(source, "blur", 1, 1)
    net.nodes.pop()
    net.constant("w_each", np.repeat(net.constants["w_blur"], 4, axis=0))
    net.constant("b_each", np.repeat(net.constants["b_blur"], 4))
    return net.add("Conv", [source, "w_each", "b_each"], "unfold", pads=[1] * 4, group=4)


def network(blur: Callable[[Net, str], str], *, residual: bool) -> ModelProto:
    net = Net()
    net.conv("x", "c0", 3, 4)
    net.add("Relu", ["c0"], "r0")
    last = blur(net, "r0")
    if residual:
        net.add("Relu", [last], "inner")
        last = net.add("Add", ["inner", "r0"], "sum")
    net.conv(last, "c1", 4, 5)
    net.add("Relu", ["c1"], "top")
    net.add("GlobalAveragePool", ["top"], "p")
    net.add("Flatten", ["p"], "f")
    net.dense("f", "y", 5, 4)
    return net.model(size=SIZE)


def flows_of(model: ModelProto, x: np.ndarray, preset: str) -> dict[str, nf.Flow]:
    method = nf.Method.preset(preset)
    flows = nf.load(model).explain(x, nf.ClassTarget(2), method=method, layers="nodes")
    return {flow.tensor: flow for flow in flows}


@pytest.mark.parametrize("residual", [False, True], ids=["chain", "residual"])
def test_channels_folded_into_the_batch_give_the_maps_of_a_depthwise_convolution(residual):
    flows, expected = (
        flows_of(network(b, residual=residual), pictures(2), "net") for b in (folded, depthwise)
    )
    assert set(flows) == set(expected)
    for tensor, flow in flows.items():
        assert flow.diagnostics.retained_fraction.shape == (2,)
        np.testing.assert_allclose(flow.map, expected[tensor].map, rtol=1e-4, atol=1e-6, err_msg=tensor)


def test_channels_folded_into_the_batch_are_solved_picture_by_picture():
    model, x = network(folded, residual=True), pictures(2)
    together, alone = (flows_of(model, part, "default") for part in (x, x[1:]))
    for tensor, flow in alone.items():
        np.testing.assert_allclose(flow.map[0], together[tensor].map[1], rtol=1e-3, atol=1e-5)


def test_the_report_says_why_a_folded_tensor_gets_no_flow():
    report = nf.load(network(folded, residual=False)).inspect().to_dict()
    reasons = {entry["reason"]: entry["tensors"] for entry in report["without_flow"]}
    assert reasons["has no axis of its own for the pictures of a batch"] == ["fold", "blur"]
    assert [segment["nodes"] for segment in report["segments"]][2] == [
        "node_fold",
        "node_blur",
        "node_unfold",
    ]


def test_frames_folded_into_the_batch_are_refused_by_name():
    net = Net()
    net.constant("apart", np.array([-1, 3, SIZE, SIZE]))
    net.add("Reshape", ["x", "apart"], "frames")
    net.conv("frames", "c0", 3, 4)
    net.add("GlobalAveragePool", ["c0"], "p")
    net.add("Reshape", ["p", net.constant("together", np.array([-1, 5, 4]))], "each")
    net.add("ReduceMean", ["each", net.constant("one", np.array([1]))], "v", keepdims=0)
    net.dense("v", "y", 4, 4)
    model = nf.load(make_model(net.nodes, {"x": ("n", 5, 3, SIZE, SIZE)}, constants=net.constants))
    with pytest.raises(nf.AnalysisError, match=r"axis 0 of 'frames' \[5, 3, 8, 8\]"):
        model.explain(np.zeros((1, 5, 3, SIZE, SIZE), np.float32))


def squeezed(squeeze: bool, classes: int = 4) -> nf.Model:
    """Scores with, or without, an axis for the one picture."""
    net = Net()
    net.conv("x", "c0", 3, 4)
    net.add("Relu", ["c0"], "top")
    net.add("GlobalAveragePool", ["top"], "p")
    net.add("Flatten", ["p"], "f")
    net.dense("f", "scores" if squeeze else "y", 4, classes)
    if squeeze:
        net.add("Squeeze", ["scores"], "y")
    return nf.load(net.model(size=SIZE))


@pytest.mark.parametrize("classes", [4, 1])
def test_scores_without_an_axis_for_the_picture(classes):
    x = pictures(1)
    got, expected = (squeezed(s, classes).explain(x, layers="spine") for s in (True, False))
    np.testing.assert_array_equal(got.prediction.scores, expected.prediction.scores)
    np.testing.assert_array_equal(got.prediction.target, expected.prediction.target)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours.map, theirs.map)
    reference = squeezed(True, classes).reference_scores(x, "y")
    np.testing.assert_allclose(reference, got.prediction.scores, atol=1e-5)


def test_an_embedding_without_an_axis_for_the_picture():
    x, reference = pictures(2)[:, None]
    got, expected = squeezed(True), squeezed(False)
    np.testing.assert_array_equal(got.embed(x), expected.embed(x))
    assert got.inspect().head.shape == (4,)
    runs = [model.explain(x, nf.SimilarityTarget(reference)) for model in (got, expected)]
    for ours, theirs in zip(*runs, strict=True):
        np.testing.assert_array_equal(ours.map, theirs.map)
    maps = [nf.point_to_point(model, x, reference, (3, 3)) for model in (got, expected)]
    np.testing.assert_array_equal(*maps)


def folded_output() -> nf.Model:
    """Scores [4, n]: the pictures are on axis 1."""
    net = Net()
    net.conv("x", "c0", 3, 4)
    net.add("Relu", ["c0"], "top")
    net.add("GlobalAveragePool", ["top"], "p")
    net.add("Flatten", ["p"], "f")
    net.add("Transpose", ["f"], "y")
    return nf.load(net.model(size=SIZE))


def test_pictures_whose_scores_have_no_axis_of_their_own_go_one_by_one():
    model, x = folded_output(), pictures(3)
    together = model.explain(x, layers="spine")
    assert together.prediction.scores.shape == (3, 4)
    np.testing.assert_array_equal(model.embed(x)[..., 0], together.prediction.scores)
    np.testing.assert_allclose(model.reference_scores(x, "y"), together.prediction.scores, atol=1e-5)
    alone = model.explain(x[2:], layers="spine")
    np.testing.assert_array_equal(alone.prediction.scores, together.prediction.scores[2:])
    for one, all_ in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.map[0], all_.map[2])


def test_a_batch_size_written_into_the_graph_holds_for_onnxruntime_too():
    net = Net()
    net.conv("x", "c0", 3, 4)
    net.add("GlobalAveragePool", ["c0"], "p")
    net.add("Reshape", ["p", net.constant("shape", np.array([1, 4]))], "f")
    net.dense("f", "y", 4, 4)
    model, x = nf.load(net.model(size=SIZE)), pictures(3)
    reference = model.reference_scores(x, "y")
    np.testing.assert_allclose(reference, model.explain(x).prediction.scores, atol=1e-5)
