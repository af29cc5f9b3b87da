"""Real exported models, end to end through the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from naflow_client import Preprocessing, load_picture
from support.command_line import naflow
from support.onnx_graphs import zoo_parameters

pytestmark = pytest.mark.skipif(
    "NAFLOW_ZOO" not in os.environ, reason="set NAFLOW_ZOO to a folder of models and pictures"
)

ROOT = Path(os.environ.get("NAFLOW_ZOO", "."))
NO_CLASSES = {"relationnet_miniimagenet_conv4_encoder"}
OPEN_SIZE = {"ppocr_cls_mobilenetv3_paddle": "1,3,48,192"}
KEYS = ("channels", "size", "resize_shorter", "crop", "crop_fraction", "subtract", "divide")

# trained models with a photograph each, the layers that are asked for, and a class that fits the photograph
PHOTOGRAPHS = [
    ("squeezenet11_fp32_winml", "glow_zebra_340.png", "zebra"),
    ("mobilenetv1_025_128_tf_logits", "burn_coyote.jpg", None),
    ("mobilenetv1_025_128_tf_int8qdq", "glow_zebra_340.png", "zebra"),
    ("mobilenetv2_050_224_tf_op10", "omnixai_elephant.jpg", None),
    ("mobilenetv2_100_224_tf_logits", "burn_cat.jpg", None),
]


def described(name: str) -> dict[str, Any]:
    manifest = json.loads((ROOT / "models" / "manifest.json").read_text(encoding="utf-8"))
    return dict(manifest[f"{name}.onnx"])


def recipe(name: str, folder: Path) -> Path:
    """A preprocessing file as the manifest describes the model."""
    facts = described(name)
    settings = {key: facts[key] for key in KEYS if key in facts}
    path = folder / "preprocess.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def last_blocks(report: dict[str, Any], count: int) -> list[str]:
    """The deepest blocks: a cascade this short costs little, and has exact rules and solves in it."""
    return list(report["blocks"][-count:])


@pytest.mark.parametrize("path", zoo_parameters())
def test_inspect_and_verify(path: Path, tmp_path: Path) -> None:
    shape = ("--input-shape", OPEN_SIZE[path.stem]) if path.stem in OPEN_SIZE else ()
    inspected = naflow("inspect", path, "--json", *shape)
    report = inspected.json
    assert (inspected.status, report["explainable"]) == (0, True), report["reason"]
    assert report["unsupported"] == []
    assert report["spine"][-1]["tensor"] == report["top_feature_map"]
    assert len(report["blocks"]) >= 2
    given: tuple[object, ...] = ()
    if path.stem in OPEN_SIZE:
        sizes = [int(n) for n in OPEN_SIZE[path.stem].split(",")]
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=sizes).astype(np.float32))
        given = ("--input", tmp_path / "x.npy")
    verified = naflow("verify", path, "--json", *given)
    worst = max(verified.json["tensors"], key=lambda tensor: (not tensor["ok"], tensor["max_rel_error"]))
    assert verified.status == 0, worst


@pytest.mark.parametrize(("name", "picture", "expected"), PHOTOGRAPHS)
def test_photograph(name: str, picture: str, expected: str | None, tmp_path: Path) -> None:
    model, photograph = ROOT / "models" / f"{name}.onnx", ROOT / "images" / picture
    preprocess = recipe(name, tmp_path)
    layers = last_blocks(naflow("inspect", model, "--json").json, 3)
    ended = naflow(
        "explain", model, photograph, "--out", tmp_path / "out", "--json", "--preprocess", preprocess,
        "--labels", ROOT / "labels" / described(name)["labels"], "--layers", ",".join(layers),
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    manifest = ended.json

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    spec = session.get_inputs()[0]
    dtype = np.uint8 if "uint8" in spec.type else np.float32
    array = Preprocessing.from_file(preprocess).apply(load_picture(photograph), spec.shape, dtype).array
    scores = np.asarray(session.run(None, {spec.name: array})[0]).reshape(-1)
    for side in ("naflow", "onnxruntime"):
        assert manifest["prediction"][side][0]["class"] == scores.argmax()
    assert manifest["target"]["class"] == scores.argmax()
    if expected:
        assert expected in manifest["target"]["label"]

    with np.load(tmp_path / "out" / "flows.npz") as flows:
        assert [key.partition(":")[2] for key in flows] == layers
        for key, value in flows.items():
            assert value.dtype == np.float32
            assert np.isfinite(value).all(), key
            assert value.max() > value.min() >= 0, key
    assert not any("differ from onnxruntime" in text for text in manifest["warnings"])


@pytest.mark.parametrize("name", sorted(NO_CLASSES))
def test_feature_map_has_no_class(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(1, 3, 84, 84)).astype(np.float32))
    ended = naflow("explain", ROOT / "models" / f"{name}.onnx", tmp_path / "x.npy", "--out", tmp_path / "out")
    assert (ended.status, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "is a feature map" in ended.stderr
    assert not (tmp_path / "out").exists()
