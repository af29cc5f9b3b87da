"""Programs are compiled quickly where that costs nothing to run, and compute the same either way."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naflow_core as nf
from naflow_core import compiled
from naflow_core.analysis.plan import make_plan
from naflow_core.compiled import Compiled
from support.blocks import Net, network, picture

CHANNELS = 32


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """What is known of XLA's options comes from no other test, and reaches none."""
    compiled._answer.cache_clear()
    yield
    compiled._answer.cache_clear()


def scaled(factor: float, x: jax.Array) -> jax.Array:
    return factor * jnp.sin(x)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only CPUs have the option")
def test_static_arguments_choose(asked_anew: None) -> None:
    function = Compiled(scaled, static=1, quickly=lambda factor: factor > 1)
    x = np.linspace(-3, 3, 7, dtype=np.float32)
    for factor in (0.5, 1.0, 2.0):
        np.testing.assert_allclose(function(factor, x), factor * np.sin(x), rtol=1e-6)
    assert (function.traced._cache_size(), function.programs()) == (2, 3)
    assert function.lower(2.0, x).as_text() == function.traced.lower(2.0, x).as_text()


def test_an_option_that_xla_does_not_know_is_left_out(
    asked_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "QUICK", {"xla_cpu_no_such_option": True})
    function = Compiled(scaled, static=1, quickly=lambda _factor: True)
    assert float(function(2.0, np.float32(np.pi / 2))) == pytest.approx(2)


@pytest.mark.parametrize("kind", ["residual", "inception"])
def test_flows_are_the_same_either_way(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nf.load(network(kind)), picture(1)
    quick = model.explain(x, layers="spine").collect().flows
    monkeypatch.setattr(compiled, "is_known", lambda: False)
    for a, b in zip(quick, model.explain(x, layers="spine").collect().flows, strict=True):
        np.testing.assert_allclose(a.map, b.map, rtol=0, atol=1e-5 * np.abs(b.map).max(), err_msg=a.tensor)


@pytest.mark.parametrize(("group", "shifts"), [(1, False), (2, False), (CHANNELS, True)])
def test_convolutions_of_many_groups_are_told_apart(group: int, shifts: bool) -> None:
    net = Net()
    first = net.add("Relu", [net.conv("x", "c0", 3, CHANNELS)], "r0")
    last = net.add("Relu", [net.conv(first, "c1", CHANNELS, CHANNELS, group=group)], "r1")
    net.dense(net.add("Flatten", [net.add("GlobalAveragePool", [last], "g")], "f"), "y", CHANNELS, 4)
    model = nf.load(net.model(1))
    plan = make_plan(model.program(model.default_shapes()))
    assert {s.target: s.subprogram.shifts_maps for s in plan.segments}["c1"] is shifts
    assert not any(s.subprogram.shifts_maps for s in plan.segments if s.target != "c1")
