"""Whole evaluations: the same from the seed, whatever the order or an interruption; controls never win."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from naflow_core.evaluate import FLOW, METRICS, Evaluation, Picture, rivals, threads
from naflow_core.evaluate.folder import PICTURES
from support.evaluation_cases import digits, digits_model

METHODS = ("layer-cam", "random", "empty")
MEASURES = ("layer-deletion", "deletion-blur", "energy", "randomisation", "random-logit")
LAYERS = ("stem_pool", "deepen_relu")


@pytest.fixture(scope="module")
def model() -> nf.Model:
    return digits_model()


def evaluation(model: nf.Model, pictures: Sequence[Picture], **options: Any) -> Evaluation:
    settings = {"methods": METHODS, "metrics": MEASURES, "layers": LAYERS, "probed": 2, **options}
    return Evaluation(model, pictures, **settings)


def finished(found: Evaluation) -> dict[str, Any]:
    rows = list(found.run())
    assert len(rows) == found.total
    return found.result()


@pytest.fixture(scope="module")
def outcome(model: nf.Model) -> dict[str, Any]:
    return finished(evaluation(model, digits(3)))


def test_every_cell_is_there(outcome: dict[str, Any]) -> None:
    cells = {(e["metric"], e["layer"], e["method"]): e for e in outcome["results"]}
    assert set(cells) == set(itertools.product(MEASURES, (*LAYERS, FLOW), METHODS))
    for (metric, _, method), entry in cells.items():
        assert entry["low"] <= entry["mean"] <= entry["high"]
        assert entry["count"] == (2 if METRICS[metric].probing else 3)
        assert (entry["difference"] is None) == (method == "layer-cam")
    assert [p["class"] for p in outcome["pictures"]] == [1, 3, 4]
    for metric, method in itertools.product(MEASURES, METHODS):
        parts = [cells[metric, layer, method]["mean"] for layer in LAYERS]
        assert cells[metric, FLOW, method]["mean"] == pytest.approx(np.mean(parts))
    gap = cells["energy", "stem_pool", "random"]["difference"]
    own, first = (cells["energy", "stem_pool", m]["mean"] for m in ("random", "layer-cam"))
    assert gap["mean"] == pytest.approx(first - own)
    json.dumps(outcome, allow_nan=False)


def test_one_seed_gives_one_outcome(model: nf.Model, outcome: dict[str, Any]) -> None:
    assert json.dumps(finished(evaluation(model, digits(3)))) == json.dumps(outcome)
    other = finished(evaluation(model, digits(3), seed=1))
    means = [[e["mean"] for e in found["results"] if e["method"] == "random"] for found in (outcome, other)]
    assert means[0] != means[1]


def test_threads_change_no_value(
    model: nf.Model, outcome: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, and all methods at once: the same to the last bit, in the same order on disk."""
    lines = []
    for count in (1, len(METHODS)):
        monkeypatch.setattr(threads, "THREADS", count)
        found = evaluation(model, digits(3), folder=tmp_path / str(count))
        assert json.dumps(finished(found)) == json.dumps(outcome)
        lines.append((tmp_path / str(count) / PICTURES).read_bytes())
    assert lines[0] == lines[1]


def test_neither_order_nor_company_changes_a_value(model: nf.Model) -> None:
    alone = {(r.method, r.metric, r.layer): r for r in evaluation(model, digits(3)[1:2]).run()}
    reversed_ = evaluation(model, digits(3)[::-1], methods=METHODS[::-1], against="layer-cam", probed=3).run()
    found = [row for row in reversed_ if row.picture == digits(3)[1].name]
    assert len(found) == len(alone)
    assert all(alone[r.method, r.metric, r.layer] == r for r in found)


def test_an_interrupted_evaluation_goes_on(model: nf.Model, outcome: dict[str, Any], tmp_path: Path) -> None:
    """Cut off in the middle of the second picture, and then in the middle of writing a line."""
    begun = evaluation(model, digits(3), folder=tmp_path / "work")
    rows = begun.run()
    each = begun.total // 3
    for _ in range(each + 5):
        next(rows)
    rows.close()
    with (tmp_path / "work" / PICTURES).open("ab") as file:
        file.write(b'{"digest": "0f3a')
    again = evaluation(model, digits(3), folder=tmp_path / "work", resume=True)
    assert len([p for p in digits(3) if p.digest in again._finished]) == 1
    assert json.dumps(finished(again)) == json.dumps(outcome)
    whole = evaluation(model, digits(3), folder=tmp_path / "work", resume=True)
    assert json.dumps(finished(whole)) == json.dumps(outcome)
    assert [len(e["maps"]) for e in whole.examples()] == [len(LAYERS) * len(METHODS)] * 3


def test_a_folder_is_for_one_evaluation(model: nf.Model, tmp_path: Path) -> None:
    cheap = {"metrics": ("energy",), "methods": ("random",), "folder": tmp_path}
    finished(evaluation(model, digits(2), **cheap))
    with pytest.raises(nf.OptionError, match="holds an evaluation already"):
        evaluation(model, digits(2), **cheap)
    for change in ({"seed": 1}, {"metrics": ("sparseness",)}, {"methods": ("empty",)}, {"probed": 1}):
        with pytest.raises(nf.OptionError, match=f"other settings: {next(iter(change))} differ"):
            evaluation(model, digits(2), **{**cheap, **change}, resume=True)
    with pytest.raises(nf.OptionError, match="other settings: pictures differ"):
        evaluation(model, digits(3), **cheap, resume=True)
    (tmp_path / PICTURES).write_text("{}\n", encoding="utf-8")
    with pytest.raises(nf.InputError, match="line 1 is damaged"):
        evaluation(model, digits(2), **cheap, resume=True)
    with pytest.raises(nf.OptionError, match="pictures are not evaluated yet"):
        evaluation(model, digits(2), metrics=("energy",)).result()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("grad-com",)}, "method 'grad-com' does not exist"),
        ({"methods": ()}, "no method is named"),
        ({"methods": ("random", "random")}, "method 'random' is named twice"),
        ({"metrics": ("speed",)}, "measure 'speed' does not exist"),
        ({"against": "naflow"}, "'naflow' to compare with is not among"),
        ({"layers": ("nowhere",)}, "'nowhere'"),
    ],
)
def test_impossible_options_are_refused(model: nf.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(nf.NaflowError, match=message):
        evaluation(model, digits(1), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": (10,)}, "class 10 does not exist"),
        ({"boxes": ((0.5, 0.1, 0.5, 0.2),)}, "is empty or outside"),
        ({"x": np.zeros((1, 1, 32, 32), np.float32)}, "32"),
        ({"x": np.zeros((2, 1, 64, 64), np.float32)}, "2, 1, 64, 64"),
        ({"x": np.full((1, 1, 64, 64), np.nan, np.float32)}, "nan"),
    ],
)
def test_impossible_pictures_are_refused(model: nf.Model, change: dict[str, Any], message: str) -> None:
    wrong = dataclasses.replace(digits(1)[0], **change)
    with pytest.raises(nf.NaflowError, match=message):
        list(evaluation(model, [wrong]).run())
    with pytest.raises(nf.InputError, match="no pictures"):
        evaluation(model, [])
    with pytest.raises(nf.InputError, match="two pictures are named"):
        evaluation(model, [digits(1)[0], digits(1)[0]])


def test_controls_never_win_a_measure_of_faithfulness(model: nf.Model) -> None:
    """Random, centre and empty maps on the example network; over all layers and at each of them."""
    faithful = tuple(m.name for m in METRICS if m.faithfulness)
    controls = ("random", "centre", "empty")
    methods = ("naflow", "layer-cam")
    found = finished(
        evaluation(model, digits(), methods=(*methods, *controls), metrics=faithful, layers="auto")
    )
    assert {w["metric"] for w in found["best"]} == set(faithful)
    assert found["controls_that_win"] == []
    cells = {(e["metric"], e["layer"], e["method"]): e["mean"] for e in found["results"]}
    for metric, method, control in itertools.product(faithful, methods, controls):
        gap = cells[metric, FLOW, method] - cells[metric, FLOW, control]
        assert gap * (1 if METRICS[metric].better == "higher" else -1) > 0


def test_maps_that_take_long_are_not_computed_again(model: nf.Model) -> None:
    metrics = ("layer-deletion", "random-logit")
    found = finished(evaluation(model, digits(1), methods=("layer-cam", "occlusion"), metrics=metrics))
    cells = {(e["metric"], e["method"]) for e in found["results"]}
    assert cells == {(m, x) for m in metrics for x in ("layer-cam", "occlusion")} - {
        (metrics[1], "occlusion")
    }


def test_a_control_that_wins_is_found_out(model: nf.Model) -> None:
    """A map of the decision in a control's place, beside a random one that passes for a method: so the test
    above can fail."""
    insider = dataclasses.replace(rivals.find("layer-cam"), name="insider", control=True)
    guess = dataclasses.replace(rivals.find("random"), name="guess", control=False)
    metrics = ("layer-deletion", "deletion-blur", "energy")
    found = finished(evaluation(model, digits(4), methods=(guess, insider), metrics=metrics))
    assert {w["method"] for w in found["controls_that_win"]} == {"insider"}
    assert {w["metric"] for w in found["controls_that_win"]} == {"layer-deletion", "deletion-blur"}


def test_methods_may_be_objects_with_options(model: nf.Model) -> None:
    narrow = rivals.find("centre").configured("narrow", width=0.05)
    found = finished(evaluation(model, digits(2), methods=(narrow, "centre"), metrics=("sparseness",)))
    means = {e["method"]: e["mean"] for e in found["results"] if e["layer"] == FLOW}
    assert means["narrow"] > means["centre"]
    assert [m["options"] for m in evaluation(model, digits(1), methods=(narrow,)).settings["methods"]] == [
        {"width": "0.05"}
    ]


def test_stability_knows_what_does_not_change(model: nf.Model) -> None:
    """The same pictures again, a twin that is the model itself, and controls that do not look."""
    pictures = [dataclasses.replace(p, variants={"jpeg": p.x}) for p in digits(2)]
    names = tuple(m.name for m in METRICS if m.stability)
    options = {"methods": ("layer-cam", "centre"), "metrics": names, "layers": ("deepen_relu",)}
    found = finished(evaluation(model, pictures, **options, twin=digits_model()))
    means = {(e["metric"], e["method"]): e["mean"] for e in found["results"] if e["layer"] == FLOW}
    assert set(means) == set(itertools.product(names, ("layer-cam", "centre")))
    for name, kind in itertools.product(("jpeg", "twin"), ("pearson", "spearman")):
        assert means[f"stability-{name}-{kind}", "layer-cam"] == pytest.approx(1, abs=1e-6)
    assert 0.99 < means["stability-float16-pearson", "layer-cam"] <= 1
    assert 0.3 < means["stability-noise-pearson", "layer-cam"] < 1
    assert means["stability-noise-spearman", "centre"] == pytest.approx(1)
    without = finished(evaluation(model, pictures, **options))
    assert not [e for e in without["results"] if "twin" in e["metric"]]
