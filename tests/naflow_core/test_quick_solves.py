"""Solves that give up a digit of float32 for speed: the same flows, and only where it is not asked for."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import naflow_core as nf
from naflow_core import cascade
from naflow_core.analysis.plan import Plan, make_plan
from naflow_core.ops.conv import TRANSFORMED_CHANNELS
from naflow_core.ops.winograd import TILE
from support.blocks import Net

WIDE, SIDE = TRANSFORMED_CHANNELS, 22
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere solves are as ever")


def network() -> nf.Model:
    """A convolution of its own, and two in a residual block."""
    net = Net()
    first = net.add("Relu", [net.conv("x", "c0", 3, WIDE)], "r0")
    second = net.add("Relu", [net.conv(first, "c1", WIDE, WIDE, kernel=5)], "r1")
    inner = net.add("Relu", [net.conv(second, "c2", WIDE, WIDE)], "r2")
    block = net.add("Add", [net.conv(inner, "c3", WIDE, WIDE), second], "sum")
    last = net.add("Relu", [block], "r3")
    net.dense(net.add("Flatten", [net.add("GlobalAveragePool", [last], "g")], "f"), "y", WIDE, 4)
    return nf.load(net.model(1, size=SIDE))


def picture() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)


def products(plan: Plan, method: nf.Method) -> int:
    """How many segments have a product for each place of a tile in their inversion."""
    values = {name: np.zeros(shape, np.float32) for name, shape in plan.program.shapes.items()}
    found = 0
    for segment in plan.segments:
        like = values[segment.target]
        state = cascade.State(like, like, like != 0)
        call = cascade.arguments(plan, segment, method, values, state)
        text = cascade.invert.traced.lower(*call).as_text()
        found += f"tensor<{TILE**2}x" in text
    return found


@on_cpu
def test_only_where_the_digit_is_not_asked_for() -> None:
    model = network()
    plan = make_plan(model.program(model.default_shapes()))
    for method, expected in (
        (nf.Method(), 2),
        (nf.Method.preset("paper"), 2),
        (nf.Method.preset("default", quality="draft"), 2),
        (nf.Method.preset("default", quality="exact"), 0),
        (nf.Method(tolerance=cascade.LEAST_QUICK_TOLERANCE / 2), 0),
        (nf.Method.preset("net"), 0),
    ):
        assert products(plan, method) == expected, method


@on_cpu
@pytest.mark.parametrize("preset", ["default", "positive", "paper"])
def test_flows_are_the_same(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, method = network(), nf.Method.preset(preset, max_iterations=20, tolerance=1e-3)
    quick = model.explain(picture(), method=method, layers="spine").collect().flows
    monkeypatch.setattr(cascade, "LEAST_QUICK_TOLERANCE", 1.0)
    plain = model.explain(picture(), method=method, layers="spine").collect().flows
    for a, b in zip(quick, plain, strict=True):
        np.testing.assert_allclose(a.map, b.map, rtol=0, atol=1e-4 * np.abs(b.map).max(), err_msg=a.tensor)
    assert any(not np.array_equal(a.map, b.map) for a, b in zip(quick, plain, strict=True))


@on_cpu
def test_coefficients_that_are_zero_stay_zero() -> None:
    """The zero-gradient rule reads exact zeros, which transforms of tiles would lose."""
    model = network()
    plan = make_plan(model.program(model.default_shapes()))
    segment = next(s for s in plan.segments if s.target == "c1")
    values = {name: np.zeros(shape, np.float32) for name, shape in plan.program.shapes.items()}
    values["r0"] = np.abs(np.random.default_rng(2).normal(size=plan.program.shapes["r0"])).astype(np.float32)
    above = np.zeros(plan.program.shapes["c1"], np.float32)
    above[:, :, 10, 10] = 1
    state = cascade.State(above, above, above != 0)
    call = cascade.arguments(plan, segment, nf.Method.preset("paper"), values, state)
    assert call[5].quickly
    seen = np.any(np.asarray(cascade.invert(*call).gradient) != 0, axis=(0, 1))
    expected = np.zeros((SIDE, SIDE), bool)
    expected[8:13, 8:13] = True
    np.testing.assert_array_equal(seen, expected)
