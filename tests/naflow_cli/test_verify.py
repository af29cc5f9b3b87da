"""`naflow verify`: agreement with onnxruntime on the demo network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from support.command_line import DEMO, DEMO_MODEL, Ended, demo_picture, naflow
from support.onnx_graphs import make_model
from support.shapes_of_json import OneOf, mismatches

OUTCOME = {
    "ok": bool,
    "tolerance": float,
    "max_rel_error": float,
    "tensors": [
        {
            "tensor": str,
            "node": str,
            "max_abs_error": float,
            "max_rel_error": float,
            "off_by_more_than_one": OneOf(float, None),
            "only_rounding": bool,
            "ok": bool,
        }
    ],
}


@pytest.fixture(scope="module")
def outcome() -> Ended:
    return naflow("verify", DEMO_MODEL, "--json")


def test_every_tensor_agrees(outcome: Ended) -> None:
    facts = outcome.json
    assert (outcome.status, outcome.stderr) == (0, "")
    assert not mismatches(facts, OUTCOME)
    assert facts["ok"]
    made = {name for node in onnx.load(DEMO_MODEL).graph.node for name in node.output}
    assert {tensor["tensor"] for tensor in facts["tensors"]} == made
    assert facts["max_rel_error"] == max(tensor["max_rel_error"] for tensor in facts["tensors"])
    assert 0 < facts["max_rel_error"] < facts["tolerance"] == 1e-4


def test_impossible_tolerance_fails_the_check() -> None:
    ended = naflow("verify", DEMO_MODEL, "--tolerance", "1e-12", "--json")
    assert ended.status == 1
    assert not ended.json["ok"]
    table = naflow("verify", DEMO_MODEL, "--tolerance", "1e-12")
    assert table.status == 1
    assert "DIFFERS" in table.stdout


def test_picture_and_tensor_as_input(tmp_path: Path) -> None:
    with_picture = naflow(
        "verify", DEMO_MODEL, "--input", demo_picture(7), "--preprocess", DEMO / "preprocess.json", "--json"
    )
    assert (with_picture.status, with_picture.stderr) == (0, "")
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(1).random((2, 1, 64, 64), np.float32))
    with_tensor = naflow("verify", DEMO_MODEL, "--input", path, "--json")
    assert with_tensor.status == 0
    assert with_picture.json["tensors"] != with_tensor.json["tensors"]


def test_missing_preprocessing_is_said(outcome: Ended) -> None:
    ended = naflow("verify", DEMO_MODEL, "--input", demo_picture())
    assert ended.status == 2  # "imagenet" gives three channels, the demo takes one
    assert "channels" in ended.stderr


def test_seed_changes_the_noise(outcome: Ended) -> None:
    again = naflow("verify", DEMO_MODEL, "--json").json
    other = naflow("verify", DEMO_MODEL, "--json", "--seed", "5").json
    assert again == outcome.json
    assert other["ok"]
    assert other["tensors"] != outcome.json["tensors"]


def test_open_sizes_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    onnx.save(make_model(nodes, {"a": ["n", 3, "h", "w"], "b": ["n", 3, "h", "w"]}), path)
    sizes = ("--input-shape", "2,3,8,6", "--input-shape", "b=2,3,8,1")
    assert naflow("verify", path, *sizes, "--json").json["ok"]
    ended = naflow("verify", path, "--input-shape", "c=1,3,8,8")
    assert ended.status == 2
    assert "no input 'c'" in ended.stderr
    array = tmp_path / "x.npz"
    np.savez(array, a=np.zeros((1, 3, 4, 4), np.float32), b=np.zeros((1, 3, 4, 4), np.float32))
    ended = naflow("verify", path, "--input", array, *sizes)
    assert ended.status == 2
    assert "--input-shape is for noise" in ended.stderr


def test_summary_names_the_worst_tensors() -> None:
    ended = naflow("verify", DEMO_MODEL)
    assert ended.status == 0
    lines = ended.stdout.splitlines()
    assert "agrees: 25 tensors" in lines[-1]
    assert len(lines) == 11
