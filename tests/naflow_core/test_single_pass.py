"""One program for the whole cascade gives what its steps give one after the other."""

from __future__ import annotations

import re

import numpy as np
import pytest

import naflow_core as nf
from naflow_core import cascade, explanation
from naflow_core.analysis.plan import Segment
from support.blocks import network, picture


@pytest.mark.parametrize("rule", ["zero-gradient", "soft-mass:0.9", "balanced-mass:0.9", "graded-mass:0.9"])
def test_layers_are_those_of_the_steps(rule, monkeypatch):
    """Tensors inside of a composite too, each of which starts from a tensor of its own."""
    model, x = nf.load(network("residual")), picture(1)
    method = nf.Method(inverse="activation", evidence="net", abandon=nf.Abandonment.parse(rule))

    def explain():
        return model.explain(x, method=method, layers="nodes").collect()

    together = explain()
    monkeypatch.setattr(explanation.single_pass, "run", cascade.run)
    monkeypatch.setattr(nf.Explanation, "_drop_after", lambda *_: None)  # the steps read on
    apart = explain()
    assert len(together.flows) == len(apart.flows) > 4
    for ours, theirs in zip(together.flows, apart.flows, strict=True):
        assert ours.tensor == theirs.tensor
        np.testing.assert_allclose(ours.map, theirs.map, atol=1e-5 * theirs.map.max(), err_msg=ours.tensor)
        for name in ("retained_fraction", "conservation_gap"):
            one, other = (getattr(flow.diagnostics, name) for flow in (ours, theirs))
            np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("preset", ["net", "default"])
def test_forward_values_are_held_and_computed_again_only_while_a_step_reads_them(preset, monkeypatch):
    passes = []
    run_model = explanation._run_model
    monkeypatch.setattr(explanation, "_run_model", lambda chunk: passes.append(1) or run_model(chunk))
    running = nf.load(network("residual")).explain(
        picture(1), method=nf.Method.preset(preset), layers="spine"
    )
    values = running._chunks[0].values
    last = len(running.layers) if preset == "default" else 1
    for number, _ in enumerate(running, 1):
        assert bool(values) == (number < last)
        running.release()
    assert len(passes) == last


@pytest.mark.parametrize(("block", "again"), [("residual", 1), ("bottleneck", 2), ("inception", 1)])
def test_what_a_backward_pass_reads_inside_of_a_block_is_not_computed_again(block, again, monkeypatch):
    counts = []
    descend = explanation.single_pass.descend

    def spy(*arguments):
        text = descend.lower(*arguments).compile().as_text()
        counts.append(len(re.findall(r" (?:convolution|dot)\(", text)))
        return descend(*arguments)

    monkeypatch.setattr(explanation.single_pass, "descend", spy)
    model, method = nf.load(network(block)), nf.Method.preset("net")
    read, computed = [], []
    for flows in (read, computed):
        flows += model.explain(picture(1), method=method, layers="spine").collect().flows
        monkeypatch.setattr(Segment, "inside", property(lambda _self: {}))
    assert counts[1] - counts[0] == again
    for a, b in zip(read, computed, strict=True):
        np.testing.assert_allclose(a.map, b.map, atol=1e-6 * b.map.max(), err_msg=a.tensor)
