"""Manifests of `explain --manifest` that cannot be used: one clear line, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command_line import Ended, naflow, refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "KeyError"),
        (b"[1", "JSONDecodeError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (b'{"run": 3}', "TypeError"),
        (b"[" * 100_000, "RecursionError"),
        (None, "No such file"),
    ],
)
def test_manifest_that_is_not_one(content: bytes | None, reason: str, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "manifest.json"
    if content is not None:
        path.write_bytes(content)
    refused(naflow("explain", "--manifest", path, "--out", out), str(path), reason)


COMPARED = {
    "bank": None,
    "metric": "cosine",
    "normalise": "none",
    "coefficients": "gradient",
    "neighbours": 3,
}


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("target", 3),
        ("layers", None),
        ("batch_size", "2"),
        ("batch_size", 0),
        ("preprocess", "unit"),
        ("preprocess subtract", [10**400]),
        ("method", {}),
        ("method feasible", "no"),
        ("method feasible", []),
        ("method damping", 10**400),
        ("inputs", []),
        ("inputs 0 sha256", 5),
        ("inputs 0 path", "a\0b"),
        ("labels sha256", None),
        ("labels path", "a\0b"),
        ("model sha256", None),
        ("model path", "\ud800"),
        ("similarity", {"references": [], **COMPARED}),
        ("similarity", {"references": [{"path": "a.png", "sha256": 5}], **COMPARED}),
        ("similarity", {"references": [{"path": "a.png", "sha256": ""}], **COMPARED, "sides": "left"}),
        ("similarity", {"references": [{"path": "a.png", "sha256": ""}], **COMPARED, "point": [-1, 5]}),
    ],
)
def test_manifest_with_a_wrong_field(
    keys: str, value: object, demo_run: tuple[Path, Ended], tmp_path: Path, out: Path
) -> None:
    manifest = json.loads((demo_run[0] / "manifest.json").read_text(encoding="utf-8"))
    *path, last = keys.split()
    place = manifest["run"]
    for key in path:
        place = place[int(key)] if key.isdigit() else place[key]
    place[last] = value
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    refused(naflow("explain", "--manifest", tmp_path / "manifest.json", "--out", out))


def test_manifest_settles_the_options(demo_run: tuple[Path, Ended], out: Path) -> None:
    ended = naflow(
        "explain", "--manifest", demo_run[0] / "manifest.json", "--out", out, "--target", "class:1"
    )
    refused(ended, "--target and --manifest exclude each other")
