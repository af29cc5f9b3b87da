"""`naflow bank create` and `naflow explain` with --reference and --bank, on the contrastive digits."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import naflow_core as nf
from naflow_cli.inputs import read_inputs
from support.command_line import DEMO_MODEL, ROOT, Ended, naflow

EXAMPLE = ROOT / "examples" / "contrastive_digits"
MODEL = EXAMPLE / "contrastive_digits.onnx"
PREPROCESS = ("--preprocess", EXAMPLE / "preprocess.json")
SUPPORTS = sorted((EXAMPLE / "inputs").glob("support_*.png"))
QUERY = EXAMPLE / "inputs" / "query_3.png"
TOP = ("--layers", "top_relu")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    labels = folder / "labels.txt"
    labels.write_text("".join(f"{path.name},digit {path.stem[-1]}\n" for path in reversed(SUPPORTS)))
    made = folder / "bank.npz"
    ended = naflow("bank", "create", MODEL, *SUPPORTS, "--labels", labels, "--out", made, *PREPROCESS)
    assert ended.status == 0, ended.stderr
    assert list(folder.iterdir()) == [labels, made] or list(folder.iterdir()) == [made, labels]
    return made


def explained(tmp_path: Path, *arguments: object, query: Path = QUERY) -> tuple[Ended, dict[str, Any]]:
    ended = naflow("explain", MODEL, query, "--out", tmp_path / "out", *TOP, "--json", *arguments)
    assert ended.status == 0, ended.stderr
    return ended, ended.json


def comparison_in(report: Path) -> dict[str, Any]:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', report.read_text())
    assert text is not None
    return json.loads(text[1])["pictures"][0]["comparison"]


def test_bank_holds_what_the_model_gives(bank: Path) -> None:
    found = nf.Bank.read(bank)
    model = nf.load(MODEL)
    assert found.labels == tuple(f"digit {path.stem[-1]}" for path in SUPPORTS)
    assert found.names == tuple(path.name for path in SUPPORTS)
    assert (found.model_sha256, found.output) == (model.sha256, "embedding")
    with Image.open(SUPPORTS[1]) as picture:
        x = np.asarray(picture.convert("L"), np.float32)[None, None] / 255
    np.testing.assert_allclose(found.embeddings[1], model.embed(x)[0], atol=1e-5)
    assert found.thumbnails is not None
    assert found.thumbnails.shape == (len(SUPPORTS), 64, 64, 3)


def test_labels_from_folders_and_from_lines(tmp_path: Path) -> None:
    for path in SUPPORTS[:2]:
        folder = tmp_path / "pictures" / f"way {path.stem[-1]}"
        folder.mkdir(parents=True)
        shutil.copy(path, folder / "same name.png")
    arguments = ("bank", "create", MODEL, tmp_path / "pictures", "--batch-size", 2, *PREPROCESS, "--json")
    facts = naflow(*arguments, "--out", tmp_path / "a.npz").json
    assert facts["labels"] == {f"way {path.stem[-1]}": 1 for path in SUPPORTS[:2]}
    assert facts["shape"] == [64]
    (tmp_path / "lines.txt").write_text("one\none\n")
    facts = naflow(*arguments, "--out", tmp_path / "b.npz", "--labels", tmp_path / "lines.txt").json
    assert facts["labels"] == {"one": 2}


def test_array_of_several_pictures_in_a_bank(tmp_path: Path) -> None:
    folder = tmp_path / "noise"
    folder.mkdir()
    np.save(folder / "x.npy", np.random.default_rng(0).random((3, 1, 32, 32), np.float32))
    facts = naflow("bank", "create", MODEL, folder, "--out", tmp_path / "a.npz", "--json").json
    assert facts["labels"] == {"noise": 3}
    assert nf.Bank.read(tmp_path / "a.npz").names == ("x.npy[0]", "x.npy[1]", "x.npy[2]")


def test_explain_with_a_bank(bank: Path, tmp_path: Path) -> None:
    """The bank knows the preprocessing. One of five neighbours has the voted label."""
    _, manifest = explained(tmp_path, "--bank", bank)
    target = manifest["target"]
    assert (target["kind"], target["label"], target["metric"]) == ("similarity", "digit 3", "cosine")
    assert [n["used"] for n in target["neighbours"]] == [True, False, False, False, False]
    assert target["neighbours"][0]["name"] == "support_3.png"
    assert target["similarity"] == pytest.approx(target["neighbours"][0]["similarity"], rel=1e-5)
    contributions = [entry["contribution"] for entry in target["top_channels"]]
    assert contributions == sorted(contributions, reverse=True)
    assert manifest["prediction"]["naflow"][0]["label"] == "digit 3"
    assert sum(entry["score"] for entry in manifest["prediction"]["naflow"]) == pytest.approx(1)
    assert manifest["run"]["similarity"]["bank"]["path"] == str(bank)
    assert manifest["warnings"] == []
    assert manifest["method"]["similarity"] == {
        "metric": "cosine",
        "normalise": "minmax",
        "coefficients": "gradient",
        "neighbours": 20,
    }
    shown = comparison_in(tmp_path / "out" / "report.html")
    assert [item["label"] for item in shown["references"]] == [n["label"] for n in target["neighbours"]]
    assert all(item["source"].startswith("data:image/") for item in shown["references"])
    assert len(shown["channels"]) == 5
    again = naflow("explain", "--manifest", tmp_path / "out" / "manifest.json", "--out", tmp_path / "again")
    assert again.status == 0, again.stderr
    assert "nearest is digit 3" in again.stderr
    flows = [(tmp_path / name / "flows.npz").read_bytes() for name in ("out", "again")]
    assert flows[0] == flows[1]


def test_a_bank_searched_by_faiss(bank: Path, tmp_path: Path) -> None:
    """Where it is installed, to the same files; else one line says what to install."""
    arguments = ("explain", MODEL, QUERY, *TOP, "--bank", bank, "--quiet")
    faiss = naflow(*arguments, "--search", "faiss", "--out", tmp_path / "faiss")
    if importlib.util.find_spec("faiss") is None:
        assert (faiss.status, len(faiss.stderr.splitlines())) == (2, 1)
        assert "faiss, which is not installed (pip install 'naflow[faiss]'" in faiss.stderr
        return
    assert faiss.status == 0, faiss.stderr
    plain = naflow(*arguments, "--search", "jax", "--out", tmp_path / "jax")
    assert plain.status == 0, plain.stderr
    found = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("faiss", "jax")]
    assert found[0]["run"] == found[1]["run"]
    assert found[0]["target"] == found[1]["target"]
    flows = [(tmp_path / name / "flows.npz").read_bytes() for name in ("faiss", "jax")]
    assert flows[0] == flows[1]


def test_another_label_of_the_bank(bank: Path, tmp_path: Path) -> None:
    _, manifest = explained(tmp_path, "--bank", bank, "--target", "class:digit 6", "--neighbours", 5)
    assert manifest["target"]["label"] == "digit 6"
    assert [n["label"] for n in manifest["target"]["neighbours"] if n["used"]] == ["digit 6"]


def test_references_as_pictures_or_embeddings(bank: Path, tmp_path: Path) -> None:
    embeddings = nf.Bank.read(bank).embeddings
    np.save(tmp_path / "rows.npy", embeddings[:2])
    pictures = [argument for path in SUPPORTS[:2] for argument in ("--reference", path)]
    _, by_picture = explained(tmp_path / "a", *pictures, *PREPROCESS, "--metric", "euclidean")
    _, by_row = explained(
        tmp_path / "b", "--reference", tmp_path / "rows.npy", *PREPROCESS, "--metric", "euclidean"
    )
    assert by_row["target"]["similarity"] == pytest.approx(by_picture["target"]["similarity"], rel=1e-4)
    assert by_picture["target"]["label"] in {path.name for path in SUPPORTS[:2]}
    assert by_row["target"]["label"] in {"rows.npy[0]", "rows.npy[1]"}
    flows = [np.load(tmp_path / name / "out" / "flows.npz")["000:top_relu"] for name in "ab"]
    np.testing.assert_allclose(flows[0], flows[1], rtol=1e-3, atol=1e-5 * flows[0].max())
    sources = [
        comparison_in(tmp_path / name / "out" / "report.html")["references"][0]["source"] for name in "ab"
    ]
    assert sources[0].startswith("data:image/")
    assert sources[1] is None


def test_options_change_the_flow(tmp_path: Path) -> None:
    published, maps = ("--coefficients", "contribution"), []
    for i, options in enumerate([(), published, (*published, "--normalise", "none"), ("--metric", "dot")]):
        explained(tmp_path / str(i), "--reference", SUPPORTS[2], *PREPROCESS, *options)
        maps.append(np.load(tmp_path / str(i) / "out" / "flows.npz")["000:top_relu"])
    assert not np.allclose(maps[0], maps[1])
    assert not np.allclose(maps[1], maps[2])
    np.testing.assert_allclose(maps[3], maps[0], rtol=1e-3)  # this model normalises its output itself


REFERENCE = ("--reference", SUPPORTS[0])
BANK = "BANK"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metric", "dot"), "--metric has no effect on class scores"),
        ((*REFERENCE, "--bank", BANK), "--reference and --bank exclude each other"),
        ((*REFERENCE, "--neighbours", 3), "--neighbours has no effect with --reference"),
        ((*REFERENCE, "--search", "faiss"), "--search needs a bank in a file"),
        (("--search", "faiss"), "--search has no effect on class scores"),
        (("--bank", BANK, "--search", "annoy"), "search 'annoy' does not exist (use jax or faiss)"),
        ((*REFERENCE, "--target", "class:3"), "--target class:3 has no effect with --reference"),
        ((*REFERENCE, "--metric", "cosin"), "did you mean 'cosine'"),
        ((*REFERENCE, "--normalise", "max"), "normalise 'max' does not exist"),
        ((*REFERENCE, "--metric", "image-to-class"), "compares local descriptors"),
        ((*REFERENCE, "--labels", EXAMPLE / "labels.txt"), "--labels names classes"),
        (("--server-bank", "b"), "--server-bank is for --server"),
        ((*REFERENCE, "--server-bank", "b"), "--reference and --server-bank exclude each other"),
        ((*REFERENCE, "--contrast"), "--contrast needs ways to choose from"),
        ((*REFERENCE, "--sides", "left"), "--sides 'left' does not exist"),
        ((*REFERENCE, *REFERENCE, "--sides", "both"), "do not pair with"),
        (("--bank", BANK, "--sides", "both"), "--sides needs pairs of pictures"),
        (("--sides", "both"), "--sides has no effect on class scores"),
        ((*REFERENCE, *REFERENCE, "--sides", "query"), "2 references do not pair with 1 pictures"),
        (("--supports", BANK), "is not a folder"),
        (("--reference", "missing.png"), "missing.png"),
        (("--bank", "missing.npz"), "'missing.npz': cannot be read"),
        (("--bank", EXAMPLE / "labels.txt"), "is no reference bank: not an .npz file"),
        (("--bank", BANK, "--target", "class:digit 9"), "label 'digit 9' is not in bank"),
        (("--bank", BANK, "--neighbours", 0), "k 0 must be at least 1"),
        (("--bank", BANK, "--preprocess", "unit"), "--preprocess differs from how bank"),
    ],
)
def test_one_line_says_what_is_wrong(bank: Path, tmp_path: Path, arguments: Any, said: str) -> None:
    given = [bank if argument == BANK else argument for argument in arguments]
    if "--reference" in given:
        given += PREPROCESS
    ended = naflow("explain", MODEL, QUERY, "--out", tmp_path / "out", *TOP, *given)
    assert ended.status == 2
    assert said in ended.stderr
    assert ended.stderr.startswith("naflow: ")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bank_of_another_model(bank: Path, tmp_path: Path) -> None:
    ended = naflow("explain", DEMO_MODEL, QUERY, "--bank", bank, "--out", tmp_path / "out")
    assert ended.status == 2
    assert "bank 'bank.npz' is of another model: its SHA-256 begins with" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((MODEL, "FOLDER"), "no pictures in this folder"),
        ((MODEL, QUERY, "--labels", "SHORT"), "has 2 lines, there are 1 pictures"),
        ((MODEL, QUERY, SUPPORTS[0], "--labels", "PARTIAL"), "has no label for 'support_0.png'"),
        ((MODEL, QUERY, "--batch-size", 0), "--batch-size 0 must be at least 1"),
        ((MODEL, "missing.png"), "missing.png"),
    ],
)
def test_bank_that_cannot_be_made(tmp_path: Path, arguments: Any, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_text("a\nb\n")
    (tmp_path / "partial.txt").write_text("query_3.png,three\n")
    names = {"FOLDER": "empty", "SHORT": "short.txt", "PARTIAL": "partial.txt"}
    given = [tmp_path / names[a] if a in names else a for a in map(str, arguments)]
    ended = naflow("bank", "create", *given, "--out", tmp_path / "bank.npz", *PREPROCESS)
    assert (ended.status, said in ended.stderr) == (2, True), ended.stderr
    assert not (tmp_path / "bank.npz").exists()


def test_bank_is_not_written_over_what_is_read(tmp_path: Path) -> None:
    for source in (MODEL, SUPPORTS[0]):
        shutil.copy(source, tmp_path)
    model, picture, labels = tmp_path / MODEL.name, tmp_path / SUPPORTS[0].name, tmp_path / "labels.txt"
    labels.write_text("one\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for out in before:
        ended = naflow("bank", "create", model, picture, "--labels", labels, "--out", out, *PREPROCESS)
        assert (ended.status, "is read and would be replaced" in ended.stderr) == (2, True), ended
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_bank_beside_its_pictures_is_made_again(tmp_path: Path) -> None:
    shutil.copy(SUPPORTS[0], tmp_path)
    arguments = ("bank", "create", MODEL, tmp_path, "--out", tmp_path / "bank.npz", *PREPROCESS)
    for _ in range(2):
        ended = naflow(*arguments, "--json")
        assert (ended.status, ended.json["embeddings"]) == (0, 1)
    (tmp_path / SUPPORTS[0].name).unlink()
    ended = naflow(*arguments)
    assert (ended.status, "no pictures in this folder" in ended.stderr) == (2, True)


def test_bank_is_not_written_over_a_folder(tmp_path: Path) -> None:
    ended = naflow("bank", "create", MODEL, QUERY, "--out", tmp_path)
    assert (ended.status, "is a folder" in ended.stderr) == (2, True)


def test_point_to_point(tmp_path: Path) -> None:
    """The map over the reference is the core's, for the place of the top feature map under the pixel."""
    model = nf.load(MODEL)
    options = ("--reference", SUPPORTS[2], *PREPROCESS, "--point", "20,9")
    _, manifest = explained(tmp_path, *options)
    found = manifest["point"]
    assert found["pixel"] == [20, 9]
    x, other = (read_inputs(model, [path], str(EXAMPLE / "preprocess.json")) for path in (QUERY, SUPPORTS[2]))
    arrays = [next(iter(batch.arrays.values())) for batch in (x, other)]
    shape = model.plan(arrays[0]).program.shapes[found["tensor"]]
    row, column = 9 * shape[2] // 32, 20 * shape[3] // 32
    assert found["place"] == [row, column]
    expected = nf.point_to_point(model, *arrays, (row, column))
    saved = np.load(tmp_path / "out" / "point.npz")[found["tensor"]]
    assert saved.tobytes() == expected[0].tobytes()
    assert found["terms"] == [pytest.approx(float(expected.sum()), rel=1e-5)]
    (own,) = (tmp_path / "out" / "overlays").iterdir()
    with Image.open(tmp_path / "out" / "point.png") as over_reference, Image.open(own) as over_input:
        assert over_reference.size == over_input.size
    text = (tmp_path / "out" / "report.html").read_text()
    assert f"what answers to pixel 20,9 of {QUERY.name}" in text
    assert manifest["target"]["label"] == "pair"
    again = naflow("explain", "--manifest", tmp_path / "out" / "manifest.json", "--out", tmp_path / "again")
    assert again.status == 0, again.stderr
    assert (tmp_path / "again" / "point.npz").read_bytes() == (tmp_path / "out" / "point.npz").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--point", "1,1"), "--point has no effect on class scores"),
        ((*REFERENCE, "--point", "1"), "--point '1' is not understood"),
        ((*REFERENCE, "--point", "32,0"), "lies outside the 32 x 32 pixels"),
        ((*REFERENCE, "--point", "1,1", "--metric", "euclidean"), "has no terms by place"),
        ((*REFERENCE, "--point", "1,1", "--server", "localhost:1"), "--point is computed in this process"),
    ],
)
def test_points_that_do_not_fit(tmp_path: Path, arguments: Any, said: str) -> None:
    ended = naflow("explain", MODEL, QUERY, "--out", tmp_path / "out", *TOP, *arguments, *PREPROCESS)
    assert (ended.status, ended.stderr.count("\n")) == (2, 1)
    assert said in ended.stderr
    assert not (tmp_path / "out").exists()
