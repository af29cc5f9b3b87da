"""`naflow bench` on the demo network."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command_line import DEMO, DEMO_MODEL, Ended, demo_picture, naflow
from support.shapes_of_json import OneOf, mismatches

SEGMENT = {
    "tensor": str,
    "shape": [int],
    "segment": str,
    "rule": str,
    "seconds": float,
    "iterations": float,
    "seconds_per_iteration": OneOf(float, None),
    "retained": float,
    "converged": bool,
}
OUTCOME = {
    "model": str,
    "machine": str,
    "inputs": {"image": [int]},
    "layers": str,
    "repeats": int,
    "forward_seconds": float,
    "forward_backward_seconds": float,
    "presets": [
        {
            "preset": str,
            "seconds": float,
            "per_forward": float,
            "per_forward_backward": float,
            "first_flow": float,
            "layers": int,
            "solved": int,
            "unconverged": int,
            "iterations": float,
            "segments": [SEGMENT],
        }
    ],
}
QUICK = ("--presets", "published-code", "--repeats", "1")


@pytest.fixture(scope="module")
def outcome() -> Ended:
    return naflow("bench", DEMO_MODEL, "--presets", "default,published-code", "--repeats", "2", "--json")


def test_json_has_every_preset_with_its_segments(outcome: Ended) -> None:
    facts = outcome.json
    assert (outcome.status, outcome.stderr) == (0, "")
    assert not mismatches(facts, OUTCOME)
    assert [row["preset"] for row in facts["presets"]] == ["default", "published-code"]
    assert facts["inputs"] == {"image": [1, 1, 64, 64]}
    solved, copied = facts["presets"]
    assert (solved["layers"], solved["solved"], solved["unconverged"]) == (18, 5, 0)
    assert (copied["solved"], copied["iterations"]) == (0, 0)
    assert solved["segments"][-1]["tensor"] == "image"
    assert sum(part["iterations"] for part in solved["segments"]) == solved["iterations"] > 0
    assert sum(part["seconds"] for part in solved["segments"]) < 2 * solved["seconds"]


def test_table_and_split_of_a_picture() -> None:
    preprocess = DEMO / "preprocess.json"
    given = ("--input", demo_picture(3), "--preprocess", preprocess)
    ended = naflow("bench", DEMO_MODEL, *QUICK, *given, "--segments")
    assert ended.status == 0, ended.stderr
    for text in (
        "onnxruntime forward",
        "JAX forward and backward",
        "published-code",
        "by segment",
        "6 nodes",
    ):
        assert text in ended.stdout


def test_first_explanations_are_measured_on_request() -> None:
    ended = naflow("bench", DEMO_MODEL, *QUICK, "--layers", "top_relu", "--fresh")
    assert ended.status == 0, ended.stderr
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert [line[1] for line in lines if line[:1] == ["published-code"] and len(line) == 7] == [
        "cold",
        "warm",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--repeats", "0"), "--repeats 0"),
        (("--presets", "paper,fast"), "'fast'"),
        (("--seed", "-1"), "--seed -1"),
        (("--preprocess", "unit"), "--input"),
        (("--layers", "nowhere"), "nowhere"),
        (("--input", demo_picture(3), "--input-shape", "1,1,64,64"), "--input-shape"),
    ],
)
def test_impossible_options_are_refused(arguments: tuple[object, ...], said: str) -> None:
    ended = naflow("bench", DEMO_MODEL, *arguments)
    assert ended.status == 2
    assert ended.stdout == ""
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    ended = naflow("bench", tmp_path / "none.onnx")
    assert ended.status == 2
    assert "none.onnx" in ended.stderr
