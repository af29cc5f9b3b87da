"""The server as a process of its own, as `naflow serve` runs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = "import sys; from naflow_server.app import main; from naflow_server.settings import read_settings; "
PROGRAM += "sys.exit(main(read_settings(None, {})))"


class ServerProcess:
    """A started process.

    Args:
        folder: of models.
        before: Python that the process runs first.
        environment: its settings.

    Attributes:
        lines: of its log that were read so far.
    """

    def __init__(self, folder: Path, before: str = "", **environment: str) -> None:
        own = {"NAFLOW_REPOSITORY__PATH": str(folder), "NAFLOW_SERVER__PORT": "0", **environment}
        own = {"NAFLOW_SERVER__DRAIN_SECONDS": "0", **own}
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + PROGRAM], env=os.environ | own, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []

    def log_until(self, message: str) -> dict[str, Any]:
        """Read the log up to this message; its entry."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            entry: dict[str, Any] = json.loads(line)
            if entry["message"] == message:
                return entry
        raise AssertionError(f"the process ended without saying {message!r}: {self.lines[-1:]}")

    def stop(self) -> int:
        """SIGTERM; the exit status, with the whole log in `lines`."""
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=60)
        self.lines += rest.splitlines(keepends=True)
        return self.process.returncode


@contextlib.contextmanager
def server_process(folder: Path, before: str = "", **environment: str) -> Iterator[ServerProcess]:
    """Start one over a folder of models, with settings from the environment."""
    started = ServerProcess(folder, before, **environment)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()
