"""A manifest gives the same maps again, to the last bit, and nothing else passes for the files it names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from support.blocks import SIZE
from support.command_line import DEMO, Ended, demo_picture, explain_demo, naflow, naflow_process
from support.two_inputs import siamese


def bytes_of(folder: Path) -> bytes:
    return (folder / "flows.npz").read_bytes()


def test_same_bytes(demo_run: tuple[Path, Ended], tmp_path: Path) -> None:
    ended = naflow("explain", "--manifest", demo_run[0] / "manifest.json", "--out", tmp_path / "again")
    assert ended.status == 0, ended.stderr
    assert bytes_of(tmp_path / "again") == bytes_of(demo_run[0])


def test_same_bytes_from_another_process(demo_run: tuple[Path, Ended], tmp_path: Path) -> None:
    ended = naflow_process(
        "explain",
        "--manifest",
        demo_run[0] / "manifest.json",
        "--out",
        tmp_path / "again",
        "--json",
        cwd=tmp_path,
    )
    assert ended.status == 0, ended.stderr
    assert ended.json["layers"]
    assert bytes_of(tmp_path / "again") == bytes_of(demo_run[0])


def test_same_bytes_for_several_pictures(demo_batch: Path, tmp_path: Path) -> None:
    assert (
        naflow("explain", "--manifest", demo_batch / "manifest.json", "--out", tmp_path / "again").status == 0
    )
    assert bytes_of(tmp_path / "again") == bytes_of(demo_batch)


def test_manifest_of_a_rerun_is_the_same_manifest(demo_run: tuple[Path, Ended], tmp_path: Path) -> None:
    first = json.loads((demo_run[0] / "manifest.json").read_text(encoding="utf-8"))
    ended = naflow(
        "explain", "--manifest", demo_run[0] / "manifest.json", "--out", tmp_path / "again", "--json"
    )
    second = ended.json
    for manifest in (first, second):
        for layer in manifest["layers"]:
            del layer["seconds"]
    assert second == first


def test_array_of_two_pictures_and_repeated_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(3).random((2, 1, 64, 64), np.float32))
    inputs = [tmp_path / "x.npy", demo_picture(1), demo_picture(1)]
    options = ("--layers", "deepen_relu", "--abandon", "mass:0.8", "--target", "class:2", "--batch-size", "2")
    assert explain_demo(tmp_path / "first", *options, pictures=inputs).status == 0
    ended = naflow("explain", "--manifest", tmp_path / "first" / "manifest.json", "--out", tmp_path / "again")
    assert ended.status == 0, ended.stderr
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "first")
    with np.load(tmp_path / "again" / "flows.npz") as flows:
        assert flows["000:deepen_relu"].shape == (4, 8, 8)
        np.testing.assert_array_equal(flows["000:deepen_relu"][2], flows["000:deepen_relu"][3])


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Manifest, model and picture of a finished run; all its files are copies that a test may change."""
    for name in ("digits_in_clutter.onnx", "preprocess.json", "labels.txt"):
        shutil.copy(DEMO / name, tmp_path)
    picture = tmp_path / "picture.png"
    shutil.copy(demo_picture(4), picture)
    model = tmp_path / "digits_in_clutter.onnx"
    options = ("--preprocess", tmp_path / "preprocess.json", "--labels", tmp_path / "labels.txt")
    ended = naflow("explain", model, picture, "--out", tmp_path / "out", "--layers", "top_relu", *options)
    assert ended.status == 0, ended.stderr
    return tmp_path / "out" / "manifest.json", model, picture


def refused(ended: Ended, name: str, out: Path) -> None:
    assert (ended.status, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert name in ended.stderr
    assert "not the file that the manifest names" in ended.stderr
    assert not out.exists()


def test_changed_files_are_refused(moved: tuple[Path, Path, Path], tmp_path: Path) -> None:
    manifest, model, picture = moved
    out, labels = tmp_path / "again", tmp_path / "labels.txt"
    other = onnx.load(model)
    other.producer_name = "somebody else"
    changed = {
        model: other.SerializeToString(),
        picture: demo_picture(9).read_bytes(),
        labels: labels.read_bytes() + b"\n",
    }
    for path, content in changed.items():
        before = path.read_bytes()
        path.write_bytes(content)
        refused(naflow("explain", "--manifest", manifest, "--out", out), path.name, out)
        path.write_bytes(before)
    assert naflow("explain", "--manifest", manifest, "--out", out).status == 0


def test_files_may_have_moved(moved: tuple[Path, Path, Path], tmp_path: Path) -> None:
    manifest, model, picture = moved
    model.rename(tmp_path / "m.onnx")
    picture.rename(tmp_path / "p.png")
    ended = naflow("explain", "--manifest", manifest, "--out", tmp_path / "again")
    assert ended.status == 2
    assert "no such file" in ended.stderr.lower()
    ended = naflow(
        "explain",
        tmp_path / "m.onnx",
        tmp_path / "p.png",
        "--manifest",
        manifest,
        "--out",
        tmp_path / "again",
    )
    assert ended.status == 0, ended.stderr
    assert bytes_of(tmp_path / "again") == bytes_of(manifest.parent)
    ended = naflow(
        "explain",
        DEMO / "inputs" / "truth.json",
        tmp_path / "p.png",
        "--manifest",
        manifest,
        "--out",
        tmp_path / "x",
    )
    assert ended.status == 2
    ended = naflow(
        "explain", tmp_path / "m.onnx", demo_picture(9), "--manifest", manifest, "--out", tmp_path / "x"
    )
    refused(ended, "digit_9.png", tmp_path / "x")
    ended = naflow(
        "explain",
        tmp_path / "m.onnx",
        tmp_path / "p.png",
        tmp_path / "p.png",
        "--manifest",
        manifest,
        "--out",
        tmp_path / "x",
    )
    assert "made from 1 inputs, 2 are given" in ended.stderr


def test_preprocessing_is_in_the_manifest(moved: tuple[Path, Path, Path], tmp_path: Path) -> None:
    (tmp_path / "preprocess.json").unlink()
    ended = naflow("explain", "--manifest", moved[0], "--out", tmp_path / "again")
    assert ended.status == 0, ended.stderr
    assert bytes_of(tmp_path / "again") == bytes_of(moved[0].parent)


def test_the_explained_input_is_in_the_manifest(tmp_path: Path) -> None:
    """Of a model with two inputs; the network is symmetric, so that both lead to the same kind of map."""
    onnx.save(siamese(), tmp_path / "two.onnx")
    random = np.random.default_rng(0)
    arrays = {name: random.random((3, SIZE, SIZE), np.float32) for name in ("x", "z")}
    np.savez(tmp_path / "pair.npz", **arrays)
    np.savez(tmp_path / "exchanged.npz", x=arrays["z"], z=arrays["x"])
    quick = ("--json", "--preset", "published-code", "--layers", "spine")

    def made(name: str, *options: object) -> tuple[Ended, dict[str, np.ndarray]]:
        ended = naflow("explain", *options, "--out", tmp_path / name)
        assert ended.status == 0, ended.stderr
        with np.load(tmp_path / name / "flows.npz") as flows:
            return ended, dict(flows)

    two, pair = tmp_path / "two.onnx", tmp_path / "pair.npz"
    first, maps = made("first", two, pair, *quick)
    assert first.json["run"]["explained_input"] is None
    other, flows = made("other", two, pair, *quick, "--explained-input", "z")
    assert other.json["run"]["explained_input"] == "z"
    assert (next(iter(maps)), next(iter(flows))) == ("000:x", "000:z")
    _, again = made("again", "--manifest", tmp_path / "other" / "manifest.json")
    np.testing.assert_array_equal(again["000:z"], flows["000:z"])
    _, exchanged = made("exchanged", two, tmp_path / "exchanged.npz", *quick)
    np.testing.assert_allclose(flows["000:z"], exchanged["000:x"], rtol=1e-4, atol=1e-6)
    # the picture that the maps are drawn over is the explained one
    overlays = [tmp_path / name / "overlays" for name in ("other", "exchanged")]
    shown = [np.asarray(Image.open(sorted(folder.glob("000-*"))[0])) for folder in overlays]
    np.testing.assert_allclose(shown[0].astype(int), shown[1].astype(int), atol=2)
    old = json.loads((tmp_path / "first" / "manifest.json").read_text(encoding="utf-8"))
    del old["run"]["explained_input"], old["run"]["method"]["weighting"]
    (tmp_path / "old.json").write_text(json.dumps(old), encoding="utf-8")
    _, older = made("older", "--manifest", tmp_path / "old.json")
    np.testing.assert_array_equal(older["000:x"], maps["000:x"])
