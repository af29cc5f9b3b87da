"""Results appear complete or not at all, and nobody else's files are touched."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import naflow_core as nf
from naflow_cli.staging import staged
from support.command_line import (
    DEMO_MODEL,
    DEMO_OPTIONS,
    command,
    demo_picture,
    environment,
    explain_demo,
    naflow,
)


def everything(folder: Path) -> dict[str, str]:
    """Content of every file below, by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def fill(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


RESULT = {"manifest.json": "new", "flows.npz": "new", "overlays/000-a.png": "new"}


def test_new_folder(tmp_path: Path) -> None:
    with staged(tmp_path / "deep" / "out") as folder:
        fill(folder, **RESULT)
        assert not (tmp_path / "deep" / "out").exists()
    assert everything(tmp_path) == {f"deep/out/{name}": text for name, text in RESULT.items()}
    assert (tmp_path / "deep" / "out").stat().st_mode & 0o777 == (tmp_path / "deep").stat().st_mode & 0o777


def test_earlier_results_go_and_other_files_stay(tmp_path: Path) -> None:
    mine = {
        "notes.txt": "mine",
        "overlays/mine.png": "mine",
        "overlays/x/000-mine.png": "mine",
        "data/000-a.png": "mine",
    }
    earlier = {
        "manifest.json": "old",
        "flow-001.gif": "old",
        "report.html": "old",
        "overlays/003-b.png": "old",
        "overlays/001-cat/000-a.png": "old",
    }
    fill(tmp_path, **mine, **earlier)
    with staged(tmp_path) as folder:
        fill(folder, **RESULT)
    assert everything(tmp_path) == {**mine, **RESULT}
    assert not (tmp_path / "overlays" / "001-cat").exists()


def test_where_no_run_has_been_only_what_is_written_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path, **{"point.png": "mine", "overlays/007-x.png": "mine", "flows.npz": "mine"})
    with staged(tmp_path) as folder:
        fill(folder, **RESULT)
    assert everything(tmp_path) == {"point.png": "mine", "overlays/007-x.png": "mine", **RESULT}


@pytest.mark.parametrize("name", ["flow.gif", "overlays/000-top_relu.png", "manifest.json"])
def test_what_is_read_is_never_replaced(name: str, tmp_path: Path) -> None:
    fill(tmp_path, **{"manifest.json": "old", name: "mine"})
    before = everything(tmp_path)
    (tmp_path / "x").mkdir()
    picture = tmp_path / "x" / ".." / name
    ended = explain_demo(tmp_path, pictures=[demo_picture(), picture])
    assert ended.status == 2
    assert f"{picture} is read and would be replaced by the results" in ended.stderr
    assert everything(tmp_path) == before


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [True, False])
def test_failure_changes_nothing(tmp_path: Path, existing: bool, failure: type[BaseException]) -> None:
    before = {"out/manifest.json": "old", "out/overlays/000-a.png": "old"} if existing else {}
    fill(tmp_path, **before)

    def late() -> None:
        with staged(tmp_path / "out") as folder:
            fill(folder, **RESULT)
            raise failure

    with pytest.raises(failure):
        late()
    assert everything(tmp_path) == before
    assert (tmp_path / "out").exists() == existing


def test_failure_while_moving_puts_everything_back(tmp_path: Path) -> None:
    fill(tmp_path, **{"manifest.json": "old", "flows.npz": "old", "overlays/000-a.png": "old"})
    (tmp_path / "report.html").mkdir()  # cannot be replaced by a file
    before = everything(tmp_path)

    def blocked() -> None:
        with staged(tmp_path) as folder:
            fill(folder, **RESULT, **{"report.html": "new"})

    with pytest.raises(nf.OptionError, match=r"report\.html.* cannot be replaced"):
        blocked()
    assert everything(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "flows.npz",
        "manifest.json",
        "overlays",
        "report.html",
    ]


def test_explaining_twice_into_one_folder(tmp_path: Path) -> None:
    fill(tmp_path, **{"notes.txt": "mine"})
    pictures = [demo_picture(3), demo_picture(7)]
    assert explain_demo(tmp_path, "--layers", "deepen_relu,top_relu", pictures=pictures).status == 0
    assert (tmp_path / "overlays" / "001-digit_7").is_dir()
    assert explain_demo(tmp_path, "--layers", "top_relu").status == 0
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == [
        "flow.gif", "flows.npz", "manifest.json", "notes.txt", "overlays/000-top_relu.png", "report.html",
    ]  # fmt: skip


def test_late_failure_of_a_run_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert explain_demo(out, "--layers", "top_relu").status == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr("naflow_cli.outputs.write_report", full)
    ended = explain_demo(out, "--layers", "top_relu", "--target", "class:1")
    assert (ended.status, ended.stderr) == (2, "naflow: report.html: No space left on device\n")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_interrupt_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("naflow_cli.outputs.write_report", stop)
    ended = explain_demo(tmp_path / "out", "--layers", "top_relu")
    assert (ended.status, ended.stdout) == (130, "")
    assert ended.stderr.strip() == "naflow: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interruption(tmp_path: Path, sent: signal.Signals) -> None:
    process = subprocess.Popen(
        command(
            "explain",
            DEMO_MODEL,
            demo_picture(),
            "--out",
            tmp_path / "out",
            *DEMO_OPTIONS,
            "--layers",
            "nodes",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    give_up = time.monotonic() + 60
    while not list(tmp_path.glob(".out-*")) and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.05)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.strip() == "naflow: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
@pytest.mark.parametrize("options", [("--json",), ()])
def test_broken_pipe(options: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command("inspect", DEMO_MODEL, *options),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
            timeout=120,
        )
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_stdout() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            command("inspect", DEMO_MODEL, "--json"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
            timeout=120,
        )
    assert done.returncode == 2
    assert done.stderr == "naflow: writing: No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("model", "status", "said"),
    [(DEMO_MODEL, 0, ""), ("missing.onnx", 2, "naflow: missing.onnx: no such file")],
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_change_no_status(closed: str, model: str | Path, status: int, said: str) -> None:
    line = f"{shlex.join(command('inspect', model, '--json'))} {closed}"
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, env=environment(), check=False, timeout=120
    )
    assert done.returncode == status, done
    assert done.stderr.startswith("" if "2>" in closed else said)
    assert bool(done.stdout) == (closed == "2>&-" and status == 0)


def test_help_of_every_command() -> None:
    for name in ("inspect", "verify", "explain"):
        ended = naflow(name, "--help")
        assert (ended.status, ended.stderr) == (0, "")
        assert f"naflow {name}" in ended.stdout
