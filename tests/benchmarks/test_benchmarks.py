"""The benchmark scripts, run small: what they compare is what they say."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from support.benchmarks import FOLDER, script
from support.light_networks import light_network

networks = script("networks")


@pytest.mark.parametrize("pictures", [1, 3])
def test_a_network_is_for_one_picture_or_for_batches_of_any_size(pictures: int) -> None:
    name = "GoogLeNet"
    network = networks.light(name, pictures)
    model = nf.load(network.proto)
    assert model.inputs[0].shape[0] == (1 if pictures == 1 else "N")
    report = model.inspect(input_shapes={key: value.shape for key, value in network.feeds.items()})
    assert report.explainable
    assert report.plan is not None
    assert {value.shape[0] for value in network.feeds.values()} == {pictures}
    assert report.plan.program.shapes[report.plan.head.output] == (pictures, 1000)
    (spec,) = light_network(name).graph.input
    assert spec.type.tensor_type.shape.dim[0].dim_value == 1


def test_every_network_that_grows_can_be_explained() -> None:
    for network in (networks.deep(3, size=12, channels=4), networks.light("SqueezeNet", 1, 64)):
        assert nf.load(network.proto).inspect().explainable


def test_options_of_the_method_are_read_by_their_kind() -> None:
    own = networks.method(
        "paper", ["tolerance=1e-4", "max_iterations=7", "feasible=true", "abandon=mass:0.9"]
    )
    assert (own.tolerance, own.max_iterations, own.feasible) == (1e-4, 7, True)
    assert own.abandon == nf.Abandonment("mass", 0.9)
    assert networks.method("paper", []) == nf.Method.preset("paper")


@pytest.mark.parametrize("change", ["speed=1", "tolerance=2", "tolerance=low", "rows=none"])
def test_impossible_options_end_the_script(change: str) -> None:
    with pytest.raises(SystemExit, match=change.partition("=")[0]):
        networks.method("paper", [change])


def test_trained_networks_are_left_out_without_their_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    networks.add_options(parser)
    options = parser.parse_args(["--networks", "MobileNetV2", "--zoo", str(tmp_path)])
    assert list(networks.chosen(options, 1)) == []
    assert "MobileNetV2 is left out" in capsys.readouterr().err


def test_cascade_writes_a_row_for_each_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cascade = script("cascade")
    small = networks.deep(2, size=12, channels=4)

    def chosen(options: argparse.Namespace, batch: int) -> list[Any]:
        feeds = {name: np.repeat(x, batch, axis=0) for name, x in small.feeds.items()}
        return [networks.Network(small.name, networks.with_batch(small.proto, batch), feeds)]

    monkeypatch.setattr(cascade, "chosen", chosen)
    monkeypatch.setattr(cascade.nf, "drop_programs", lambda: None)
    out = tmp_path / "rows.json"
    given = ["--presets", "paper", "published-code", "--batches", "1", "2", "--repeats", "1", "--no-fresh"]
    cascade.main([*given, "--segments", "--json", str(out)])
    found = json.loads(out.read_text())
    assert [row["preset"] for row in found["rows"]] == ["paper", "published-code"] * 2
    assert {row["layers"] for row in found["rows"]} == {5}
    assert [bool(row["x alone"]) for row in found["rows"]] == [False, False, True, True]
    assert len(found["segments"]) == 20
    assert "cascade by segment" in capsys.readouterr().out


def test_both_ways_to_compile_give_the_same() -> None:
    network = networks.deep(2, size=8, channels=4)
    rows = script("compiling").measure(network, nf.Method(), 1)
    assert [row["compiled"] for row in rows] == ["quickly"]
    (row,) = rows
    assert row["programs"] > 0
    assert min(row[name] for name in ("compile s", "quick s", "run s", "quick/run")) > 0
    assert row["difference"] < 1e-5


def test_accuracy_knows_a_loose_solve_from_a_tight_one() -> None:
    accuracy = script("accuracy")
    small = networks.deep(2, size=12, channels=4)

    def flows(tolerance: float) -> Any:
        return accuracy.explained(small, nf.Method.preset("paper", tolerance=tolerance, max_iterations=5000))

    tight = flows(1e-6)
    found: dict[str, np.ndarray] = {f"arr_{number}": flow.map for number, flow in enumerate(tight)}
    found |= {"converged": np.ones(len(tight), bool), "iterations": np.zeros(len(tight))}
    same, loose = (accuracy.summary(accuracy.layers_of(some, found)) for some in (tight, flows(0.3)))
    assert float(same["difference"]) == 0
    assert (same["Spearman"], same["over 0.01"]) == (1, 0)
    assert float(loose["difference"]) > 0.01
    assert loose["over 0.01"] > 0
    assert loose["Spearman"] < 1
    assert loose["iterations"] < same["iterations"]


def test_the_reference_is_computed_in_float64() -> None:
    """In a process of its own, where x64 is on; at 1e-9 float32 would not converge."""
    program = """
import sys
import jax, numpy as np
sys.path.insert(0, sys.argv[1])
import accuracy, naflow_core as nf
from networks import deep
jax.config.update("jax_enable_x64", True)
accuracy.ahead.MOST_THREADS = 1
own = nf.Method.preset("paper", tolerance=1e-9, max_iterations=5000)
flows = accuracy.explained(deep(1, size=8, channels=2), own, wide=True)
print(max(float(flow.diagnostics.relative_residual.max()) for flow in flows))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(FOLDER)], capture_output=True, text=True, check=True, timeout=300
    )
    assert 0 < float(ended.stdout) <= 1e-9


def test_the_dense_baseline_gives_our_flow() -> None:
    baseline = script("dense_baseline")
    random = np.random.default_rng(0)
    sizes = {"x": (1, 8, 7, 7), "weights": (12, 4, 5, 5), "bias": (12,)}
    arrays = {name: random.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    small = baseline.Layer("small", **arrays, pads=[2] * 4, strides=[1, 1], group=2)
    options = argparse.Namespace(tolerance=1e-6, repeats=1, changes=[])
    row = baseline.measure(small, 7, options)
    assert row["rows"] * row["columns"] == small.elements
    assert float(row["difference"]) < 1e-3
    assert row["x"] > 0


@pytest.fixture
def history(tmp_path: Path) -> tuple[Path, list[str]]:
    """A repository with two commits of one file."""
    root = tmp_path / "repository"
    root.mkdir()

    def git(*arguments: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        ended = subprocess.run(
            ["git", "-C", str(root), *own, *arguments], capture_output=True, text=True, check=True
        )
        return ended.stdout.strip()

    git("init", "--quiet")
    commits = []
    for content in ("one", "two"):
        (root / "file").write_text(content)
        (root / "naflow_core" / "measure").mkdir(parents=True, exist_ok=True)
        for path in script("compare_commits").MEASURING:
            if path.endswith(".py"):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(content)
        git("add", ".")
        git("commit", "--quiet", "-m", content)
        commits.append(git("rev-parse", "HEAD"))
    return root, commits


def test_commits_are_measured_by_the_same_code(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, commits = history
    compare = script("compare_commits")
    (root / "naflow_core" / "measure" / "new.py").write_text("new")
    name = compare.check_out(commits[0][:10], tmp_path / "old", root)
    assert name == commits[0]
    assert (tmp_path / "old" / "file").read_text() == "one"
    assert (tmp_path / "old" / "benchmarks" / "cascade.py").read_text() == "two"
    assert (tmp_path / "old" / "naflow_core" / "measure" / "new.py").read_text() == "new"
    with pytest.raises(SystemExit, match="rev-parse"):
        compare.check_out("nothing", tmp_path / "none", root)


def test_commits_are_compared_by_medians_over_rounds() -> None:
    key = ("net", 1, "paper")

    def rounds(*seconds: float) -> list[dict[Any, Any]]:
        return [{key: {"s": s, "x forward": 10 * s, "iterations": 5}} for s in seconds]

    (row,) = script("compare_commits").compared(rounds(4, 2, 9), rounds(1, 8, 2))
    assert (row["network"], row["s before"], row["s after"]) == ("net", 4, 2)
    assert row["s ratio"] == row["x forward ratio"] == 0.5
