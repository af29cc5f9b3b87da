"""Do controls ever win a measure of faithfulness?

    python benchmarks/controls.py [--zoo FOLDER] [--networks NAME ...] [--pictures N] [--scenes 100]
                                  [--methods NAME ...] [--metrics NAME ...] [--out FOLDER] [--json FILE]

A map that knows nothing of the decision (random, centre, edges, empty) must not come out best of all in a
measure that is called one of faithfulness, at any of a shallow, a middle and a deep block. Each row is one
measure at one block: the best method, the best control, the p-value of the best method's paired difference
to the centred map (sign flips), and the mean of naflow's default. The exit status is 1 where a control wins.

The bundled network is measured on scenes that it never saw, those of --zoo on all of its photographs, most of
which have their object in the middle. Work is kept per picture under --out and goes on where it was left.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from faithfulness import DIGITS, REAL, ROOT, Case, digits, measure, trained
from service_process import report

from naflow_client import load_picture
from naflow_core.evaluate import METHODS, METRICS, Picture, rivals

FAITHFUL = tuple(metric.name for metric in METRICS if metric.faithfulness)
AGAINST, OURS = "centre", "naflow"


def photographs(zoo: Path, name: str, count: int | None) -> Case:
    """A real network on all photographs of a folder, boxed or not; the predicted class is explained."""
    model, _, recipe = trained(zoo, name)
    files = sorted((zoo / "images").glob("*.*g"))[:count]
    shape: Any = model.inputs[0].shape
    pictures = (Picture(file.name, recipe.apply(load_picture(file), shape).array) for file in files)
    return Case(name, model, tuple(pictures))


def contests(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each measure at each block."""
    cells = {(e["metric"], e["layer"], e["method"]): e for e in result["results"]}
    controls = {method["name"]: method["control"] for method in result["methods"]}
    for metric, layer in itertools.product(result["metrics"], result["layers"]):
        sign = -1 if metric["better"] == "lower" else 1
        entries = {name: cells[metric["name"], layer["tensor"], name] for name in controls}
        ranked = sorted(entries, key=lambda name: sign * entries[name]["mean"])
        method, control = ([n for n in ranked if controls[n] is kind][-1] for kind in (False, True))
        means = entries[method]["mean"], entries[control]["mean"]
        yield {
            "measure": metric["name"],
            "block": layer["tensor"],
            "best method": method,
            "mean": round(means[0], 3),
            "best control": control,
            "its mean": round(means[1], 3),
            f"p against {AGAINST}": round(entries[method]["difference"]["p"], 3),
            OURS: round(entries[OURS]["mean"], 3) if OURS in entries else None,
            "control wins": sign * means[1] > sign * means[0],
        }


def main() -> None:
    """Print a table for each network; exit with 1 where a control wins."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--networks", nargs="+", choices=(DIGITS, *REAL))
    parser.add_argument("--pictures", type=int, help="photographs at most")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=rivals.REGISTRY.names())
    parser.add_argument("--metrics", nargs="+", default=list(FAITHFUL), choices=FAITHFUL)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "controls")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if AGAINST not in given.methods:
        parser.error(f"--methods must have the control {AGAINST!r}")
    if given.zoo is None and set(given.networks or ()) & set(REAL):
        parser.error("the real networks are in --zoo FOLDER")
    record = {}
    for name in given.networks or (DIGITS, *(REAL if given.zoo else ())):
        case = digits(given.scenes) if name == DIGITS else photographs(given.zoo, name, given.pictures)
        methods = [rivals.find(method) for method in given.methods]
        found = measure(case, methods, AGAINST, given.metrics, given.out / name)
        record[name] = list(contests(found))
        report(f"{name}, {len(case.pictures)} pictures", record[name], None)
        print(flush=True)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lost = sum(row["control wins"] for rows in record.values() for row in rows)
    print(f"a control wins {lost} of {sum(map(len, record.values()))} contests")
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
