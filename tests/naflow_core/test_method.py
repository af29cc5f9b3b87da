"""Options of the method: presets, qualities, and the weighing of equations against explicit matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import naflow_core as nf
from naflow_core import cascade
from naflow_core.analysis.plan import make_plan
from naflow_core.records import State
from support.blocks import Net
from support.onnx_graphs import make_model
from support.replicas import Function, Linearised

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits_in_clutter" / "digits_in_clutter.onnx"
SIZE = 5
SCALE = np.float32([3, 0.2, -1, 0.5])


def scaled_convolution():
    """A convolution of stride 2 whose channels a Mul scales: the solve depends on the weights."""
    net = Net()
    net.conv("x", "c", 3, 4, strides=[2, 2])
    net.add("Mul", ["c", net.constant("scale", SCALE.reshape(-1, 1, 1))], "m")
    net.dense(net.add("Flatten", [net.add("Relu", ["m"], "r")], "f"), "y", 4 * 9, 2)
    return net.model(1, size=SIZE)


@pytest.mark.parametrize("weighting", ["plain", "scaled"])
def test_equations_count_alike_or_by_what_becomes_of_their_neuron(weighting):
    """Against a damped dense solve of the convolution alone, its rows multiplied by the weights."""
    proto = scaled_convolution()
    model = nf.load(proto)
    x = np.random.default_rng(3).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    plan = make_plan(model.program({"x": x.shape}), top="m")
    method = nf.Method(
        weighting=weighting, rows="all", abandon=nf.Abandonment("zero-gradient"), tolerance=1e-6,
        anchor="origin", feasible=False, max_iterations=2000,
    )  # fmt: skip
    linear = Linearised.of(Function(proto, "x", "c"), x)
    y0 = np.asarray(linear.y0, np.float32)
    aim = y0 * np.random.default_rng(4).uniform(0.2, 1.8, y0.shape).astype(np.float32)
    above = State(aim, np.ones_like(aim), np.ones(aim.shape, bool))
    state, _ = cascade.step(plan, plan.segments[0], method, {"x": x, "c": y0}, above)
    weights = np.abs(SCALE) if weighting == "scaled" else np.ones(4)
    rows = np.broadcast_to(weights.reshape(1, -1, 1, 1), y0.shape).reshape(-1)
    weighted = Linearised(linear.matrix * rows[:, None], linear.offset * rows, linear.x0, linear.y0)
    expected = weighted.preimage(aim.reshape(-1) * rows, np.ones(rows.size), damping=method.damping)
    np.testing.assert_allclose(state.bpfm, expected, atol=1e-4 * np.abs(expected).max())


def test_the_presets_of_the_paper_weigh_nothing():
    found = {name: method.weighting for name, method in nf.PRESETS.items()}
    plain = {name for name, weighting in found.items() if weighting == "plain"}
    assert plain == {"paper", "published-code"}


def test_the_presets_of_the_paper_rectify_each_channel_and_seek_the_smallest_input():
    papers = [nf.PRESETS[name] for name in ("paper", "published-code")]
    assert {(method.evidence, method.anchor) for method in papers} == {("positive", "origin")}


def test_options_written_before_there_was_a_choice_mean_what_they_meant():
    written = nf.Method.preset("paper", evidence="net").to_dict()
    assert nf.Method.from_dict(written) == nf.Method.preset("paper", evidence="net")
    del written["weighting"]
    assert nf.Method.from_dict(written) == nf.Method.preset("paper", weighting="scaled", evidence="net")
    del written["evidence"]
    assert nf.Method.from_dict(written) == nf.Method.preset("paper", weighting="scaled", evidence="positive")
    del written["map_change"]
    assert nf.Method.from_dict(written).map_change == 0
    with pytest.raises(nf.OptionError, match="do not match: rows"):
        nf.Method.from_dict({key: value for key, value in written.items() if key != "rows"})


@pytest.mark.parametrize("preset", nf.PRESETS)
def test_a_quality_is_a_name_for_a_tolerance(preset):
    def stopping(quality, **changes):
        method = nf.Method.preset(preset, quality=quality, **changes)
        return method.tolerance, method.max_iterations

    assert nf.Method.preset(preset, quality="standard") == nf.Method.preset(preset)
    assert stopping("draft") == (1e-2, 200)
    assert stopping("exact") == (1e-6, 2000)
    assert stopping("exact", max_iterations=50, tolerance=None) == (1e-6, 50)
    assert nf.Method.preset(preset, quality="exact", rows="all").rows == "all"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quality": "best"}, "one of draft, standard, exact"),
        ({"quality": "draft", "tolerance": 1e-3}, "exclude each other"),
        ({"weighting": "heavy"}, "one of scaled, plain"),
        ({"evidence": "none"}, "one of positive, net"),
        ({"map_change": -1e-3}, "at least 0"),
        ({"map_change": 1.0}, "less than 1"),
        ({"map_change": float("nan")}, "at least 0"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, reason):
    with pytest.raises(nf.OptionError, match=reason):
        nf.Method.preset("default", **options)


def test_a_better_quality_is_nearer_to_the_answer():
    """A draft of a solve that needs many iterations stops earlier, and further away."""
    generator = np.random.default_rng(5)
    net = Net()
    net.conv("x", "c", 3, 6)
    net.dense(net.add("Flatten", [net.add("Relu", ["c"], "r")], "f"), "y", 6 * 25, 2)
    model = nf.load(make_model(net.nodes, {"x": (1, 3, SIZE, SIZE)}, constants=net.constants))
    x = generator.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)

    def run(**options):
        method = nf.Method.preset("default", **options)
        (flow,) = model.explain(x, method=method, layers="x").collect().flows
        return flow.map, int(flow.diagnostics.iterations[0])

    best, _ = run(tolerance=1e-7, max_iterations=5000)
    found = [run(quality=quality) for quality in nf.QUALITIES]
    gaps = [np.abs(flow - best).max() for flow, _ in found]
    iterations = [count for _, count in found]
    assert iterations == sorted(set(iterations))
    assert gaps[0] > gaps[2]
    assert gaps[2] < 1e-4 * best.max()


def test_watching_the_map_saves_iterations_and_keeps_it():
    """On the bundled network, two pictures together: each as alone, and within a hundredth of the converged
    map at every layer."""
    model = nf.load(DIGITS)
    x = np.random.default_rng(3).uniform(-1, 1, (2, 1, 64, 64)).astype(np.float32)

    def run(pictures, **options):
        method = nf.Method.preset("default", **options)
        return model.explain(pictures, nf.ClassTarget(3), method=method, layers="spine").collect().flows

    best = run(x, quality="exact")
    by_residual = run(x)
    watched = run(x, map_change=1e-3)
    alone = run(x[1:], map_change=1e-3)
    taken = [sum(flow.diagnostics.iterations for flow in flows) for flows in (watched, by_residual)]
    assert (taken[0] < taken[1]).all()
    assert any((flow.diagnostics.relative_residual > 1e-3).any() for flow in watched)
    for ours, single, converged in zip(watched, alone, best, strict=True):
        assert ours.diagnostics.converged.all()
        assert (ours.diagnostics.relative_residual <= 1e-2).all()
        assert ours.diagnostics.iterations[1] == single.diagnostics.iterations[0]
        for found, wanted in zip(scaled(ours.map), scaled(converged.map), strict=True):
            np.testing.assert_allclose(found, wanted, atol=0.01)


def scaled(maps):
    axes = tuple(range(1, maps.ndim))
    low, high = maps.min(axis=axes, keepdims=True), maps.max(axis=axes, keepdims=True)
    return (maps - low) / np.where(high > low, high - low, 1)
