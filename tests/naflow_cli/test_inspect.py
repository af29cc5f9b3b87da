"""`naflow inspect`: the table, the JSON object, and the exit status."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from naflow_cli.inspect import short
from support.command_line import DEMO_MODEL, environment, naflow, naflow_process
from support.onnx_graphs import make_model
from support.shapes_of_json import OneOf, mismatches

SPEC = {"name": str, "dtype": str, "shape": OneOf(None, [OneOf(int, str, None)])}
CLASS = OneOf("exact", "least_squares", "mask", "passthrough")
COST = {"jacobian_multiply_adds": int, "solve_multiply_adds": int, "memory_bytes": int}
REPORT = {
    "model": {"sha256": str, "opset": dict, "ir_version": int, "producer": str},
    "inputs": [SPEC],
    "outputs": [SPEC],
    "top_feature_map": OneOf(str, None),
    "spine": [{"index": int, "tensor": str, "shape": [int]}],
    "segments": [
        {
            "index": int,
            "kind": OneOf("node", "composite"),
            "nodes": [str],
            "rule": str,
            "class": CLASS,
            "input": str,
            "output": str,
            "cost": COST,
        }
    ],
    "cost": {**COST, "typical_iterations": int},
    "flows": {"blocks": int, "spine": int, "nodes": int},
    "without_flow": [{"reason": str, "tensors": [str]}],
    "notes": [str],
    "nodes": [
        {
            "name": str,
            "op_type": str,
            "domain": str,
            "since_version": int,
            "rule": OneOf(str, None),
            "class": OneOf(CLASS, None),
            "supported": bool,
        }
    ],
    "unsupported": [{"node": str, "op_type": str, "reason": str}],
    "explainable": bool,
}


@pytest.fixture
def unsupported(tmp_path: Path) -> Path:
    """A model with one node that nobody implements."""
    nodes = [
        helper.make_node("Conjure", ["x"], ["a"], name="strange", domain="com.example"),
        helper.make_node("Flatten", ["a"], ["y"], name="flat"),
    ]
    path = tmp_path / "unsupported.onnx"
    onnx.save(make_model(nodes, {"x": [1, 1, 8, 8]}, extra_opsets={"com.example": 1}), path)
    return path


def test_json_has_every_documented_field() -> None:
    ended = naflow("inspect", DEMO_MODEL, "--json")
    report = ended.json
    assert (ended.status, ended.stderr) == (0, "")
    assert not mismatches(report, REPORT)
    assert report["model"]["sha256"] == hashlib.sha256(DEMO_MODEL.read_bytes()).hexdigest()
    assert report["model"]["opset"] == {"": 17}
    assert report["explainable"]
    assert report["unsupported"] == []


def test_spine_and_segments_fit_together() -> None:
    report = naflow("inspect", DEMO_MODEL, "--json").json
    spine = [entry["tensor"] for entry in report["spine"]]
    assert spine[0] == "image"
    assert spine[-1] == report["top_feature_map"] == "top_relu"
    assert [entry["index"] for entry in report["spine"]] == list(range(len(spine)))
    ends = [(segment["input"], segment["output"]) for segment in report["segments"]]
    assert ends == list(itertools.pairwise(spine))
    composites = [segment for segment in report["segments"] if segment["kind"] == "composite"]
    assert [segment["output"] for segment in composites] == ["block_sum"]
    assert len(composites[0]["nodes"]) == 6
    assert all(len(segment["nodes"]) == 1 for segment in report["segments"] if segment["kind"] == "node")
    nodes = {node["name"]: node for node in report["nodes"]}
    assert {name for segment in report["segments"] for name in segment["nodes"]} <= set(nodes)
    assert len(nodes) == len(onnx.load(DEMO_MODEL).graph.node)
    by_operator = {node["op_type"]: (node["rule"], node["class"]) for node in nodes.values()}
    assert by_operator["Conv"] == ("least-squares", "least_squares")
    assert by_operator["Relu"][1] == "mask"
    assert by_operator["MaxPool"][1] == by_operator["BatchNormalization"][1] == "exact"


def test_cost_and_coverage_are_told_before_anything_runs() -> None:
    report = naflow("inspect", DEMO_MODEL, "--json").json
    convolution = next(s for s in report["segments"] if s["output"] == "widen_conv")
    assert convolution["cost"]["jacobian_multiply_adds"] == 32 * 32 * 32 * 16 * 9
    total = sum(segment["cost"]["solve_multiply_adds"] for segment in report["segments"])
    assert report["cost"]["solve_multiply_adds"] == total
    assert report["flows"] == {"blocks": 8, "spine": 18, "nodes": 23}
    assert [group["tensors"] for group in report["without_flow"]] == [["pooled", "features", "logits"]]
    table = " ".join(naflow("inspect", DEMO_MODEL).stdout.split())
    assert "8 blocks, 18 spine, 23 nodes" in table
    assert f"{short(total)} multiply-adds" in table
    assert "4.72 M" in table
    assert "no flow: pooled, features, logits: lies behind the top feature map" in table


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (950, "950"), (999.6, "1 k"), (12_345, "12.3 k"), (4.56e9, "4.56 G"), (2e16, "20 P")],
)
def test_counts_are_shown_in_three_digits(count: float, shown: str) -> None:
    assert short(count) == shown


def test_table_names_layers_and_rules() -> None:
    ended = naflow("inspect", DEMO_MODEL)
    assert (ended.status, ended.stderr) == (0, "")
    for text in ("digits_in_clutter.onnx", "top_relu", "unpool-to-argmax", "block_sum", "can be explained"):
        assert text in ended.stdout


def test_unsupported_operator_is_named_with_a_reason(unsupported: Path) -> None:
    ended = naflow("inspect", unsupported, "--json")
    report = ended.json
    assert ended.status == 1
    assert not mismatches(report, REPORT)
    assert not report["explainable"]
    assert [entry["node"] for entry in report["unsupported"]] == ["strange"]
    assert "com.example:Conjure" in report["unsupported"][0]["reason"]
    assert [node["name"] for node in report["nodes"] if not node["supported"]] == ["strange"]
    table = naflow("inspect", unsupported)
    assert table.status == 1
    assert "strange" in table.stdout
    assert "com.example:Conjure" in table.stdout


def test_model_without_feature_map_is_not_explainable(tmp_path: Path) -> None:
    path = tmp_path / "flat.onnx"
    onnx.save(make_model([helper.make_node("Flatten", ["x"], ["y"])], {"x": [1, 3, 8, 8]}), path)
    ended = naflow("inspect", path, "--json")
    assert ended.status == 1
    assert "no tensor with spatial axes" in ended.json["reason"]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    path = tmp_path / "odd.onnx"
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="stem"),
        helper.make_node("Twist", ["c"], ["d"], name="odd", domain="my.ops"),
        helper.make_node("Bernoulli", ["d"], ["y"], name="dice"),
    ]
    weights = {"w": np.ones((4, 3, 3, 3), np.float32)}
    onnx.save(make_model(nodes, {"x": [1, 3, 8, 8]}, constants=weights, extra_opsets={"my.ops": 4}), path)
    return path


TWIST = (
    "not supported: node 'odd' (Twist): no operator my.ops:Twist is registered; "
    '@nf.ops.register("Twist", domain="my.ops", since=4) would add it'
)


def test_an_unsupported_operator_is_named_with_the_line_that_would_add_it(odd: Path) -> None:
    ended = naflow("inspect", odd)
    assert ended.status == 1
    assert TWIST in ended.stdout.splitlines()
    assert not ended.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_unsupported_operators_are_named_before_jax_is_imported(odd: Path, as_json: bool) -> None:
    """Which alone would take most of a second."""
    script = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            raise ImportError("not here")
sys.meta_path.insert(0, Without())
from naflow_cli.main import run
run()
"""
    options = ["--json"] if as_json else []
    started = [sys.executable, "-c", script, "inspect", str(odd), *options]
    ended = subprocess.run(started, capture_output=True, text=True, env=environment(), timeout=60)
    named = (ended.stderr if as_json else ended.stdout).splitlines()
    assert TWIST in named
    assert any("node 'dice' (Bernoulli): it draws random numbers" in said for said in named)
    assert "not here" in ended.stderr


def test_no_operator_is_named_twice(odd: Path) -> None:
    ended = naflow_process("inspect", odd)
    assert (ended.status, ended.stderr) == (1, "")
    named = [said for said in ended.stdout.splitlines() if said.startswith("not supported")]
    assert [said.split("'")[1] for said in named] == ["odd", "dice"]
    listed = naflow_process("inspect", odd, "--json")
    assert [entry["node"] for entry in listed.json["unsupported"]] == ["odd"]
    assert listed.stderr.splitlines() == named


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    weights = {"w": np.ones((3, 1, 3, 3), np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("GlobalAveragePool", ["a"], ["y"])]
    path = tmp_path / "[red]model.onnx"
    onnx.save(make_model(nodes, {"x": [1, 1, 8, 8]}, ("y",), weights, extra_opsets={"[/b]": 1}), path)
    ended = naflow("inspect", path)
    assert ended.stdout.splitlines()[0].strip() == "[red]model.onnx", ended
    assert "[/b] 1" in ended.stdout


def test_another_top_feature_map_shortens_the_spine() -> None:
    report = naflow("inspect", DEMO_MODEL, "--top-feature-map", "widen_relu", "--json").json
    assert report["top_feature_map"] == "widen_relu"
    assert report["spine"][-1]["tensor"] == "widen_relu"


def test_input_shape_must_fit_the_declaration() -> None:
    assert naflow("inspect", DEMO_MODEL, "--input-shape", "1,1,64,64").status == 0
    assert naflow("inspect", DEMO_MODEL, "--input-shape", "image=1x1x64x64").status == 0
    for wrong in ("1,3,64,64", "1x1x32x32", "64,64", "1,1,64,0", "wide", "other=1,1,64,64", "image="):
        ended = naflow("inspect", DEMO_MODEL, "--input-shape", wrong)
        assert (ended.status, ended.stdout) == (2, "")
        assert ended.stderr.startswith("naflow: --input-shape")


def test_as_a_process_without_a_terminal() -> None:
    ended = naflow_process("inspect", DEMO_MODEL, "--json")
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.json == naflow("inspect", DEMO_MODEL, "--json").json
