"""`naflow evaluate` on a real network, photographs with boxes, and its quantised twin."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.command_line import naflow

ZOO = Path(os.environ.get("NAFLOW_ZOO", ""))
MODEL = ZOO / "models" / "mobilenetv1_025_128_tf_logits.onnx"
TWIN = ZOO / "models" / "mobilenetv1_025_128_tf_int8qdq.onnx"
LABELS = ZOO / "labels" / "imagenet1001_background_first.txt"
RECIPE = {
    "channels": "RGB",
    "crop_fraction": 0.875,
    "size": 128,
    "subtract": [127.5] * 3,
    "divide": [127.5] * 3,
}
PHOTOGRAPHS = ("burn_coyote.jpg", "burn_dog.jpg", "burn_torch.jpg")

pytestmark = pytest.mark.skipif(
    not (os.environ.get("NAFLOW_ZOO") and MODEL.is_file() and TWIN.is_file()),
    reason="set NAFLOW_ZOO to a folder with models/, images/ and labels/",
)


def truth(background: int = 1) -> dict[str, Any]:
    """The photographs' own list in the format of `--boxes`; the model's class 0 is the background."""
    entries = json.loads((ZOO / "images" / "manifest.json").read_text(encoding="utf-8"))
    return {
        Path(entry["path"]).name: {
            "class": [number + background for number in entry["imagenet_labels"]],
            "boxes": entry["boxes_xyxy"],
        }
        for entry in entries
    }


def test_maps_beat_controls_and_hardly_change_when_quantised(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in PHOTOGRAPHS:
        (folder / name).symlink_to(ZOO / "images" / name)
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    (tmp_path / "boxes.json").write_text(json.dumps(truth()), encoding="utf-8")
    ended = naflow(
        *("evaluate", MODEL, "--images", folder, "--preprocess", tmp_path / "recipe.json"),
        *("--boxes", tmp_path / "boxes.json", "--labels", LABELS, "--methods", "layer-cam,random,empty"),
        *("--metrics", "layer-deletion,energy,deletion-layer-mask", "--stability", "--twin", TWIN, "--json"),
    )
    assert ended.status == 0, ended.stderr
    facts = ended.json
    assert [p["name"] for p in facts["pictures"]] == sorted(PHOTOGRAPHS)
    assert all(p["class"] in truth()[p["name"]]["class"] for p in facts["pictures"])
    means = {(e["metric"], e["method"]): e["mean"] for e in facts["results"] if e["layer"] == "whole flow"}
    for control in ("random", "empty"):
        for metric in ("layer-deletion", "energy"):
            assert means[metric, "layer-cam"] > means[metric, control] + 0.03
        assert means["deletion-layer-mask", "layer-cam"] < means["deletion-layer-mask", control]
    assert means["stability-twin-pearson", "layer-cam"] > 0.7
    assert means["stability-jpeg-spearman", "layer-cam"] > 0.7
