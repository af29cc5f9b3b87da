"""The public path against the cascade computed with explicit matrices (METHOD.md sections 2 to 4)."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import naflow_core as nf
from support import replicas
from support.blocks import SPINE, as_analysed, network, picture, spine_of
from support.replicas import Options

load = functools.cache(lambda name: nf.load(network(name)))

CASES = {
    "paper": Options(),
    "active-rows": Options(rows="active", damping=0.1),
    "all-rows": Options(rows="all", damping=0.3),
    "anchored": Options(anchor="activation"),
    "signed": Options(anchor="signed", feasible=True, damping=0.2, mass=0.95),
    "relative": Options(anchor="relative", damping=0.2, mass=0.9),
    "relative, in range": Options(
        anchor="relative", rows="active", feasible=True, damping=0.3, mass=0.9, balanced=True, net=True
    ),
    "feasible": Options(feasible=True, damping=0.2, mass=0.9),
    "default": Options(
        rows="active", anchor="activation", feasible=True, damping=0.3, mass=0.9, graded=True, net=True
    ),
    "positive": Options(rows="active", feasible=True, damping=0.3, mass=0.9, soft=True),
    "soft": Options(feasible=True, damping=0.3, mass=0.9, soft=True),
    "graded": Options(feasible=True, damping=0.2, mass=0.6, graded=True),
    "net": Options(feasible=True, damping=0.2, mass=0.9, net=True),
    "balanced": Options(feasible=True, damping=0.2, mass=0.8, balanced=True),
    "soft, active rows": Options(rows="active", feasible=True, damping=0.2, mass=0.8, soft=True),
    "mass-each": Options(feasible=True, damping=0.2, mass=0.9, each=True),
}
RUNS = [
    *(("residual", case) for case in CASES),
    ("inception", "paper"),
    ("squeeze-and-excitation", "feasible"),
    ("dense", "paper"),
    ("dense", "net"),
    ("inception", "relative"),
    ("squeeze-and-excitation", "relative, in range"),
    *((name, "default") for name in ("inception", "squeeze-and-excitation", "dense")),
]


def method(options: Options) -> nf.Method:
    abandon = nf.Abandonment("zero-gradient")
    if options.mass is not None:
        rule = "mass-each" if options.each else "soft-mass" if options.soft else "mass"
        rule = "balanced-mass" if options.balanced else "graded-mass" if options.graded else rule
        abandon = nf.Abandonment(rule, options.mass)
    return nf.Method(
        rows=options.rows, abandon=abandon, feasible=options.feasible, anchor=options.anchor,
        damping=options.damping, evidence="net" if options.net else "positive", tolerance=1e-6,
        max_iterations=5000,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "case"), RUNS)
def test_flows_equal_the_dense_cascade(name, case):
    options, x = CASES[case], picture(1)
    explanation = load(name).explain(x, method=method(options), layers="spine")
    spine = spine_of(name)
    assert explanation.plan.spine == spine
    target = int(explanation.prediction.target[0])
    expected = replicas.cascade(as_analysed(name), x, spine, "y", target, options)
    flows = {flow.tensor: flow for flow in explanation}
    assert set(flows) == set(spine)
    for tensor, layer in expected.items():
        got = flows[tensor]
        np.testing.assert_allclose(
            got.map, layer.flow, atol=3e-3 * layer.flow.max(), err_msg=f"flow of {tensor}"
        )
        assert got.diagnostics.retained_fraction[0] == pytest.approx(layer.retained.mean(), abs=1e-6)
        assert got.diagnostics.converged[0]


def test_the_dense_cascade_tells_the_options_apart():
    """Otherwise the comparison above would hold whatever the options did."""
    x = picture(1)
    flows = {
        case: replicas.cascade(network("residual"), x, SPINE, "y", 0, options)["r0"].flow
        for case, options in CASES.items()
    }
    for one in flows:
        for other in flows:
            if one < other:
                assert np.abs(flows[one] - flows[other]).max() > 0.01 * flows[one].max(), (one, other)
