"""Flows inside composites: a node rule for each tensor, the solve at a fork (METHOD.md section 4)."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import naflow_core as nf
from naflow_core import cascade
from support import replicas
from support.blocks import BLOCKS, MORE_BLOCKS, Net, as_analysed, network, picture, spine_of
from support.interior_replica import interior_layers

PAPER = nf.Method.preset("paper", tolerance=1e-6, max_iterations=2000)


class Run:
    """Every layer of one network for one picture, and its forward values."""

    def __init__(self, name):
        self.model, self.x = network(name), picture(1)
        explanation = nf.load(self.model).explain(self.x, method=PAPER, layers="nodes")
        self.plan, self.names = explanation.plan, explanation.layers
        self.flows = {flow.tensor: flow for flow in explanation}
        every = list(self.plan.program.shapes)
        self.values = replicas.tensors(self.model, self.x, [n for n in every if n != "x"]) | {"x": self.x}
        head = replicas.Linearised.of(replicas.Function(self.model, "top", "y"), self.values["top"])
        gradient = head.matrix[int(explanation.prediction.target[0])].reshape(self.values["top"].shape)
        device = {n: jnp.asarray(v, jnp.float32) for n, v in self.values.items()}
        layers = cascade.run(self.plan, PAPER, device, jnp.asarray(gradient, jnp.float32), set(self.names))
        self.states = {layer.tensor: layer.state for layer in layers}


run = functools.cache(Run)


def masked(run_, tensor, preimage):
    """`preimage` on the retained neurons of `tensor`, as the cascade would have it."""
    return np.where(run_.states[tensor].retained, preimage, 0)


def equal(got, expected, what=""):
    np.testing.assert_allclose(got, expected, atol=2e-4 * max(1.0, np.abs(expected).max()), err_msg=what)


EVERY = [*BLOCKS, *MORE_BLOCKS]


@pytest.mark.parametrize("name", EVERY)
def test_every_tensor_of_a_block_equals_the_slow_replica(name):
    """Node rules along a branch, a dense solve at each fork, every fork once."""
    case = run(name)
    target = int(np.argmax(case.values["y"]))
    expected = interior_layers(as_analysed(name), case.x, case.plan.spine, "y", target)
    maps = {n for n in expected if n in case.plan.layouts}
    assert set(case.names) == maps
    for tensor in maps:
        ours, theirs = case.states[tensor], expected[tensor]
        # a coefficient of 1e-9 of the largest may be 0 in one arithmetic and not in the other
        sure = np.abs(theirs.coefficients) > 1e-6 * np.abs(theirs.coefficients).max()
        np.testing.assert_array_equal(np.asarray(ours.retained)[sure], True, err_msg=tensor)
        equal(ours.coefficients, theirs.coefficients, tensor)
        equal(np.where(sure, ours.bpfm, 0), np.where(sure, theirs.bpfm, 0), tensor)
        np.testing.assert_allclose(
            case.flows[tensor].map, theirs.flow, atol=3e-3 * max(theirs.flow.max(), 1e-6), err_msg=tensor
        )


@pytest.mark.parametrize("name", ["squeeze-and-excitation", "gated-residual"])
def test_interior_flows_do_not_change_the_spine(name):
    case = run(name)
    spine_only = {f.tensor: f for f in nf.load(case.model).explain(case.x, method=PAPER, layers="spine")}
    assert tuple(reversed(spine_only)) == spine_of(name)
    for tensor, flow in spine_only.items():
        np.testing.assert_array_equal(case.flows[tensor].map, flow.map)


@pytest.mark.parametrize("name", ["residual", "inception"])
def test_interior_coefficients_are_gradients_along_their_own_branch(name):
    """Nothing is abandoned by the zero-gradient rule beyond what has no gradient: G = ds/dt exactly."""
    case = run(name)
    target = int(np.argmax(case.values["y"]))
    for tensor in set(case.names) - {"gap"}:
        head = replicas.Linearised.of(replicas.Function(case.model, tensor, "y", case.x), case.values[tensor])
        equal(case.states[tensor].coefficients, head.matrix[target].reshape(case.values[tensor].shape))


def test_residual_branch_is_what_the_skip_leaves():
    case = run("residual")
    b = np.asarray(case.states["b"].bpfm)
    equal(case.states["c2"].bpfm, masked(case, "c2", b - case.values["r0"]))
    dense = replicas.Linearised.of(replicas.Function(case.model, "r1", "c2"), case.values["r1"])
    c2 = case.states["c2"]
    equal(
        case.states["r1"].bpfm,
        masked(case, "r1", dense.preimage(np.asarray(c2.bpfm), np.asarray(c2.retained))),
    )
    equal(case.states["c1"].bpfm, masked(case, "c1", np.asarray(case.states["r1"].bpfm)))


def test_inception_branches_get_their_slice():
    case = run("inception")
    b = np.asarray(case.states["b"].bpfm)
    for tensor, begin in (("q1", 0), ("p2", 2), ("p3", 4)):
        equal(case.states[tensor].bpfm, masked(case, tensor, b[:, begin : begin + 2]))


def test_gate_and_gated_of_squeeze_and_excitation():
    case = run("squeeze-and-excitation")
    state = case.states["b"]
    # the gate is one number per channel: the least-squares fit of b = r0 * gate over the retained neurons
    x, b, kept = (np.asarray(v, np.float64) for v in (case.values["r0"], state.bpfm, state.retained))
    gate = (kept * x * b).sum((2, 3)) / np.maximum((kept * x * x).sum((2, 3)), 1e-30)
    equal(
        np.asarray(case.states["gate"].bpfm)[..., 0, 0],
        masked(case, "gate", gate[..., None, None])[..., 0, 0],
    )
    assert "g" in case.states, "the pooled features lie behind vectors without a map"


def test_an_inner_fork_is_solved_as_a_composite():
    """c1 on the branch of a gated residual block is read by the gate and by the product with it."""
    case = run("gated-residual")
    parts = {part.source: part for part in case.plan.interior(case.plan.segments[2])}
    assert parts["c1"].kind == "composite"
    assert parts["c1"].rule.name == "least-squares"
    assert parts["c1"].target == "m"
    assert parts["m"].rule.name == "affine"


def test_layers_of_a_dense_block_are_reached_one_by_one():
    """What is joined with all earlier features is a slice of the running concatenation."""
    case = run("dense")
    b = np.asarray(case.states["b"].bpfm)
    equal(case.states["r2"].bpfm, masked(case, "r2", b[:, 5:]))
    k1 = np.asarray(case.states["k1"].bpfm)
    equal(case.states["r1"].bpfm, masked(case, "r1", k1[:, 3:]))


def test_one_interior_layer_can_be_asked_for_by_name():
    case = run("squeeze-and-excitation")
    for wanted in ("g", "gate"):
        (flow,) = nf.load(case.model).explain(case.x, method=PAPER, layers=[wanted])
        np.testing.assert_array_equal(flow.map, case.flows[wanted].map)


def test_the_gated_branch_is_divided_by_its_gate():
    """A convolution before the product: its output is reached by y / gate."""
    net = Net(3)
    net.add("Relu", ["x"], "r0")
    net.conv("r0", "c1", 3, 3, 1)
    net.add("GlobalAveragePool", ["r0"], "g")
    net.conv("g", "h", 3, 3, 1)
    net.add("Sigmoid", ["h"], "gate")
    net.add("Mul", ["c1", "gate"], "b")
    net.add("Relu", ["b"], "top")
    net.add("GlobalAveragePool", ["top"], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.dense("flat", "y", 3, 4)
    model, x = net.model(), picture(2)
    explanation = nf.load(model).explain(x, method=PAPER, layers=["c1", "b"])
    flows = {flow.tensor: flow.map for flow in explanation}
    # B / gate times G * gate is B G again: dividing by the gate keeps the flow wherever the gate is open
    np.testing.assert_allclose(flows["c1"], flows["b"], rtol=1e-4, atol=1e-6)
