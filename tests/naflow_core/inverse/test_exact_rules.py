"""Every inverse rule against the law that its row of the table names (METHOD.md section 5, property 1)."""

from __future__ import annotations

import functools

import numpy as np
import onnx.defs
import pytest
from onnx import helper

import naflow_core as nf
from naflow_core.analysis.plan import make_segment
from naflow_core.inverse.registry import REGISTRY, RuleRegistry
from naflow_core.ops import contrib
from support import replicas
from support.inverse_cases import ROWS
from support.onnx_graphs import make_model
from support.rule_runs import RuleRun

run = functools.cache(lambda index: RuleRun(ROWS[index]))


def rows(*laws: str) -> pytest.MarkDecorator:
    chosen = [pytest.param(i, id=str(row)) for i, row in enumerate(ROWS) if not laws or row.law in laws]
    return pytest.mark.parametrize("index", chosen)


def test_every_registered_rule_has_a_row():
    registered = {
        (op, rule)
        for domain, op, names in REGISTRY.names()
        for rule in names
        # other tests of this process register operators of their own
        if domain == contrib.DOMAIN or onnx.defs.has(op, domain)
    }
    assert {(row.op_type, row.rule) for row in ROWS} == registered


@rows()
def test_the_planner_chooses_the_rule(index):
    assert run(index).segment.rule.name == ROWS[index].rule
    assert run(index).segment.rule.kind in {"exact", "mask", "passthrough"}


@rows("bijection", "same-sign", "quantised")
def test_forward_of_inverse_gives_back_what_was_inverted(index):
    case, x = run(index), ROWS[index].inputs[ROWS[index].position]
    generator = np.random.default_rng(7)
    if ROWS[index].law == "bijection":
        x = generator.permutation(x.reshape(-1)).reshape(x.shape)
    elif ROWS[index].law == "same-sign":
        x = (x * generator.uniform(0.2, 2, x.shape)).astype(np.float32)
    if ROWS[index].op_type == "DequantizeLinear":  # solved for the integers, which the model makes from x
        np.testing.assert_allclose(case.inverse(case.y0), case.x0, atol=1e-4)
        return
    y = case.forward(x)
    np.testing.assert_allclose(case.forward(case.inverse(y)), y, rtol=2e-4, atol=2e-5)


@rows("same-sign")
def test_the_forward_output_gives_back_the_forward_input(index):
    case = run(index)
    np.testing.assert_allclose(case.inverse(case.y0), case.x0, rtol=2e-4, atol=2e-5)


@rows("linear")
def test_inverse_is_the_dense_pseudo_inverse(index):
    case = run(index)
    x0 = case.x0
    whole = replicas.Function(case.model, "x", "y")

    def function(batch: np.ndarray) -> np.ndarray:  # the batch axis counts as an unknown like any other
        return np.stack([whole(v.reshape(x0.shape)).reshape(-1) for v in batch])

    linear = replicas.Linearised.of(function, x0.reshape(1, -1))
    y = np.random.default_rng(3).normal(size=case.y0.shape) * 3
    expected = np.linalg.pinv(linear.matrix, rcond=1e-6) @ (y.reshape(-1) - linear.offset)
    np.testing.assert_allclose(case.inverse(y).reshape(-1), expected, rtol=1e-3, atol=1e-4)


@rows("gate")
def test_a_frozen_gate_scales(index):
    case = run(index)
    expected = np.where(case.y0 == 0, 0, case.x0)
    alive = np.abs(case.y0) > 1e-6
    for factor in (1.0, -2.5):
        got = case.inverse(factor * case.y0)
        np.testing.assert_allclose(got[alive], factor * expected[alive], rtol=1e-4, atol=1e-6)
        assert not got[case.y0 == 0].any()


@rows("frozen")
def test_a_normalisation_inverts_with_the_forward_statistics(index):
    row, case = ROWS[index], run(index)
    x0 = case.x0.astype(np.float64)
    np.testing.assert_allclose(row.frozen(x0, x0), case.y0, rtol=1e-4, atol=1e-4)
    y = np.random.default_rng(4).normal(size=case.y0.shape) * 2
    got = case.inverse(y)
    dead = row.frozen(x0 + 1, x0) == row.frozen(x0, x0)
    np.testing.assert_allclose(row.frozen(got.astype(np.float64), x0)[~dead], y[~dead], rtol=1e-3, atol=1e-3)
    assert not got[dead].any(), "a zero scale abandons the neuron"


@rows()
def test_any_value_gives_finite_numbers(index):
    case = run(index)
    shape = case.y0.shape
    generator = np.random.default_rng(5)
    for y in (0.0, -0.0, 1e-38, 1e30, -1e30, 3.4e38, -3.4e38, generator.normal(size=shape) * 1e20):
        got = case.inverse(np.broadcast_to(np.asarray(y, np.float32), shape))
        assert np.isfinite(got).all(), f"y = {np.min(y)}"


@rows()
def test_dead_and_huge_forward_values_give_finite_numbers(index):
    row = ROWS[index]
    for value in (
        (0.0, 1.0, 1e15) if row.op_type not in {"Exp", "Log", "Reciprocal", "Pow", "Div"} else (1.0, 50.0)
    ):
        case = RuleRun(row, np.full(row.inputs[row.position].shape, value, np.float32))
        if np.isfinite(case.y0).all():
            for y in (0.0, 1.0, -1e30):
                assert np.isfinite(case.inverse(np.full(case.y0.shape, y))).all(), (value, y)


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("Pad", (np.array([0, 0, 1, 1, 0, 0, 1, 1]),), {"mode": "reflect"}),
        ("AveragePool", (), {"kernel_shape": (3, 3), "strides": (2, 2)}),
        ("Add", (np.ones((2, 1, 3, 4, 6), np.float32),), {}),
        ("Pow", (np.float32(0.0),), {}),
        ("Elu", (), {"alpha": -1.0}),
        ("Resize", (None, np.array([1, 1, 1.5, 2], np.float32)), {"mode": "nearest"}),
        ("Resize", (None, np.array([1, 1, 2, 2], np.float32)), {"mode": "linear"}),
        ("Conv", (np.ones((2, 3, 1, 1), np.float32),), {}),
    ],
)
def test_what_no_exact_rule_fits_falls_to_least_squares(op, operands, attributes):
    names = ["" if v is None else f"c{i}" for i, v in enumerate(operands)]
    constants = {n: v for n, v in zip(names, operands, strict=True) if n}
    model = make_model(
        [helper.make_node(op, ["x", *names], ["y"], **attributes)], {"x": (1, 3, 4, 6)}, constants=constants
    )
    segment = make_segment(nf.load(model).program({"x": (1, 3, 4, 6)}), "x", "y", ())
    assert segment.rule.name == "least-squares"


def test_the_registry_refuses_a_second_rule_of_one_name_and_prefers_the_newest():
    registry = RuleRegistry()
    registry.register("Relu", name="one")(lambda y, _site: y)
    with pytest.raises(ValueError, match="already has an inverse rule 'one'"):
        registry.register("Relu", name="one")(lambda y, _site: y)
    registry.register("Relu", name="two")(lambda y, _site: y)
    site = type("S", (), {"instruction": run(0).segment.subprogram.instructions[0]})()
    assert registry.find(site).name == "two"
    registry.unregister("Relu", "two")
    assert registry.find(site).name == "one"
