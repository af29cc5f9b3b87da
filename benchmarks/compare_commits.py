"""Two commits by turns: the cascade of the second over that of the first.

    python benchmarks/compare_commits.py BEFORE [AFTER] [--rounds 3] [--json FILE] [-- OPTIONS OF cascade.py]

BEFORE and AFTER (HEAD when left out) are anything that git knows a commit by. Their trees are written to a
temporary folder; this checkout's `cascade.py` and what it measures with are put into both, so that only what
is measured differs. Every round runs it once for each, in new processes, the other one first every time. Each
row: medians over the rounds of seconds and of the ratio to onnxruntime's forward pass, AFTER over BEFORE for
both, and the iterations of each. Compare the second ratio where the machine was not idle.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from service_process import report

ROOT = Path(__file__).resolve().parents[1]
MEASURING = (
    "benchmarks/cascade.py",
    "benchmarks/networks.py",
    "benchmarks/service_process.py",
    "naflow_core/measure",
    "tests/support/light_networks.py",
)
PACKAGES = (".", "clients/cli", "clients/python", "server", "proto/gen/python", "tests")
Key = tuple[str, int, str]


def check_out(commit: str, folder: Path, root: Path = ROOT) -> str:
    """Write a commit's tree to a folder, with this checkout's measuring code; its full name.

    Raises:
        SystemExit: git knows no such commit.
    """
    name = _git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode().strip()
    with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", name))) as archive:
        # written by git a moment ago; the filter came with Python 3.11.4
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    for path in MEASURING:
        source, target = root / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return name


def _git(root: Path, *arguments: str) -> bytes:
    ended = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    if ended.returncode:
        said = ended.stderr.decode().strip().splitlines()
        raise SystemExit(f"git {' '.join(arguments)} failed: {said[0] if said else 'no such commit'}")
    return ended.stdout


def run(folder: Path, arguments: list[str]) -> dict[Key, dict[str, Any]]:
    """One run of `cascade.py` in a tree, its rows by network, batch and preset."""
    out = folder / "rows.json"
    ended = subprocess.run(
        [sys.executable, str(folder / "benchmarks/cascade.py"), "--no-fresh", *arguments, "--json", str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(folder / path) for path in PACKAGES)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:] or [f"exit status {ended.returncode}"]
        raise SystemExit(f"cascade.py failed in the tree of {folder.name}: {last[0]}")
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    return {(row["network"], row["batch"], row["preset"]): row for row in rows}


def compared(before: list[dict[Key, dict[str, Any]]], after: list[dict[Key, dict[str, Any]]]) -> list[Any]:
    """One row for each network, batch and preset that both have."""
    rows = []
    for key in before[0]:
        if key not in after[0]:
            continue
        row: dict[str, Any] = dict(zip(("network", "batch", "preset"), key, strict=True))
        for column in ("s", "x forward"):
            old, new = (statistics.median(found[key][column] for found in side) for side in (before, after))
            row |= {f"{column} before": old, f"{column} after": new, f"{column} ratio": new / old}
        row |= {"iterations before": before[0][key]["iterations"]}
        rows.append({**row, "iterations after": after[0][key]["iterations"]})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    given = sys.argv[1:] if arguments is None else arguments
    own, passed = given, []
    if "--" in given:
        own, passed = given[: given.index("--")], given[given.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(own)
    with tempfile.TemporaryDirectory(prefix="naflow-commits-") as scratch:
        folders = [Path(scratch, side) for side in ("before", "after")]
        commits = [options.before, options.after]
        names = [check_out(commit, folder) for commit, folder in zip(commits, folders, strict=True)]
        found: list[list[dict[Key, dict[str, Any]]]] = [[], []]
        for number in range(options.rounds):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                found[side].append(run(folders[side], passed))
    facts = {"before": names[0], "after": names[1], "rounds": options.rounds, "options": " ".join(passed)}
    report("The cascade at two commits", compared(*found), options.json, **facts)


if __name__ == "__main__":
    main()
