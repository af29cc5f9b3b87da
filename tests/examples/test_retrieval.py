"""The retrieval example, small. Needs NAFLOW_ZOO."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import naflow_core as nf
from support.benchmarks import script
from support.command_line import naflow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "retrieval"
ZOO = os.environ.get("NAFLOW_ZOO")
TOP = "/conv5/relu/Relu_output_0"
retrieve = script("retrieve", EXAMPLE)


def test_crops_stay_inside_the_photograph() -> None:
    photograph = Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3))
    assert retrieve.crop(photograph, (10, 5, 30, 25), 1.0).size == (20, 20)
    assert retrieve.crop(photograph, (10, 5, 30, 25), 1.5).size == (30, 30)
    assert retrieve.crop(photograph, (0, 0, 60, 40), 1.25).size == (60, 40)
    assert retrieve.crop(photograph, (40, 20, 60, 40), 1.5).size == (25, 25)


def test_without_photographs_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NAFLOW_ZOO", raising=False)
    monkeypatch.setattr(sys, "argv", ["retrieve.py"])
    with pytest.raises(SystemExit) as ended:
        retrieve.main()
    assert ended.value.code == 2
    assert "set NAFLOW_ZOO to a folder with models/ and images/" in capsys.readouterr().err


@pytest.mark.skipif(
    not ZOO, reason="set NAFLOW_ZOO to a folder with models/osnet_x0_25_msmt17.onnx and images/"
)
def test_bank_query_and_both_sides_of_the_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_process(*arguments: object) -> None:
        assert naflow(*arguments).status == 0

    monkeypatch.setattr(retrieve, "naflow", in_process)
    monkeypatch.setenv("NAFLOW_COMPILATION_CACHE", "off")
    choices = ["--photographs", "4", "--explained", "1", "--layers", TOP]
    monkeypatch.setattr(sys, "argv", ["retrieve.py", "--out", str(tmp_path), *choices])
    retrieve.main()
    assert "of the same photograph for 4 of 4 queries" in capsys.readouterr().out

    bank = nf.Bank.read(tmp_path / "bank.npz")
    assert bank.embeddings.shape == (4, 512)
    (near,) = json.loads((tmp_path / "nearest" / "manifest.json").read_text())["pictures"]
    nearest = near["target"]["neighbours"][0]
    assert f"{nearest['label']}_query.png" == near["input"]

    manifest = json.loads((tmp_path / "pairs" / "manifest.json").read_text())
    query, gallery = manifest["pictures"]
    assert query["input"].replace("query", "gallery") == gallery["input"] == nearest["name"]
    assert query["target"]["similarity"] == pytest.approx(gallery["target"]["similarity"], abs=1e-5)
    assert query["target"]["similarity"] == pytest.approx(nearest["similarity"], abs=1e-4)
    for run in ("nearest", "pairs"):
        assert (tmp_path / run / "report.html").stat().st_size > 10_000
