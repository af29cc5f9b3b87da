"""`naflow explain` on the demo network: the files it leaves, and what its options do."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from PIL import Image

from naflow_client import load_picture
from support.command_line import DEMO, DEMO_MODEL, Ended, demo_picture, explain_demo, naflow
from support.onnx_graphs import make_model
from support.shapes_of_json import OneOf, mismatches

SCORED = {"class": int, "label": str, "score": float}
PREDICTION = {"output": str, "naflow": [SCORED], "onnxruntime": [SCORED]}
LAYER = {
    "index": int,
    "tensor": str,
    "node": str,
    "op_type": str,
    "shape": [int],
    "rule": str,
    "retained_fraction": float,
    "iterations": int,
    "relative_residual": float,
    "conservation_gap": float,
    "seconds": float,
}
MANIFEST = {
    "model": {"sha256": str},
    "prediction": PREDICTION,
    "target": {"class": int, "label": str, "logit": float},
    "method": {
        "inverse": str,
        "rows": str,
        "weighting": str,
        "abandon": str,
        "feasible": bool,
        "anchor": str,
        "evidence": str,
        "damping": float,
        "tolerance": float,
        "max_iterations": int,
        "map_change": float,
    },
    "versions": {"naflow": str, "jax": str, "numpy": str, "onnx": str, "onnxruntime": str, "python": str},
    "seed": int,
    "warnings": [str],
    "layers": [LAYER],
    "run": {
        "inputs": [{"path": str, "sha256": str}],
        "preprocess": OneOf(None, dict),
        "labels": OneOf(None, dict),
    },
}
BLOCKS = [
    "stem_relu",
    "stem_pool",
    "widen_relu",
    "widen_pool",
    "block_relu",
    "block_pool",
    "deepen_relu",
    "top_relu",
]


def flows(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "flows.npz") as content:
        return dict(content)


def manifest_of(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return value


def names(folder: Path) -> list[str]:
    return [key.partition(":")[2] for key in flows(folder)]


def demo_tensor(*digits: int) -> np.ndarray:
    """Pictures of the demo as the model takes them, made without our preprocessing."""
    pictures = []
    for digit in digits:
        with Image.open(demo_picture(digit)) as opened:
            pictures.append(np.asarray(opened.convert("L"), np.float32) / 255)
    return np.stack(pictures)[:, None]


def test_flows_are_raw_maps_in_order(demo_run: tuple[Path, Ended]) -> None:
    maps = flows(demo_run[0])
    assert list(maps) == [f"{i:03d}:{name}" for i, name in enumerate(BLOCKS)]
    sizes = [64, 32, 32, 16, 16, 8, 8, 8]
    assert [value.shape for value in maps.values()] == [(n, n) for n in sizes]
    for value in maps.values():
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
        assert value.min() >= 0
        assert value.max() > value.min()
    # raw: not stretched to [0, 1]
    assert max(value.max() for value in maps.values()) != pytest.approx(1.0)


def test_manifest_has_every_documented_field(demo_run: tuple[Path, Ended]) -> None:
    out, ended = demo_run
    manifest = manifest_of(out)
    assert not mismatches(manifest, MANIFEST)
    assert ended.json == manifest
    assert manifest["model"]["sha256"] == hashlib.sha256(DEMO_MODEL.read_bytes()).hexdigest()
    assert manifest["run"]["inputs"][0]["sha256"] == hashlib.sha256(demo_picture().read_bytes()).hexdigest()
    assert [f"{layer['index']:03d}:{layer['tensor']}" for layer in manifest["layers"]] == list(flows(out))
    for layer in manifest["layers"]:
        assert 0 < layer["retained_fraction"] <= 1
        assert layer["seconds"] >= 0
    rules = {layer["tensor"]: layer["rule"] for layer in manifest["layers"]}
    assert rules["top_relu"] == "start"
    assert rules["block_relu"] == "unpool-to-argmax"
    assert rules["stem_pool"] == "least-squares"
    solved = next(layer for layer in manifest["layers"] if layer["tensor"] == "stem_pool")
    assert solved["iterations"] > 0


def test_prediction_is_that_of_onnxruntime(demo_run: tuple[Path, Ended]) -> None:
    manifest = manifest_of(demo_run[0])
    session = onnxruntime.InferenceSession(str(DEMO_MODEL), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": demo_tensor(3)})
    order = np.argsort(-expected[0])[:5]
    for side in ("naflow", "onnxruntime"):
        rows = manifest["prediction"][side]
        assert [row["class"] for row in rows] == order.tolist()
        np.testing.assert_allclose([row["score"] for row in rows], expected[0][order], rtol=1e-4, atol=1e-4)
    assert manifest["target"]["class"] == 3
    assert manifest["target"]["logit"] == pytest.approx(float(expected[0][3]), rel=1e-4)


def test_pictures_animation_and_report(demo_run: tuple[Path, Ended]) -> None:
    out = demo_run[0]
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    overlays = [f"overlays/{i:03d}-{name}.png" for i, name in enumerate(BLOCKS)]
    assert written == sorted(["flow.gif", "flows.npz", "manifest.json", "report.html", *overlays])
    sizes = {load_picture(out / name).size for name in overlays}
    assert len(sizes) == 1
    with Image.open(out / "flow.gif") as animation:
        assert animation.n_frames == len(BLOCKS)
    report = (out / "report.html").read_text(encoding="utf-8")
    assert all(name in report for name in BLOCKS)
    assert not re.search(r'(?:src|href)\s*=\s*["\']?(?:https?:)?//', report)


def test_map_lies_on_the_digit(demo_run: tuple[Path, Ended]) -> None:
    truth = json.loads((DEMO / "inputs" / "truth.json").read_text(encoding="utf-8"))["digit_3.png"]
    left, top, right, bottom = truth["box"]
    share = (right - left) * (bottom - top) / 64**2
    for key, value in flows(demo_run[0]).items():
        if value.shape[0] < 16:  # cells as large as the digit
            continue
        scale = 64 // value.shape[0]
        large = np.kron(value, np.ones((scale, scale)))
        inside = large[top:bottom, left:right].sum() / large.sum()
        assert inside > 3 * share, (key, inside, share)


def test_json_is_one_object_and_progress_nowhere(demo_run: tuple[Path, Ended]) -> None:
    ended = demo_run[1]
    assert json.loads(ended.stdout)["layers"]
    assert ended.stderr == ""


def test_quiet_is_silent(tmp_path: Path) -> None:
    ended = explain_demo(tmp_path / "out", "--quiet")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "")


def test_without_options_it_says_what_it_saw(tmp_path: Path) -> None:
    ended = explain_demo(tmp_path / "out")
    assert (ended.status, ended.stdout) == (0, "")
    said = ended.stderr.splitlines()
    assert said[0].startswith("digit_3.png: predicted 3 (")
    assert said[0].endswith("explained 3 over 8 layers")
    assert said[-1] == f"report: {tmp_path / 'out' / 'report.html'}"


def test_assumed_preprocessing_is_said_once(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", demo_tensor(3))
    ended = naflow("explain", DEMO_MODEL, tmp_path / "x.npy", "--out", tmp_path / "a")
    assert (ended.status, "no --preprocess" in ended.stderr) == (0, False)
    weights = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]
    onnx.save(make_model(nodes, {"x": [1, 3, 16, 16]}, constants=weights), tmp_path / "colour.onnx")
    ended = naflow("explain", tmp_path / "colour.onnx", demo_picture(), "--out", tmp_path / "b", "--json")
    assert ended.status == 0
    assumed = "no --preprocess given: assuming 'imagenet'"
    assert ended.stderr.count(assumed) == 1
    assert ended.json["warnings"][0].startswith(assumed)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("blocks", BLOCKS),
        ("block_relu,stem_conv", ["stem_conv", "block_relu"]),
        ("top_relu, widen_pool", ["widen_pool", "top_relu"]),
        ("block_a_relu", ["block_a_relu"]),
    ],
)
def test_layers(layers: str, expected: list[str], tmp_path: Path) -> None:
    assert explain_demo(tmp_path / "out", "--layers", layers).status == 0
    assert names(tmp_path / "out") == expected
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == len(expected)


def test_spine_and_nodes(tmp_path: Path, demo_run: tuple[Path, Ended]) -> None:
    spine = [entry["tensor"] for entry in naflow("inspect", DEMO_MODEL, "--json").json["spine"]]
    assert explain_demo(tmp_path / "spine", "--layers", "spine").status == 0
    assert names(tmp_path / "spine") == spine
    assert explain_demo(tmp_path / "nodes", "--layers", "nodes").status == 0
    every = names(tmp_path / "nodes")
    assert set(spine) < set(every)
    assert {"block_a_conv", "block_a_norm", "block_a_relu", "block_b_conv"} <= set(every)
    # asking for more layers changes none of them
    maps = {key.partition(":")[2]: value for key, value in flows(tmp_path / "nodes").items()}
    for key, value in flows(demo_run[0]).items():
        np.testing.assert_allclose(maps[key.partition(":")[2]], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("target", "expected"), [("top", 3), ("class:top", 3), ("class:8", 8), ("class:NAME", 5)]
)
def test_target(target: str, expected: int, tmp_path: Path, demo_run: tuple[Path, Ended]) -> None:
    labels = tmp_path / "labels.txt"
    words = ["zero", "one", "two", "three", "four", "five, quintet", "six", "seven", "eight", "nine"]
    labels.write_text("\n".join(words), encoding="utf-8")
    text = target.replace("NAME", "Quintet")
    ended = explain_demo(
        tmp_path / "out", "--target", text, "--labels", labels, "--json", "--layers", "top_relu"
    )
    assert ended.status == 0
    assert ended.json["target"]["class"] == expected
    assert ended.json["target"]["label"] == words[expected].split(",")[0]
    same = np.array_equal(flows(tmp_path / "out")["000:top_relu"], flows(demo_run[0])["007:top_relu"])
    assert same == (expected == 3)


def test_top_feature_map(tmp_path: Path) -> None:
    ended = explain_demo(tmp_path / "out", "--top-feature-map", "deepen_relu", "--json")
    assert ended.status == 0
    assert ended.json["model"]["top_feature_map"] == "deepen_relu"
    assert names(tmp_path / "out") == BLOCKS[:-1]


@pytest.mark.parametrize("preset", ["default", "net", "positive", "paper", "published-code"])
def test_presets_differ(preset: str, tmp_path: Path, demo_run: tuple[Path, Ended]) -> None:
    options = ("--preset", preset, "--json", "--layers", "deepen_relu,top_relu")
    ended = explain_demo(tmp_path / "out", *options)
    assert ended.status == 0
    method = ended.json["method"]
    inverse = "activation" if preset in ("net", "published-code") else "least-squares"
    ours = {"default": "graded-mass:0.9", "net": "graded-mass:0.9", "positive": "soft-mass:0.9"}
    assert (method["inverse"], method["abandon"]) == (inverse, ours.get(preset, "zero-gradient"))
    assert method["evidence"] == ("net" if preset in ("default", "net") else "positive")
    assert method["anchor"] == ("activation" if preset in ("default", "net") else "origin")
    assert method["feasible"] == (preset in ours)
    rules = {layer["tensor"]: layer["rule"] for layer in ended.json["layers"]}
    assert rules["deepen_relu"] == inverse
    value = flows(tmp_path / "out")["000:deepen_relu"]
    assert np.array_equal(value, flows(demo_run[0])["006:deepen_relu"]) == (preset == "default")


@pytest.mark.parametrize(
    ("option", "value", "key", "expected"),
    [
        ("--rows", "retained", "rows", "retained"),
        ("--rows", "all", "rows", "all"),
        ("--weighting", "plain", "weighting", "plain"),
        ("--evidence", "positive", "evidence", "positive"),
        ("--quality", "draft", "tolerance", 1e-2),
        ("--abandon", "mass:0.8", "abandon", "mass:0.8"),
        ("--no-feasible", None, "feasible", False),
        ("--anchor", "origin", "anchor", "origin"),
        ("--damping", "0.5", "damping", 0.5),
        ("--max-iterations", "1", "max_iterations", 1),
        ("--map-change", "0.001", "map_change", 0.001),
        ("--tolerance", "0.5", "tolerance", 0.5),
        ("--inverse", "activation", "inverse", "activation"),
    ],
)
def test_single_option_changes_the_maps(
    option: str, value: str | None, key: str, expected: object, tmp_path: Path, demo_run: tuple[Path, Ended]
) -> None:
    given = (option,) if value is None else (option, value)
    ended = explain_demo(tmp_path / "out", *given, "--json", "--layers", "deepen_relu,top_relu")
    assert ended.status == 0
    reference = manifest_of(demo_run[0])["method"]
    assert ended.json["method"] == {**reference, key: expected}
    assert not np.array_equal(
        flows(tmp_path / "out")["000:deepen_relu"], flows(demo_run[0])["006:deepen_relu"]
    )


def test_unfinished_solve_is_a_warning(tmp_path: Path) -> None:
    options = ("--max-iterations", "1", "--tolerance", "1e-6", "--layers", "deepen_relu", "--json")
    ended = explain_demo(tmp_path / "out", *options)
    assert ended.status == 0
    warning = "layer deepen_relu: the solve did not converge"
    assert any(text.startswith(warning) for text in ended.json["warnings"])
    assert ended.stderr.startswith(f"naflow: {warning}")


def test_several_pictures(demo_batch: Path, demo_run: tuple[Path, Ended]) -> None:
    maps = flows(demo_batch)
    assert [value.shape[0] for value in maps.values()] == [3] * len(BLOCKS)
    for key, value in flows(demo_run[0]).items():
        np.testing.assert_allclose(maps[key][0], value, rtol=1e-5, atol=1e-6)
    manifest = manifest_of(demo_batch)
    assert [picture["input"] for picture in manifest["pictures"]] == [
        "digit_3.png",
        "digit_7.png",
        "digit_8.png",
    ]
    assert [picture["target"]["class"] for picture in manifest["pictures"]] == [3, 7, 8]
    assert all(len(layer["iterations"]) == 3 for layer in manifest["layers"])
    folders = sorted(path.name for path in (demo_batch / "overlays").iterdir())
    assert folders == ["000-digit_3", "001-digit_7", "002-digit_8"]
    assert all(len(list((demo_batch / "overlays" / name).iterdir())) == len(BLOCKS) for name in folders)
    assert sorted(path.name for path in demo_batch.glob("*.gif")) == [
        "flow-001.gif",
        "flow-002.gif",
        "flow.gif",
    ]


def test_batch_size_does_not_matter(demo_batch: Path, tmp_path: Path) -> None:
    pictures = [demo_picture(3), demo_picture(7), demo_picture(8)]
    assert explain_demo(tmp_path / "out", "--batch-size", "2", pictures=pictures).status == 0
    for key, value in flows(demo_batch).items():
        gap = np.abs(flows(tmp_path / "out")[key] - value).max() / value.max()
        assert gap < 1e-5, (key, gap)


def test_arrays_and_pictures_agree(demo_batch: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", demo_tensor(3, 7))
    np.savez(tmp_path / "y.npz", image=demo_tensor(8)[0])
    ended = naflow(
        "explain", DEMO_MODEL, tmp_path / "x.npy", tmp_path / "y.npz", "--out", tmp_path / "out", "--json"
    )
    assert ended.status == 0
    assert [picture["input"] for picture in ended.json["pictures"]] == ["x.npy[0]", "x.npy[1]", "y.npz"]
    assert ended.json["run"]["preprocess"] is None
    for key, value in flows(demo_batch).items():
        np.testing.assert_allclose(flows(tmp_path / "out")[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version(option: str) -> None:
    ended = naflow(option)
    assert (ended.status, ended.stderr) == (0, "")
    assert "naflow" in ended.stdout
