"""The report file: its data, its size, and that nothing in it can run or load anything."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from naflow_client import MapError, OutputError
from naflow_client.render import TABLE
from naflow_client.report import Compared, PictureReport, Prediction, render_report, write_report
from support.reports import broken_layers, comparison, gradient, layer, picture, report

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]>--><svg onload=alert(1)>",
    "\u2028\u2029\u202e\x00\ud800",
    "{{script}}{{data}}",
    "'\";alert(1)//",
]


class Page(HTMLParser):
    """Tags in order, and the text of the script elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.styles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        if self._inside == "style":
            self.styles.append(data)


def data_of(text: str) -> dict[str, Any]:
    value = json.loads(Page(text).scripts[0], parse_constant=pytest.fail)
    assert isinstance(value, dict)
    return value


def levels(entry: dict[str, Any]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(entry["levels"]), np.uint8)
    return flat.reshape(entry["height"], entry["width"])


def test_data_round_trip() -> None:
    source = report(picture("a.png"), picture("b.png", 3, seed=1))
    data = data_of(render_report(source))
    assert data["title"] == "A report"
    assert data["method"] == [["preset", "default"], ["solve", {"tolerance": 1e-3, "damping": 0}]]
    assert data["warnings"] == ["Something to know."]
    assert base64.b64decode(data["colours"]) == TABLE.tobytes()
    assert [(item["name"], len(item["layers"])) for item in data["pictures"]] == [("a.png", 5), ("b.png", 3)]
    first = data["pictures"][0]
    assert first["prediction"] == [[1, "cat", 0.75, 0.7501], [2, "dog", 0.25, None]]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["source"].split(",")[1]))))
    assert np.array_equal(pixels, source.pictures[0].picture)
    for index, item in enumerate(first["layers"]):
        raw = gradient(index)
        assert (item["tensor"], item["node"]) == (f"tensor{index}", f"node{index}")
        assert item["shape"] == [1, 8, 12, 16]
        assert ["iterations", 10 + index] in item["diagnostics"]
        span = item["map"]["high"] - item["map"]["low"]
        restored = item["map"]["low"] + levels(item["map"]) / 255 * span
        assert np.abs(restored - raw).max() <= span / 255 * 0.51


def test_layers_are_shown_by_rising_index() -> None:
    shuffled = replace(picture("a"), layers=picture("a").layers[::-1])
    shown = data_of(render_report(report(shuffled)))["pictures"][0]["layers"]
    assert [item["index"] for item in shown] == [0, 1, 2, 3, 4]


def test_states_and_messages_of_troubled_layers() -> None:
    source = replace(picture("a"), layers=broken_layers())
    shown = data_of(render_report(report(source)))["pictures"][0]["layers"]
    assert [item["state"] for item in shown] == ["ok", "ok", "constant", "invalid", "missing"]
    assert [item["map"] is None for item in shown] == [False, False, False, True, True]
    assert [len(item["errors"]) for item in shown] == [0, 0, 0, 1, 1]
    assert [len(item["warnings"]) for item in shown] == [0, 1, 1, 0, 0]
    assert "did not converge" in shown[1]["warnings"][0]
    assert not levels(shown[2]["map"]).any()


def test_odd_values_become_valid_json() -> None:
    odd = {
        "nan": math.nan,
        "inf": np.float32(np.inf),
        "int": np.int64(3),
        "flag": np.bool_(False),
        "array": np.arange(3),
        "long": 2**70,
        "nested": {"x": (1, np.float64(0.5))},
        "path": Path("a"),
        "none": None,
    }
    source = replace(report(picture("a")), method=odd)
    assert data_of(render_report(source))["method"] == [
        ["nan", "nan"],
        ["inf", "inf"],
        ["int", 3],
        ["flag", False],
        ["array", [0, 1, 2]],
        ["long", str(2**70)],
        ["nested", {"x": [1, 0.5]}],
        ["path", "a"],
        ["none", None],
    ]
    score = replace(picture("a"), prediction=[Prediction(1, "x", math.nan), Prediction(2, "y", 1.0)])
    assert data_of(render_report(report(score)))["pictures"][0]["prediction"][0] == [1, "x", "nan", None]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_add_no_element_and_come_back_as_text(text: str) -> None:
    def structure(source: str) -> list[str]:
        return [tag for tag, _ in Page(source).tags]

    bad = layer(0, gradient(0), text, **{text: text})
    bad = replace(bad, node=text, op_type=text, rule=text, warnings=[text])
    named = replace(picture(text), target=text, prediction=[(1, text, 1.0, None)], layers=[bad])
    pairs = {text: text}
    source = replace(report(named), title=text, method=pairs, model=pairs, versions=pairs, warnings=[text])
    page = render_report(source)
    assert structure(page) == structure(render_report(report()))
    data = data_of(page)
    assert data["title"] == data["pictures"][0]["layers"][0]["tensor"] == data["method"][0][1] == text
    block = Page(page).scripts[0]
    assert block.isascii()
    assert not set(block) & set("<>&")


def test_nothing_is_loaded_from_anywhere_and_only_our_script_may_run() -> None:
    text = render_report(report())
    page = Page(text)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|eval\(", text)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert not set(attributes) & {"src", "srcset", "style"}
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, content in (("script-src", page.scripts[1]), ("style-src", page.styles[0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert "innerHTML" not in text
    assert "insertAdjacentHTML" not in text


def test_file_is_reproducible_and_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (800, 1000, 3), dtype=np.uint8)
    layers = [layer(i, rng.random((224, 224), dtype=np.float32)) for i in range(60)]
    source = report(PictureReport("noise", pixels, [], "similarity", layers))
    first = write_report(tmp_path / "new" / "a.html", source)
    assert first == tmp_path / "new" / "a.html"
    assert first.stat().st_size < 5_000_000
    assert first.read_bytes() == write_report(tmp_path / "b.html", source).read_bytes()
    shown = data_of(first.read_text())["pictures"][0]
    assert (shown["layers"][0]["map"]["width"], shown["width"]) == (224, 1000)


def test_very_large_maps_are_reduced() -> None:
    source = replace(picture("a"), layers=[layer(0, np.tile(np.eye(64, dtype=np.float32), (9, 9)))])
    entry = data_of(render_report(report(source)))["pictures"][0]["layers"][0]["map"]
    assert levels(entry).shape == (256, 256)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(MapError, match="at least one picture"):
        render_report(replace(report(), pictures=[]))
    with pytest.raises(MapError, match=r"cat\.png: a picture must be uint8"):
        render_report(report(replace(picture("cat.png"), picture=np.zeros((4, 4, 3), np.float32))))
    with pytest.raises(MapError, match="layer 'tensor0': a map must be"):
        render_report(report(replace(picture("a"), layers=[layer(0, np.zeros((1, 4, 4), np.float32))])))
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        write_report(tmp_path / "taken" / "r.html", report())


def test_comparison_round_trip() -> None:
    source = replace(picture("a.png"), comparison=comparison(), target="cosine similarity with label0: 0.875")
    data = data_of(render_report(report(source, picture("b.png"))))
    found = data["pictures"][0]["comparison"]
    assert (found["metric"], found["score"], found["more"]) == ("cosine", 0.875, 0)
    assert found["channels"] == [[7, 0.5], [3, 0.25], [1, -0.125]]
    assert [row["used"] for row in found["references"]] == [True, True, False]
    assert found["references"][0]["source"].startswith("data:image/png;base64,")
    assert found["references"][2]["source"] is None
    assert data["pictures"][1]["comparison"] is None


def test_a_whole_bank_is_cut_off() -> None:
    source = replace(picture("a.png"), comparison=comparison(100))
    found = data_of(render_report(report(source)))["pictures"][0]["comparison"]
    assert len(found["references"]) + found["more"] == 100
    assert found["more"] > 50


def test_hostile_names_of_references_stay_text() -> None:
    rows = [Compared(text, text, 0.5, True) for text in HOSTILE]
    source = replace(picture("a.png"), comparison=replace(comparison(), metric=HOSTILE[0], references=rows))
    text = render_report(report(source))
    assert [row["label"] for row in data_of(text)["pictures"][0]["comparison"]["references"]] == HOSTILE
    assert "<img src=x" not in text


def test_reference_picture_of_a_wrong_shape_is_named() -> None:
    wrong = Compared("label", "odd.png", 0.5, True, np.zeros((4, 4), np.uint8))
    source = replace(picture("a.png"), comparison=replace(comparison(), references=[wrong]))
    with pytest.raises(MapError, match=r"odd\.png: a picture must be uint8 \[H, W, 3\]"):
        render_report(report(source))
