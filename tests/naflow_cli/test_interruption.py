"""A signal that comes where Python drops exceptions is heeded, and prints nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.command_line import environment, naflow

SCRIPT = """
import os, signal
from naflow_cli.interruption import check_interrupted, heed_signals

class Dropped:
    def __init__(self, doing):
        self.doing = doing
    def __del__(self):
        self.doing()

def fail():
    raise ValueError("told")

heed_signals()
heed_signals()
Dropped(lambda: os.kill(os.getpid(), signal.SIGINT))
print("went on")
Dropped(fail)
try:
    check_interrupted()
except KeyboardInterrupt:
    print("heeded")
"""


def test_a_signal_in_a_destructor_is_heeded_and_others_failures_are_told() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["went on", "heeded"]
    assert "KeyboardInterrupt" not in ended.stderr
    assert ended.stderr.count("ValueError: told") == 1


AGAIN = """
import os, signal, time
from naflow_cli.interruption import heed_signals

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

heed_signals()
try:
    {doing}
    print("went on")
    time.sleep(30)
except KeyboardInterrupt:
    print("heeded")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a timer")
@pytest.mark.parametrize("doing", ["Dropped()", "import interrupted_module"])
def test_an_interruption_comes_again_where_it_was_dropped_or_had_to_wait(doing: str, tmp_path: Path) -> None:
    """Native modules abort the process at an exception while they are imported."""
    module = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('imported')\n"
    (tmp_path / "interrupted_module.py").write_text(module, encoding="utf-8")
    script = AGAIN.format(doing=doing)
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment(),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    before = ["imported"] if "import" in doing else []
    assert ended.stdout.splitlines() == [*before, "went on", "heeded"]


def test_interrupted_while_a_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("naflow_cli.ending._described", stop)
    ended = naflow("inspect", "missing.onnx")
    assert (ended.status, ended.stdout, ended.stderr) == (130, "", "naflow: interrupted\n")
