"""What measures: turns, counts of compilations, the rows of a comparison, new processes."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

import naflow_core as nf
from naflow_core import measure
from support.blocks import network, picture


@pytest.fixture(scope="module")
def subject() -> measure.Subject:
    return measure.Subject(nf.load(network("residual")), {"x": picture(1)})


def test_subjects_take_turns_and_another_begins_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.turns, "ENOUGH", 0.0)
    said: list[str] = []
    found = measure.by_turns({name: lambda name=name: said.append(name) for name in "abc"}, 3)
    assert "".join(said) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(seconds >= 0 for times in found.values() for seconds in times)


def test_a_quick_subject_runs_several_times_in_its_turn() -> None:
    calls: list[int] = []
    measure.by_turns({"quick": lambda: calls.append(0)}, 2)
    assert len(calls) == 1 + 2 * measure.turns.MOST


def test_compilations_are_counted_inside_the_block_only() -> None:
    def compile_one(size: int) -> None:
        jax.jit(lambda x: x * 3 + size)(np.zeros(size, np.float32)).block_until_ready()

    with measure.Compilations() as seen:
        compile_one(101)
        compile_one(102)
    assert seen.programs == 2
    assert seen.seconds > 0
    compile_one(103)
    assert seen.programs == 2


def test_the_forward_pass_is_the_models(subject: measure.Subject) -> None:
    ours = subject.model.explain(subject.feeds).prediction.logits
    (theirs,) = measure.onnxruntime_forward(subject.model, subject.feeds)()  # type: ignore[misc]
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


def test_forward_and_backward_give_the_logit_and_its_gradient(subject: measure.Subject) -> None:
    plan = subject.plan()
    score, gradient = measure.jax_forward_backward(plan, subject.feeds)()  # type: ignore[misc]
    ours = subject.model.explain(subject.feeds, nf.ClassTarget(0)).prediction
    assert float(score) == pytest.approx(float(ours.target_score[0]), rel=1e-4)
    step = 1e-2 * jnp.sign(gradient)
    moved = subject.model.explain({"x": np.asarray(subject.feeds["x"] + step)}, nf.ClassTarget(0)).prediction
    assert float(moved.target_score[0]) > float(score)


def test_a_comparison_has_a_row_and_a_split_for_each_method(subject: measure.Subject) -> None:
    methods = {"paper": nf.Method.preset("paper"), "copy": nf.Method.preset("published-code")}
    found = measure.compare(subject, methods, repeats=2)
    explanation = subject.model.explain(subject.feeds, method=methods["paper"], layers="spine")
    flows = explanation.collect().flows
    row, copy = (found["cascades"][name] for name in methods)
    assert row["layers"] == len(flows)
    assert row["iterations"] == sum(int(flow.diagnostics.iterations[0]) for flow in flows) > 0
    assert row["solved"] == sum(bool(flow.diagnostics.iterations[0]) for flow in flows)
    assert (copy["solved"], copy["iterations"], copy["unconverged"]) == (0, 0, 0)
    assert row["per_forward"] == pytest.approx(row["seconds"] / found["forward"])
    assert row["per_forward_backward"] == pytest.approx(row["seconds"] / found["forward_backward"])
    assert 0 < row["first_flow"] < 1
    split = found["segments"]["paper"]
    assert [part["tensor"] for part in split] == [flow.tensor for flow in reversed(flows)]
    assert split[0]["segment"] == ""
    composite = next(segment for segment in explanation.plan.segments if len(segment.steps) > 1)
    (part,) = (part for part in split if part["tensor"] == composite.source)
    assert part["segment"] == f"{len(composite.steps)} nodes"
    assert part["seconds_per_iteration"] == pytest.approx(part["seconds"] / part["iterations"])


def test_unconverged_layers_are_counted(subject: measure.Subject) -> None:
    methods = {"capped": nf.Method.preset("paper", tolerance=1e-6, max_iterations=1)}
    row = measure.compare(subject, methods, repeats=1)["cascades"]["capped"]
    assert row["unconverged"] == row["solved"] > 0


def test_new_processes_find_the_cache_filled_the_second_time(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(network("residual"), path)
    method = nf.Method.preset("published-code")
    found = measure.first_explanations(path, {"x": picture(1)}, method, layers="blocks")
    cold, warm = found["cold"], found["warm"]
    assert cold["programs"] == warm["programs"] > 0
    assert warm["cache_hits"] == warm["programs"]
    assert cold["recompiled"] == warm["recompiled"] == 0
    for report in (cold, warm):
        assert report["started_to_end"] > report["explanation"] >= report["first_flow"] > 0
        assert report["memory_peak"] > report["memory_imported"] > 50e6


def test_a_failure_in_a_new_process_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(nf.NaflowError, match=r"missing\.onnx") as failure:
        measure.first_explanations(
            tmp_path / "missing.onnx", {"x": picture(1)}, nf.Method(), states=("cold",)
        )
    assert "\n" not in str(failure.value)


def test_peak_memory_is_of_this_process() -> None:
    before = measure.peak_memory()
    held = np.ones(1 << 25, np.float64)
    assert measure.peak_memory() >= before
    assert measure.peak_memory() > held.nbytes
