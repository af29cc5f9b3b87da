"""A signal that comes where Python drops exceptions is heeded, and prints nothing."""

from __future__ import annotations

import subprocess
import sys

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
