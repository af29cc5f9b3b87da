"""A real `naflow serve` process for the service benchmarks, and how their results are printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from naflow_core.measure import machine

STARTS = 300.0
MIB = 1 << 20


class ServerProcess:
    """`naflow serve` as a process of its own; `with` stops it at the end.

    Args:
        repository: folder of models.
        log: file that takes its log.
        settings: by dotted name, such as "limits.queue"; "compilation.cache" is worth setting where a server
            starts more than once.

    Attributes:
        port, metrics_port: where it listens, once it has started.
    """

    def __init__(self, repository: Path, log: Path, settings: Mapping[str, object] | None = None) -> None:
        self.repository, self.log = repository, log
        self.settings = {"server.port": 0, "server.metrics_port": 0, **(settings or {})}
        self.port = self.metrics_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> Self:
        """Start it and wait until it serves.

        Raises:
            RuntimeError: it ended, or took more than five minutes.
        """
        own = {f"NAFLOW_{name.replace('.', '__').upper()}": str(v) for name, v in self.settings.items()}
        search = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-m", "naflow_cli.main", "serve", "--model-repository"]
        self._read = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(self.repository)], stderr=log, env={**os.environ, "PYTHONPATH": search, **own}
            )
        try:
            listening = self._logged("listening")
            self.port, self.metrics_port = listening["port"], listening["metrics_port"]
            self._logged("serving")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None, "stop comes after start"
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def metrics(self) -> dict[str, float]:
        """All metrics, summed over their labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as page:
            text = page.read().decode()
        found: dict[str, float] = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def resident(self) -> float:
        """Resident memory in bytes."""
        return self.metrics()["process_resident_memory_bytes"]

    def _logged(self, message: str) -> dict[str, Any]:
        """The first log entry with that message since the start."""
        end = time.monotonic() + STARTS
        while time.monotonic() < end:
            running = self.runs
            for line in self.log.read_bytes()[self._read :].splitlines():
                if line.startswith(b"{") and line.endswith(b"}"):
                    entry: dict[str, Any] = json.loads(line)
                    if entry["message"] == message:
                        return entry
            if not running:
                raise RuntimeError(f"the server ended before {message!r}; its log is {self.log}")
            time.sleep(0.02)
        raise RuntimeError(f"the server did not say {message!r} within {STARTS:g} s; its log is {self.log}")


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and high percentiles in milliseconds."""
    if not seconds:
        return {}
    values = np.asarray(seconds) * 1e3
    cuts = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(values, cut)), 3) for name, cut in cuts.items()}


def report(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    file: Path | None,
    *,
    unprinted: Mapping[str, Any] | None = None,
    **facts: Any,
) -> None:
    """Print one table, with the machine above it, and write the same as JSON on request, `unprinted` too."""
    print(f"{title}; {machine()}")
    for name, value in facts.items():
        print(f"  {name}: {value}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    for line in [names, *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if file is not None:
        content = {"title": title, "machine": machine(), **facts, "rows": list(rows), **(unprinted or {})}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
