"""`naflow evaluate` on the example network: table, JSON, report, resumption, and bad input."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from naflow_cli.truth import Truth, read_truth
from naflow_core.evaluate.folder import PICTURES
from support.command_line import DEMO, DEMO_MODEL, DEMO_OPTIONS, Ended, command, environment, naflow
from support.onnx_graphs import make_model

PREPROCESS = ("--preprocess", DEMO / "preprocess.json")
QUICK = ("--methods", "layer-cam,random", "--layers", "deepen_relu", "--metrics", "default,deletion-mean")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's own file in the format that the command reads."""
    known = json.loads((DEMO / "inputs" / "truth.json").read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    entries = {name: {"class": e["label"], "boxes": [e["box"]]} for name, e in known.items()}
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def evaluate(*options: object, limit: int = 2) -> Ended:
    return naflow(
        "evaluate", DEMO_MODEL, "--images", DEMO / "inputs", *PREPROCESS, *QUICK, "--limit", limit, *options
    )


@pytest.fixture(scope="module")
def whole(truth: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished evaluation with its folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ended = evaluate("--boxes", truth, *DEMO_OPTIONS[2:], "--out", out, "--json")
    assert (ended.status, ended.stderr) == (0, "")
    return out, ended.json


def test_json_holds_everything(whole: tuple[Path, dict[str, Any]]) -> None:
    out, facts = whole
    assert json.loads((out / "result.json").read_text(encoding="utf-8")) == facts
    assert facts["model"]["file"] == DEMO_MODEL.name
    assert [p["name"] for p in facts["pictures"]] == ["digit_1.png", "digit_3.png"]
    assert [p["class"] for p in facts["pictures"]] == [1, 3]
    assert facts["pictures"][0]["boxes"] == [[19 / 64, 25 / 64, 35 / 64, 47 / 64]]
    assert {m["name"] for m in facts["methods"] if m["control"]} == {"random"}
    measured = {entry["metric"] for entry in facts["results"]}
    assert {"energy", "deletion-blur", "deletion-mean", "randomisation"} <= measured
    assert facts["layers"] == [
        {"tensor": "deepen_relu", "shape": facts["layers"][0]["shape"], "resolution": [8, 8]}
    ]


def test_the_seed_settles_the_json(whole: tuple[Path, dict[str, Any]], truth: Path) -> None:
    assert evaluate("--boxes", truth, "--json").json["results"] == whole[1]["results"]
    assert evaluate("--boxes", truth, "--seed", 1, "--json").json["results"] != whole[1]["results"]


class Elements(HTMLParser):
    """Names and attributes of the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_report_stands_alone(whole: tuple[Path, dict[str, Any]]) -> None:
    text = (whole[0] / "report.html").read_text(encoding="utf-8")
    elements = Elements(text).found
    assert not [tag for tag, _ in elements if tag in ("script", "link", "iframe")]
    assert all(a.get("src", "data:").startswith("data:image/") for tag, a in elements if tag == "img")
    assert not [a for _, a in elements if "style" in a or any(name.startswith("on") for name in a)]
    assert "default-src 'none'" in next(a["content"] or "" for _, a in elements if "http-equiv" in a)
    assert len([tag for tag, _ in elements if tag == "img"]) == 2 * 2
    bars = len({(e["metric"], e["layer"]) for e in whole[1]["results"]})
    curves = len({(e["metric"], e["layer"]) for e in whole[1]["results"] if len(e["curve"]) > 1})
    assert len([tag for tag, a in elements if tag == "svg" and a.get("class") == "plot"]) == bars + curves
    for name in ("digit_1.png: 1, probability", "layer-cam", "measure of faithfulness"):
        assert name in text


def test_the_table_names_methods_and_measures(truth: Path) -> None:
    ended = evaluate("--boxes", truth, "--metrics", "energy,deletion-blur", limit=1)
    assert ended.status == 0
    lines = ended.stdout.splitlines()
    assert re.search(r"better +layer-cam +random", lines[1])
    assert [line.split()[0] for line in lines[2:4]] == ["energy", "deletion-blur*"]
    assert any("deepen_relu" in line for line in lines)


def test_without_a_truth_the_best_class_is_explained() -> None:
    ended = evaluate("--metrics", "layer-deletion", "--json", limit=1)
    picture = ended.json["pictures"][0]
    assert (picture["class"], picture["boxes"]) == (picture["predicted"], [])


def test_a_killed_evaluation_is_resumed(
    whole: tuple[Path, dict[str, Any]], truth: Path, tmp_path: Path
) -> None:
    """A real process, ended by Ctrl-C as soon as the first picture is finished."""
    out = tmp_path / "out"
    options = ("--boxes", truth, *DEMO_OPTIONS[2:], "--limit", 2, "--out", out)
    started = command("evaluate", DEMO_MODEL, "--images", DEMO / "inputs", *PREPROCESS, *QUICK, *options)
    with subprocess.Popen(
        started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        deadline = time.monotonic() + 120
        while not _lines(out / PICTURES) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    if process.returncode != 0:  # else it was faster than the signal
        assert process.returncode == 130
        assert "go on with --resume" in errors
        assert not (out / "result.json").exists()
    refused = evaluate(*options[:4], "--out", out)
    assert (refused.status, "holds an evaluation already" in refused.stderr) == (2, True)
    resumed = evaluate(*options[:4], "--out", out, "--resume", "--json")
    assert resumed.status == 0, resumed.stderr
    assert resumed.json == whole[1]
    other = evaluate(*options[:4], "--out", out, "--resume", "--seed", 3)
    assert (other.status, "other settings: seed differ" in other.stderr) == (2, True)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_stability_with_a_twin(tmp_path: Path) -> None:
    """The twin is the same file under other names: the maps are the same."""
    twin = onnx.load(DEMO_MODEL)
    for node in twin.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = f"other_{name}" if name.endswith("_relu") else name
    onnx.save(twin, tmp_path / "twin.onnx")
    options = ("--stability", "--twin", tmp_path / "twin.onnx", "--metrics", "sparseness", "--json")
    ended = evaluate(*options, limit=1)
    assert ended.status == 0, ended.stderr
    means = {e["metric"]: e["mean"] for e in ended.json["results"] if e["method"] == "layer-cam"}
    kinds = ("jpeg", "shift", "float16", "noise", "twin")
    assert {f"stability-{k}-{c}" for k in kinds for c in ("pearson", "spearman")} <= set(means)
    assert means["stability-twin-pearson"] == pytest.approx(1, abs=1e-5)
    assert 0.2 < means["stability-jpeg-pearson"] < 1
    assert "twin" not in evaluate("--stability", "--metrics", "sparseness", "--json", limit=1).stdout.replace(
        '"twin": null', ""
    )


def test_a_twin_that_takes_bytes_gets_bytes(tmp_path: Path) -> None:
    """The same network with uint8 input, which it scales itself."""
    twin = onnx.load(DEMO_MODEL)
    name = twin.graph.input[0].name
    scale = onnx.numpy_helper.from_array(np.float32(1 / 255), "scale")
    twin.graph.initializer.append(scale)
    for node in twin.graph.node:
        for i, given in enumerate(node.input):
            node.input[i] = "scaled" if given == name else given
    to = onnx.TensorProto.FLOAT
    twin.graph.node.insert(0, onnx.helper.make_node("Mul", ["floats", "scale"], ["scaled"]))
    twin.graph.node.insert(0, onnx.helper.make_node("Cast", [name], ["floats"], to=to))
    twin.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(twin, tmp_path / "twin.onnx")
    options = ("--stability", "--twin", tmp_path / "twin.onnx", "--metrics", "sparseness", "--json")
    ended = evaluate(*options, limit=1)
    assert ended.status == 0, ended.stderr
    means = {e["metric"]: e["mean"] for e in ended.json["results"] if e["method"] == "layer-cam"}
    assert means["stability-twin-pearson"] == pytest.approx(1, abs=1e-4)
    wrong = evaluate(*options[:3], "--twin-preprocess", "unit", "--metrics", "sparseness", limit=1)
    assert wrong.status == 2
    assert "twin" in wrong.stderr or "whole numbers" in wrong.stderr


def test_boxes_follow_the_part_of_the_picture_that_the_model_sees(tmp_path: Path) -> None:
    """A centre crop cuts the sides off: 128 x 64 pixels, of which the model sees columns 32 to 96."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 128), np.uint8)).save(folder / "a.png")
    recipe = {"channels": "L", "size": 64, "crop_fraction": 1.0, "divide": 255}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("picture,left,top,right,bottom\na.png,48,16,112,32\na.png,0,0,16,16\n", encoding="utf-8")
    ended = naflow(
        *("evaluate", DEMO_MODEL, "--images", folder, "--preprocess", tmp_path / "recipe.json"),
        *("--boxes", boxes, *QUICK, "--metrics", "energy", "--json"),
    )
    assert ended.status == 0, ended.stderr
    assert ended.json["pictures"][0]["boxes"] == [[0.25, 0.25, 1.0, 0.5]]
    assert "a box lies outside" in ended.stderr


def test_truth_files(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(
        "picture,left,top,right,bottom,class\na.png,1,2,3,4,7\na.png,5,6,7,8,tabby cat\nb.png,,,,,3\n",
        encoding="utf-8",
    )
    assert read_truth(path) == {
        "a.png": Truth((7, "tabby cat"), ((1, 2, 3, 4), (5, 6, 7, 8))),
        "b.png": Truth((3,), ()),
    }
    path.write_text("picture,class\na.png,cat\n", encoding="utf-8")
    assert read_truth(path) == {"a.png": Truth(("cat",), ())}
    path = tmp_path / "truth.json"
    path.write_text(
        '{"a.png": {"class": ["cat", 3]}, "b.png": {"boxes": [[0, 0.5, 2, 3]]}}', encoding="utf-8"
    )
    assert read_truth(path) == {"a.png": Truth(("cat", 3)), "b.png": Truth((), ((0, 0.5, 2, 3),))}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", "holds a JSON list"),
        ("a.json", "{}", "names no picture"),
        ("a.json", '{"digit_1.png": 3}', "'digit_1.png': must be an object"),
        ("a.json", '{"digit_1.png": {"boxes": [[1, 2, 3]]}}', "four numbers"),
        ("a.json", '{"digit_1.png": {"boxes": [[3, 2, 1, 4]]}}', "is empty"),
        ("a.json", '{"digit_1.png": {"boxes": [[1, 2, 1e999, 4]]}}', "four numbers"),
        ("a.json", '{"digit_1.png": {"class": 1.5}}', "a number, a name"),
        ("a.json", '{"digit_1.png": {"class": 11}}', "class 11 does not exist"),
        ("a.json", '{"digit_1.png": {"class": "one"}}', "class 'one' is a name"),
        ("a.json", '{"other.png": {"class": 1}}', "names none of the pictures"),
        ("a.csv", "name,x\n", "heading must be"),
        ("a.csv", "picture,left,top,right,bottom\na.png,1,2,3\n", "line 2: must have one value"),
        ("a.csv", "picture,left,top,right,bottom\na.png,1,2,x,4\n", "line 2: a box must be"),
        ("a.csv", f"picture,class\ndigit_1.png,{'9' * 5000}\n", "is a name"),
        ("a.csv", f"picture,class\ndigit_1.png,{'x' * 200_000}\n", "line 2: field larger than field limit"),
        ("a.json", f'{{"digit_1.png": {{"boxes": [[1, 2, {"9" * 400}, 4]]}}}}', "four numbers"),
        ("a.json", None, "cannot be read"),
    ],
)
def test_bad_truth_is_one_clear_line(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    ended = evaluate("--boxes", path, "--metrics", "sparseness")
    assert ended.status == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "grad-com"), "method 'grad-com' does not exist"),
        (("--metrics", "speed"), "measure 'speed' does not exist"),
        (("--metrics", "energy"), "measure 'energy' needs boxes"),
        (("--metrics", "stability-shift-pearson"), "add --stability"),
        (("--layers", "nowhere"), "'nowhere'"),
        (("--limit", 0), "--limit 0"),
        (("--seed", -1), "--seed -1"),
        (("--probed", -1), "--probed -1"),
        (("--resume",), "--resume needs --out"),
        (("--twin", "other.onnx"), "--twin has no effect without --stability"),
        (("--twin-preprocess", "raw"), "--twin-preprocess has no effect without --twin"),
        (("--images", "nowhere"), "--images nowhere: does not exist"),
        (("--against", "naflow"), "'naflow' to compare with"),
        (("--out", DEMO_MODEL), "cannot be used as work folder"),
        (("--preprocess", "imagenette"), "preprocessing 'imagenette' does not exist"),
    ],
)
def test_bad_options_are_one_clear_line(options: tuple[object, ...], message: str) -> None:
    ended = evaluate(*options)
    assert ended.status == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_models_that_cannot_be_evaluated(tmp_path: Path) -> None:
    two = make_model(
        [onnx.helper.make_node("Add", ["a", "b"], ["y"])], {"a": [1, 1, 8, 8], "b": [1, 1, 8, 8]}
    )
    byte = onnx.TensorProto.UINT8
    small = make_model([onnx.helper.make_node("Identity", ["a"], ["y"])], {"a": [1, 1, 8, 8]}, dtype=byte)
    for model, message in ((two, "several inputs (a, b)"), (small, "takes uint8")):
        onnx.save(model, tmp_path / "model.onnx")
        ended = naflow("evaluate", tmp_path / "model.onnx", "--images", DEMO / "inputs", *PREPROCESS)
        assert (ended.status, message in ended.stderr) == (2, True), ended.stderr


def test_arrays_are_pictures_too(tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    pixels = np.array(Image.open(DEMO / "inputs" / "digit_3.png"), np.float32)[None, None] / 255
    np.save(folder / "x.npy", np.concatenate([pixels, pixels[..., ::-1]]))
    shutil.copy(DEMO / "inputs" / "digit_3.png", folder)
    (tmp_path / "boxes.json").write_text('{"x.npy": {"boxes": [[0, 0, 32, 64]]}}', encoding="utf-8")
    ended = naflow(
        *("evaluate", DEMO_MODEL, "--images", folder, *PREPROCESS, "--boxes", tmp_path / "boxes.json"),
        *(*QUICK, "--metrics", "energy,sparseness", "--json"),
    )
    assert ended.status == 0, ended.stderr
    boxes = {p["name"]: p["boxes"] for p in ended.json["pictures"]}
    assert boxes == {"digit_3.png": [], "x.npy[0]": [[0, 0, 0.5, 1]], "x.npy[1]": [[0, 0, 0.5, 1]]}
    counts = {e["metric"]: e["count"] for e in ended.json["results"]}
    assert counts == {"energy": 2, "sparseness": 3}
