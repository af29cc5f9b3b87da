"""Integers of 8 and 16 bits that follow the model's input are carried in float32, and divided as C does."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from onnx import TensorProto, helper

import naflow_core as nf
from naflow_core.ops.integer import divide_carried
from support.blocks import Net
from support.onnx_graphs import make_model, run_onnxruntime

TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "uint16": TensorProto.UINT16,
         "int16": TensorProto.INT16}  # fmt: skip
"""Of ONNX, by NumPy's names."""


def every_pair(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of 8 bits, or those of 16 that are hardest: next to a multiple of the divisor."""
    limits = np.iinfo(kind)
    if limits.bits == 8:
        every = np.arange(limits.min, limits.max + 1)
        a, b = np.meshgrid(every, every[every != 0])
    else:
        b = np.concatenate([np.arange(1, 300), np.arange(limits.max - 200, limits.max + 1)])
        b = np.concatenate([b, -b]) if limits.min else b
        most = limits.max // np.abs(b)
        a = np.stack([np.clip(most * np.abs(b) + d, limits.min, limits.max) for d in (-2, -1, 0, 1)])
        a, b = np.concatenate([a, -a] if limits.min else [a, a // 2]), np.broadcast_to(b, (8, len(b)))
    fits = ~((a == limits.min) & (b == -1))  # beyond the type's limits, where C says nothing
    return a[fits], b[fits]


@pytest.mark.parametrize("kind", TYPES)
def test_quotients_are_those_of_integers(kind: str) -> None:
    a, b = every_pair(kind)
    expected = np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b)
    np.testing.assert_array_equal(divide_carried(a, b), expected)


def test_nothing_is_divided_by_nought() -> None:
    value, slope = jax.jvp(lambda x: divide_carried(x, np.float32([0, 4])), (np.float32([7, 7]),),
                           (np.ones(2, np.float32),))  # fmt: skip
    assert value.tolist() == [0, 1]
    assert slope.tolist() == [0, 0.25]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("known", [False, True])
def test_a_file_computes_what_onnxruntime_does(kind: str, known: bool) -> None:
    a, b = (values[:: len(values) // 60][:48].astype(kind).reshape(1, 3, 4, 4) for values in every_pair(kind))
    if known:
        b = np.array([[[[3]], [[7]], [[50]]]]).astype(kind)
    node = helper.make_node("Div", ["a", "b"], ["q"], name="quotient")
    cast = helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)
    inputs = {"a": a.shape} if known else {"a": a.shape, "b": b.shape}
    model = make_model([node, cast], inputs, constants={"b": b} if known else {}, opset=18)
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TYPES[kind]
    feeds = {"a": a} if known else {"a": a, "b": b}
    expected = run_onnxruntime(model, feeds)[0]
    loaded = nf.load(model)
    assert not loaded.inspect().program.unsupported
    outcome = loaded.verify(feeds, tolerance=1e-7)
    assert {t.tensor for t in outcome.tensors} == {"q", "y"}
    assert outcome.ok
    np.testing.assert_array_equal(expected.ravel(), np.trunc(a / b.astype(np.float64)).ravel())


def test_flows_lead_through_to_the_picture() -> None:
    """Pixels that the graph halves, as some exporters' preprocessing does."""
    net = Net()
    net.add("Div", ["x", net.constant("two", np.uint8(2))], "half")
    net.add("Cast", ["half"], "float", to=TensorProto.FLOAT)
    net.conv("float", "c", 3, 4)
    net.dense(net.add("Flatten", [net.add("Relu", ["c"], "r")], "f"), "y", 64, 2)
    model = net.model(1, size=4)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4)).astype(np.uint8)
    loaded = nf.load(model)
    assert loaded.verify(x).ok
    flow = loaded.explain(x, layers="spine").collect().flows[0]
    assert flow.tensor == "x"
    assert flow.map.max() > 0
