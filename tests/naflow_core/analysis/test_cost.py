"""Estimated cost against counts by hand, and against what XLA allocates."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from onnx import helper

import naflow_core as nf
from naflow_core import cascade
from naflow_core.analysis.cost import TYPICAL_ITERATIONS, multiply_adds, segment_cost, total_cost
from naflow_core.ops.conv import transformed_numbers
from naflow_core.records import State
from support.blocks import Net, network
from support.onnx_graphs import make_model

ARRAYS = {
    "w": np.ones((6, 2, 3, 3), np.float32),
    "up": np.ones((4, 3, 2, 2), np.float32),
    "matrix": np.ones((8, 5), np.float32),
    "scalar": np.float32(2),
}
COUNTS = {
    # 6 x 8 x 8 outputs, each over 2 channels of a group and 3 x 3 cells
    "Conv": (["x", "w"], {"group": 2, "pads": [1] * 4}, 6 * 64 * 2 * 9),
    # 4 x 8 x 8 inputs, each spread over 3 channels and 2 x 2 cells
    "ConvTranspose": (["x", "up"], {}, 4 * 64 * 3 * 4),
    "MatMul": (["x", "matrix"], {}, 4 * 8 * 8 * 5),
    "AveragePool": (["x"], {"kernel_shape": [2, 2], "strides": [2, 2]}, 4 * 16 * 4),
    "GlobalAveragePool": (["x"], {}, 4 * 64),
    "Relu": (["x"], {}, 4 * 64),
    "Mul": (["x", "scalar"], {}, 4 * 64),
    "Transpose": (["x"], {"perm": [0, 2, 3, 1]}, 0),
    "LRN": (["x"], {"size": 5}, 4 * 64 * 5),
    "Einsum": (["x", "matrix"], {"equation": "...k,kn->...n"}, 4 * 8 * 8 * 5),
}


def program_of(node, constants):
    used = {name: ARRAYS[name] for name in constants if name in ARRAYS}
    return nf.load(make_model([node], {"x": (1, 4, 8, 8)}, constants=used)).program({"x": (1, 4, 8, 8)})


@pytest.mark.parametrize("kind", COUNTS)
def test_multiply_adds_of_one_node(kind):
    inputs, attributes, expected = COUNTS[kind]
    program = program_of(helper.make_node(kind, inputs, ["y"], **attributes), inputs)
    assert multiply_adds(program, program.steps[0]) == expected


def test_a_product_of_two_moving_tensors_counts_twice():
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Mul", ["x", "a"], ["y"])]
    program = nf.load(make_model(nodes, {"x": (1, 4, 8, 8)})).program({"x": (1, 4, 8, 8)})
    assert multiply_adds(program, program.steps[1]) == 2 * 4 * 64


def test_a_solve_applies_the_jacobian_and_its_transpose_in_every_iteration():
    report = nf.load(network("residual", batch=1)).inspect()
    assert report.plan is not None
    costs = dict(zip((s.target for s in report.plan.segments), report.costs(), strict=True))
    convolution = 3 * 25 * 3 * 9
    assert costs["c0"].application == convolution
    assert costs["c0"].solve == 2 * TYPICAL_ITERATIONS * convolution
    assert costs["r0"].solve == costs["r0"].application == 3 * 25
    assert costs["b"].application == 2 * convolution + 3 * 25 + 2 * 3 * 25  # two convolutions, Relu, Add
    total = total_cost(report.costs())
    assert total.solve == sum(cost.solve for cost in costs.values())
    assert total.memory == max(cost.memory for cost in costs.values())


def test_cost_grows_with_the_picture_and_the_batch():
    net = Net()
    net.conv("x", "c", 3, 4)
    net.add("Relu", ["c"], "top")
    net.add("GlobalAveragePool", ["top"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", 4, 2)
    model = nf.load(net.model("n", size="s"))  # type: ignore[arg-type]
    one, four, batch = (
        total_cost(model.inspect(input_shapes={"x": shape}).costs())
        for shape in ((1, 3, 8, 8), (1, 3, 16, 16), (4, 3, 8, 8))
    )
    assert four == batch
    assert four.solve == 4 * one.solve
    assert four.memory == 4 * one.memory


@pytest.mark.parametrize("channels", [8, 64])  # 64: with transformed convolutions
def test_memory_is_near_what_the_compiled_solve_allocates(channels):
    net = Net()
    net.conv("x", "c0", 3, channels)
    net.add("Relu", ["c0"], "r0")
    net.conv("r0", "c1", channels, channels)
    net.add("Relu", ["c1"], "r1")
    net.conv("r1", "c2", channels, channels)
    net.add("Add", ["c2", "r0"], "top")
    net.add("GlobalAveragePool", ["top"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", channels, 2)
    plan = nf.load(net.model(1, size=48)).inspect().plan
    assert plan is not None
    segment = plan.segments[-1]
    values = {name: plan.program.struct(name) for name in plan.program.shapes}
    number, flag = (jax.ShapeDtypeStruct(values["top"].shape, kind) for kind in (np.float32, np.bool_))
    call = cascade.arguments(plan, segment, nf.Method(), values, State(number, number, flag))
    allocated = cascade.invert.lower(*call).compile().memory_analysis().temp_size_in_bytes
    assert allocated / 3 < segment_cost(plan.program, segment).memory < allocated * 3


def test_what_a_convolution_is_transformed_to():
    # 36 places of both kernels, and of 12 x 12 tiles at either end
    x, w, pads = (1, 64, 48, 48), (32, 64, 3, 3), [1] * 4
    assert transformed_numbers(x, w, pads=pads) == 36 * (2 * 32 * 64 + 144 * (32 + 64))
    assert transformed_numbers(x, w, pads=pads, strides=[2, 2]) == 0
    assert transformed_numbers((1, 8, 48, 48), (8, 8, 3, 3), pads=pads) == 0
