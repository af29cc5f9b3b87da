"""What goes where: results to stdout, everything else (progress, notes, errors) to stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

OUT = Console(highlight=False)
if not OUT.is_terminal:  # a file or a pipe has no width: do not fold the tables
    OUT = Console(highlight=False, width=200)
ERR = Console(stderr=True, highlight=False)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout, nothing else."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def note(text: str, *, quiet: bool = False) -> None:
    """A remark on stderr that `--quiet` silences."""
    if not quiet:
        line(ERR, text)


def line(console: Console, text: str, style: str = "") -> None:
    """One line as it is: no markup, no folding."""
    console.print(Text(text, style=style), soft_wrap=True)


def say(out: Path, said: str, manifest: dict[str, Any], *, quiet: bool, json: bool) -> None:
    """What came of an explanation: warnings but for the one `said` before, a line a picture, the report."""
    for text in manifest["warnings"]:
        if text != said:
            note(f"naflow: {text}", quiet=quiet)
    if quiet or json:
        return
    for picture in manifest["pictures"]:
        best, target = picture["prediction"]["naflow"][0], picture["target"]
        said = f"predicted {best['label']} ({best['score']:.4g}), explained {target['label']}"
        if target["kind"] == "similarity":
            used = [n["label"] for n in target["neighbours"] if n["used"]]
            count = len(target["neighbours"])
            near = f"nearest is {best['label']}, " if count > 1 else ""
            others = used[0] if count == 1 else f"{len(used)} of {count}"
            said = (
                f"{near}explained the {target['metric']} similarity {target['similarity']:.4g} with {others}"
            )
        line(ERR, f"{picture['input']}: {said} over {len(manifest['layers'])} layers")
    line(ERR, f"report: {out / 'report.html'}")


def progress(*, quiet: bool) -> Progress:
    """Bars on stderr; nothing when quiet or when stderr is not a terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=ERR,
        disable=quiet or not ERR.is_terminal,
        transient=True,
    )
