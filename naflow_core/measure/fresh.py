"""The first explanation in a new process: compilation with and without JAX's persistent cache, and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from naflow_core.errors import NaflowError
from naflow_core.explainer import load
from naflow_core.measure.cascade import Subject
from naflow_core.measure.compilations import Compilations
from naflow_core.measure.machine import peak_memory
from naflow_core.method import Method

SECONDS = 3600
CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def first_explanations(
    model: Path,
    feeds: Mapping[str, np.ndarray],
    method: Method,
    *,
    layers: str | Sequence[str] = "spine",
    output: str | None = None,
    top_feature_map: str | None = None,
    states: Sequence[str] = ("cold", "warm"),
) -> dict[str, dict[str, Any]]:
    """The first explanation in a new process: "cold", with nothing compiled yet, and "warm", when everything
    is in JAX's persistent cache.

    Args:
        feeds, method, layers, output, top_feature_map: as in `Model.explain`.
        states: how often, and what to call it; all but the first are warm.

    Returns:
        by state what `report_first` writes, and "started_to_end": seconds from starting Python to the last
        flow.

    Raises:
        NaflowError: the process failed; its last line is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="naflow-measure-") as folder:
        arrays = Path(folder, "feeds.npz")
        np.savez(arrays, *feeds.values(), allow_pickle=False)
        asked = {
            "model": str(model),
            "feeds": str(arrays),
            "inputs": list(feeds),
            "method": method.to_dict(),
            "layers": layers if isinstance(layers, str) else list(layers),
            "output": output,
            "top_feature_map": top_feature_map,
        }
        cache = {**CACHE, "JAX_COMPILATION_CACHE_DIR": str(Path(folder, "cache"))}
        return {state: _in_new_process(asked, cache) for state in states}


def _in_new_process(asked: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    search = os.pathsep.join(path for path in sys.path if path)
    began = time.time()
    ended = subprocess.run(
        [sys.executable, "-m", "naflow_core.measure", json.dumps(asked)],
        env={**os.environ, "PYTHONPATH": search, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        raise NaflowError(f"{asked['model']}: the new process failed: {last}")
    report: dict[str, Any] = json.loads(ended.stdout)
    report["started_to_end"] = report.pop("ended_at") - began
    return report


def report_first(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Two explanations in this process, and what they took.

    Keys: "load", "first_flow" and "explanation" in seconds; "programs", "compile_seconds" and "cache_hits" of
    the first explanation; "second" in seconds and "recompiled" programs of the second; "memory_imported" and
    "memory_peak" in bytes; "ended_at", when the first was done.
    """
    imports, began = peak_memory(), time.time()
    with Compilations() as compiled:
        model = load(asked["model"])
        with np.load(asked["feeds"]) as arrays:
            feeds = {name: arrays[f"arr_{number}"] for number, name in enumerate(asked["inputs"])}
        subject = Subject(model, feeds, asked["layers"], asked["output"], asked["top_feature_map"])
        method = Method.from_dict(asked["method"])
        loaded = time.time()
        run = subject.explain(method)
        ended = time.time()
    with Compilations() as again:
        second = subject.explain(method)
    return {
        "load": loaded - began,
        "first_flow": run.first_flow,
        "explanation": run.seconds,
        "programs": compiled.programs,
        "compile_seconds": compiled.seconds,
        "cache_hits": compiled.hits,
        "second": second.seconds,
        "recompiled": again.programs,
        "memory_imported": imports,
        "memory_peak": peak_memory(),
        "ended_at": ended,
    }
