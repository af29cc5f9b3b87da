"""Running the `naflow` command: in this process for speed, or as a real one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naflow_cli.main import run

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "digits_in_clutter"
DEMO_MODEL = DEMO / "digits_in_clutter.onnx"
DEMO_OPTIONS = ("--preprocess", str(DEMO / "preprocess.json"), "--labels", str(DEMO / "labels.txt"))
CLASSES = 10


def demo_picture(digit: int = 3) -> Path:
    """One of the demo's pictures: 1, 3, 4, 7, 8 or 9."""
    return DEMO / "inputs" / f"digit_{digit}.png"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout; fails if anything else is there."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value


def naflow(*arguments: object) -> Ended:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    status: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = ended.code
    assert isinstance(status, int)
    return Ended(status, out.getvalue(), err.getvalue())


def refused(ended: Ended, *expected: str) -> None:
    """Exactly one line that says what is wrong."""
    assert ended.status == 2, ended
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("naflow: ")
    assert "internal error" not in lines[0]
    assert "Traceback" not in lines[0]
    for text in expected:
        assert text in lines[0]


def command(*arguments: object) -> list[str]:
    """The command line of a real process."""
    return [sys.executable, "-m", "naflow_cli.main", *map(str, arguments)]


def environment() -> dict[str, str]:
    """For a real process: the same modules as here, whether installed or only on the path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def naflow_process(*arguments: object, cwd: Path | None = None, timeout: float = 300) -> Ended:
    """Run the command as a process of its own."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def explain_demo(out: Path, *options: object, pictures: Sequence[Path] | None = None) -> Ended:
    """`naflow explain` of the demo network, with its preprocessing and labels."""
    return naflow(
        "explain", DEMO_MODEL, *(pictures or [demo_picture()]), "--out", out, *DEMO_OPTIONS, *options
    )
