"""`naflow explain --server` leaves the files that the same command leaves without; `naflow serve` serves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naflow_client import Client
from support.command_line import (
    DEMO_MODEL,
    DEMO_OPTIONS,
    command,
    demo_picture,
    environment,
    explain_demo,
    naflow,
)
from support.engines import install
from support.secure_server import Secure, secure_server

QUICK = ("--layers", "deepen_relu,top_relu")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("server")
    with secure_server(folder, {"digits": DEMO_MODEL.read_bytes()}) as server:
        yield server


def remotely(secure: Secure, out: Path, *arguments: object) -> Any:
    access = ("--server", secure.address, "--tls-ca", secure.ca, "--token-file", secure.token_file)
    return naflow("explain", "digits", *arguments, "--out", out, *access)


def content(folder: Path) -> dict[str, bytes]:
    """The files whose bytes must not depend on where they were computed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"manifest.json", "report.html"}
    }


def comparable(folder: Path) -> dict[str, Any]:
    """A manifest without what tells where and when."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for key in ("versions", "run", "model"):
        del manifest[key]
    for layer in manifest["layers"]:
        del layer["seconds"]
    # its last digits depend on how many pictures it sees at once
    words = [picture["prediction"] for picture in manifest["pictures"]]
    for row in (row for word in words for row in word["onnxruntime"]):
        row["score"] = f"{row['score']:.4g}"
    manifest["prediction"] = words[0] if len(words) == 1 else words
    return manifest


@pytest.mark.parametrize(
    ("digits", "options"),
    [
        ((3,), ()),
        ((3, 7, 8), ("--batch-size", "2", "--target", "class:2", "--preset", "published-code")),
    ],
)
def test_the_same_files(
    secure: Secure, tmp_path: Path, digits: tuple[int, ...], options: tuple[str, ...]
) -> None:
    pictures = [demo_picture(digit) for digit in digits]
    there = remotely(secure, tmp_path / "there", *pictures, *DEMO_OPTIONS, *QUICK, *options)
    assert there.status == 0, there.stderr
    here = explain_demo(tmp_path / "here", *QUICK, *options, pictures=pictures)
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert (tmp_path / "there" / "report.html").is_file()
    assert comparable(tmp_path / "there") == comparable(tmp_path / "here")
    assert there.stderr.splitlines()[:-1] == here.stderr.splitlines()[:-1]
    manifest = json.loads((tmp_path / "there" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["run"]["server"] == {"address": secure.address, "model_version": "1"}
    words = manifest["pictures"][0]["prediction"]
    assert len(words["onnxruntime"]) == len(words["naflow"]) == 5
    reports = [(tmp_path / where / "report.html").read_text(encoding="utf-8") for where in ("there", "here")]
    for one, other in zip(*map(rows_of, reports), strict=True):
        assert [row[:3] for row in one] == [row[:3] for row in other]
        assert [row[3] for row in one] == pytest.approx([row[3] for row in other], rel=1e-4)


def rows_of(report: str) -> list[Any]:
    """The predictions that a report shows."""
    found = re.findall(r'"prediction":(\[\[.*?\]\])', report)
    assert found
    return [json.loads(text) for text in found]


def test_a_manifest_from_a_server_runs_here(secure: Secure, tmp_path: Path) -> None:
    assert remotely(secure, tmp_path / "there", demo_picture(), *DEMO_OPTIONS, *QUICK).status == 0
    again = naflow(
        "explain",
        DEMO_MODEL,
        demo_picture(),
        "--manifest",
        tmp_path / "there" / "manifest.json",
        "--out",
        tmp_path / "here",
    )
    assert again.status == 0, again.stderr
    assert content(tmp_path / "here") == content(tmp_path / "there")


def test_a_manifest_from_a_server_runs_there(secure: Secure, tmp_path: Path) -> None:
    access = ("--tls-ca", secure.ca, "--token-file", secure.token_file)
    options = ("--abandon", "mass:0.8", "--target", "class:2")
    first = remotely(secure, tmp_path / "first", demo_picture(), *DEMO_OPTIONS, *QUICK, *options)
    assert first.status == 0, first.stderr
    manifest = tmp_path / "first" / "manifest.json"
    again = naflow("explain", "--manifest", manifest, "--out", tmp_path / "again", *access)
    assert again.status == 0, again.stderr
    assert content(tmp_path / "again") == content(tmp_path / "first")
    runs = [json.loads((tmp_path / name / "manifest.json").read_text("utf-8")) for name in ("first", "again")]
    assert runs[0]["run"] == runs[1]["run"]
    assert comparable(tmp_path / "again") == comparable(tmp_path / "first")
    other = naflow(
        "explain",
        *("digits", demo_picture(7), "--manifest", manifest, "--server", secure.address),
        *("--out", tmp_path / "x", *access),
    )
    assert (other.status, len(other.stderr.splitlines())) == (2, 1)
    assert "not the file that the manifest names" in other.stderr
    assert not (tmp_path / "x").exists()


def test_a_manifest_of_a_file_runs_at_a_server(secure: Secure, tmp_path: Path) -> None:
    assert explain_demo(tmp_path / "here", *QUICK).status == 0
    common = ("--manifest", tmp_path / "here" / "manifest.json", "--server", secure.address)
    access = ("--tls-ca", secure.ca, "--token-file", secure.token_file)
    there = naflow("explain", "digits", *common, *access, "--out", tmp_path / "there")
    assert there.status == 0, there.stderr
    assert content(tmp_path / "there") == content(tmp_path / "here")
    unnamed = naflow("explain", *common, *access, "--out", tmp_path / "x")
    assert unnamed.status == 2
    assert "name the model at the server as MODEL" in unnamed.stderr
    assert naflow("explain", "other", *common, *access, "--out", tmp_path / "x").status == 2


def test_another_file_under_the_same_name_is_refused(secure: Secure, tmp_path: Path) -> None:
    assert remotely(secure, tmp_path / "out", demo_picture(), *DEMO_OPTIONS, *QUICK).status == 0
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["run"]["model"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest), encoding="utf-8")
    access = ("--tls-ca", secure.ca, "--token-file", secure.token_file)
    ended = naflow("explain", "--manifest", path, "--out", tmp_path / "x", *access)
    assert ended.status == 2
    assert "digits: not the file that the manifest names" in ended.stderr


def test_names_and_arrays(secure: Secure, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((1, 1, 64, 64), np.float32))
    ended = remotely(
        secure,
        tmp_path / "out",
        tmp_path / "x.npy",
        *DEMO_OPTIONS,
        *("--layers", "top_relu", "--target", "class:8", "--model-version", "1", "--json"),
    )
    assert ended.status == 0, ended.stderr
    assert ended.json["target"]["label"] == "8"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--layers", "nowhere"), "nowhere"),
        (("--target", "class:5000"), "class 5000 does not exist"),
        (("--model-version", "9"), "version"),
        (("--target", "class:nobody"), "nobody"),
    ],
)
def test_what_the_server_refuses(
    secure: Secure, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = remotely(secure, tmp_path / "out", demo_picture(), *DEMO_OPTIONS, *arguments)
    assert (ended.status, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_no_entry(secure: Secure, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("another-token", encoding="utf-8")
    common = ("explain", "digits", demo_picture(), "--out", tmp_path / "out", "--server", secure.address)
    ended = naflow(*common, "--tls-ca", secure.ca, "--token-file", tmp_path / "wrong")
    assert (ended.status, len(ended.stderr.splitlines())) == (2, 1)
    assert "another-token" not in ended.stderr
    ended = naflow(*common, "--tls-ca", secure.ca, "--token-file", tmp_path / "missing")
    assert "missing: cannot be read" in ended.stderr


@pytest.mark.parametrize("option", ["--token-file", "--tls-ca", "--deadline", "--model-version", "--tls"])
def test_server_options_need_a_server(option: str, tmp_path: Path) -> None:
    value = () if option == "--tls" else ("5",)
    ended = explain_demo(tmp_path / "out", option, *value)
    assert ended.status == 2
    assert f"{option} has no effect without --server" in ended.stderr


def test_serve(tmp_path: Path) -> None:
    """As a process of its own: it says where it listens, answers, and ends well when told to."""
    install(tmp_path / "models", "digits", DEMO_MODEL.read_bytes())
    config = tmp_path / "settings.toml"
    config.write_text("[server]\ndrain_seconds = 0.1\nlog_level = 'info'\n", encoding="utf-8")
    line = command("serve", "--model-repository", tmp_path / "models", "--config", config, "--port", "0")
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    ) as server:
        try:
            assert server.stdout is not None
            port = 0
            for text in server.stdout:
                found = re.search(r'"listening".*"port": (\d+)', text)
                port = int(found[1]) if found else port
                if '"serving"' in text:
                    break
            with Client(f"127.0.0.1:{port}", deadline=60) as client:
                assert [item.model for item in client.list_models()] == ["digits"]
                assert client.inspect("digits").explainable
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        finally:
            if server.poll() is None:
                server.kill()


def test_serve_refuses_impossible_settings(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[server]\ncolour = 'blue'\n", encoding="utf-8")
    for arguments, said in [
        (("--config", tmp_path / "settings.toml"), "server.colour"),
        (("--config", tmp_path / "missing.toml"), "missing.toml"),
        (("--port", "70000"), "server.port"),
        (("--tls-key", tmp_path / "k"), "tls_certificate"),
    ]:
        ended = naflow("serve", "--model-repository", tmp_path, *arguments)
        assert (ended.status, ended.stdout) == (2, "")
        assert said in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
