"""Similarities computed by a server leave the files that they leave without one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from naflow_client import Client
from naflow_server.engine import Engine
from support.command_line import ROOT, naflow
from support.engines import install
from support.grpc_server import running, settings

EXAMPLE = ROOT / "examples" / "contrastive_digits"
MODEL = EXAMPLE / "contrastive_digits.onnx"
PREPROCESS = ("--preprocess", EXAMPLE / "preprocess.json")
INPUTS = EXAMPLE / "inputs"
QUERIES = (INPUTS / "query_3.png", INPUTS / "query_6.png")
SUPPORTS = sorted(INPUTS.glob("support_*.png"))
TOP = ("--layers", "top_relu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank in a file, the same at the server, supports in folders, and embeddings."""
    root = tmp_path_factory.mktemp("similarity")
    install(root / "models", "digits", MODEL.read_bytes())
    for way, path in zip(("low", "low", "high", "high", "high"), SUPPORTS, strict=True):
        (root / "ways" / way).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / "ways" / way)
    ended = naflow("bank", "create", MODEL, root / "ways", "--out", root / "bank.npz", *PREPROCESS, "--quiet")
    assert ended.status == 0, ended.stderr
    np.save(root / "rows.npy", nf.Bank.read(root / "bank.npz").embeddings[:2])
    return root


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    configured = settings(repository={"path": folder / "models"}, banks={"path": folder / "banks"})
    with running(configured, Engine) as started:
        bank = nf.Bank.read(folder / "bank.npz")
        with Client(started.address) as client:
            client.create_bank("kept", bank.embeddings.shape[1], bank.model_sha256)
            client.append_references("kept", bank.embeddings, bank.labels, model_sha256=bank.model_sha256)
        yield started.address


def content(folder: Path) -> dict[str, bytes]:
    """The files whose bytes must not depend on where they were computed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"manifest.json", "report.html"}
    }


def manifest(folder: Path) -> dict[str, Any]:
    """Without what tells where and when."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for key in ("versions", "run"):
        del found[key]
    for layer in found["layers"]:
        del layer["seconds"]
    del found["model"]["file"]
    return found


def data(folder: Path) -> Any:
    """What the report shows, diagnostics aside."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    pictures = json.loads(
        text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    )
    return [{k: v for k, v in picture.items() if k != "layers"} for picture in pictures["pictures"]]


CASES: list[tuple[tuple[Path, ...], tuple[Any, ...]]] = [
    (QUERIES, ("--reference", SUPPORTS[2], "--reference", SUPPORTS[0], "--metric", "euclidean")),
    (QUERIES[:1], ("--reference", "rows.npy", "--coefficients", "contribution", "--normalise", "none")),
    (QUERIES[:1], ("--bank", "bank.npz", "--neighbours", 4)),
    (QUERIES[:1], ("--supports", "ways", "--contrast")),
    (QUERIES[:1], ("--supports", "ways", "--target", "class:low")),
    (QUERIES, ("--reference", SUPPORTS[2], "--reference", SUPPORTS[4], "--sides", "both")),
    (QUERIES[:1], ("--reference", SUPPORTS[2], "--sides", "gallery")),
]


@pytest.mark.parametrize(("queries", "options"), CASES, ids=range(len(CASES)))
def test_the_same_files(
    queries: tuple[Path, ...], options: tuple[Any, ...], folder: Path, address: str, tmp_path: Path
) -> None:
    given = [folder / str(o) if str(o) in {"rows.npy", "bank.npz", "ways"} else o for o in options]
    rest = (*queries, *given, *TOP, *(() if "--bank" in options else PREPROCESS))
    here = naflow("explain", MODEL, *rest, "--out", tmp_path / "here")
    there = naflow("explain", "digits", *rest, "--server", address, "--out", tmp_path / "there")
    assert (here.status, there.status) == (0, 0), here.stderr + there.stderr
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert manifest(tmp_path / "there") == manifest(tmp_path / "here")
    assert data(tmp_path / "there") == data(tmp_path / "here")
    assert there.stderr.splitlines()[:-1] == here.stderr.splitlines()[:-1]
    again = naflow("explain", "--manifest", tmp_path / "there" / "manifest.json", "--out", tmp_path / "again")
    assert again.status == 0, again.stderr
    assert content(tmp_path / "again") == content(tmp_path / "there")


def test_a_bank_that_the_server_keeps(folder: Path, address: str, tmp_path: Path) -> None:
    common = (QUERIES[0], *TOP, *PREPROCESS)
    there = naflow(
        "explain",
        "digits",
        *common,
        "--server",
        address,
        "--server-bank",
        "kept",
        "--out",
        tmp_path / "there",
    )
    assert there.status == 0, there.stderr
    here = naflow("explain", MODEL, *common, "--bank", folder / "bank.npz", "--out", tmp_path / "here")
    assert here.status == 0, here.stderr
    assert content(tmp_path / "there") == content(tmp_path / "here")
    found = manifest(tmp_path / "there")
    assert found["target"]["label"] == manifest(tmp_path / "here")["target"]["label"] == "high"
    again = naflow("explain", "--manifest", tmp_path / "there" / "manifest.json", "--out", tmp_path / "again")
    assert again.status == 0, again.stderr
    assert content(tmp_path / "again") == content(tmp_path / "there")


def test_both_sides_are_those_of_a_pair(folder: Path, address: str, tmp_path: Path) -> None:
    options = ("--reference", SUPPORTS[2], "--sides", "both", *TOP, *PREPROCESS)
    ended = naflow("explain", MODEL, QUERIES[0], *options, "--out", tmp_path / "out", "--json")
    assert ended.status == 0, ended.stderr
    query, gallery = ended.json["target"]
    assert query["similarity"] == pytest.approx(gallery["similarity"], rel=1e-5)
    assert (query["label"], query["neighbours"][0]["label"]) == ("pair", SUPPORTS[2].name)
    assert gallery["neighbours"][0]["label"] == QUERIES[0].name
    assert [picture["input"] for picture in ended.json["pictures"]] == [QUERIES[0].name, SUPPORTS[2].name]
    sources = [picture["comparison"]["references"][0]["source"] for picture in data(tmp_path / "out")]
    assert len(set(sources)) == 2
    assert np.load(tmp_path / "out" / "flows.npz")["000:top_relu"].shape[0] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--bank", "bank.npz", "--search", "jax"), "a server has its own setting"),
        (("--server-bank", "kept", "--search", "faiss"), "the server has its own"),
        (("--server-bank", "absent"), "there is no bank 'absent'"),
        (("--bank", "bank.npz", "--target", "class:nobody"), "'nobody' is none of the labels"),
        (("--reference", SUPPORTS[0], "--reference", "rows.npy"), "does not take together"),
        (("--reference", SUPPORTS[0], "--metric", "cosin"), "'cosin' does not exist"),
        (("--reference", SUPPORTS[0], "--reference", SUPPORTS[1], "--sides", "query"), "do not pair"),
    ],
)
def test_what_is_refused(
    options: tuple[Any, ...], said: str, folder: Path, address: str, tmp_path: Path
) -> None:
    given = [folder / str(o) if str(o) in {"rows.npy", "bank.npz"} else o for o in options]
    rest = () if "--bank" in options else PREPROCESS
    ended = naflow(
        "explain", "digits", QUERIES[0], *given, *rest, *TOP, "--server", address, "--out", tmp_path / "out"
    )
    assert (ended.status, len(ended.stderr.splitlines())) == (2, 1)
    assert said in ended.stderr
    assert not (tmp_path / "out").exists()
