"""What the whole cascade costs, network by network.

    python benchmarks/cascade.py [--networks ResNet-50 ...] [--presets paper default published-code]
                                 [--batches 1 8] [--repeats 5] [--segments] [--no-fresh] [--json FILE]

Every spine layer of 224 px pictures. The presets, one forward pass in onnxruntime (weights as initializers,
all optimisations on) and one forward and backward pass in JAX take turns in one process; figures are medians.
Columns:

    s                seconds for the whole batch, everything compiled
    x forward        the same over onnxruntime's forward pass
    x fwd+bwd        over the logit and its gradient at the input, one JAX program of ours
    first flow       time to the first flow over the whole time
    layers, solved   flows, and how many of them need a least-squares solve
    unconverged      layers with a solve that stopped at its cap
    iterations       of all solves, for the mean picture
    x alone          time for a batch over that for its pictures one after the other, by turns

Without --no-fresh, for the smallest batch, the first explanation in new processes: `cold s` and `warm s` from
starting Python to the last flow with an empty and with a filled compilation cache, `compile s` of XLA alone
(cold, summed over threads), `programs`, and `peak MB`, the largest resident set of the cold process.
--segments prints the split by segment as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
from networks import PRESETS, Network, add_options, chosen, method
from service_process import report

import naflow_core as nf
from naflow_core.measure import Subject, by_turns, compare, first_explanations

MB = 1e6


def rows_of(
    network: Network, batch: int, options: argparse.Namespace, *, fresh: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row for each preset, and the rows of the split by segment."""
    methods = {preset: method(preset, options.changes) for preset in options.presets}
    subject = Subject(nf.load(network.proto), network.feeds)
    found = compare(subject, methods, options.repeats)
    rows, segments = [], []
    for preset, own in methods.items():
        row = found["cascades"][preset]
        alone = None if batch == 1 else over_alone(subject, own, options.repeats)
        rows.append(
            {
                "network": network.name,
                "batch": batch,
                "preset": preset,
                "s": row["seconds"],
                "x forward": row["per_forward"],
                "x fwd+bwd": row["per_forward_backward"],
                "first flow": row["first_flow"],
                "layers": row["layers"],
                "solved": row["solved"],
                "unconverged": row["unconverged"],
                "iterations": row["iterations"],
                "x alone": "" if alone is None else alone,
                "forward s": found["forward"],
                "fwd+bwd s": found["forward_backward"],
            }
        )
        print(f"{network.name}, batch {batch}, {preset}: {row['seconds']:.2f} s", file=sys.stderr)
        if fresh:
            rows[-1] |= first(network, own)
        segments += [
            {"network": network.name, "batch": batch, "preset": preset, **split_row(part)}
            for part in found["segments"][preset]
        ]
    return rows, segments


def over_alone(subject: Subject, own: nf.Method, repeats: int) -> float:
    """Time for a batch over that for its pictures one after the other."""
    pictures = range(len(next(iter(subject.feeds.values()))))
    singles = [
        dataclasses.replace(subject, feeds={name: x[n : n + 1] for name, x in subject.feeds.items()})
        for n in pictures
    ]
    taken = by_turns(
        {
            "together": lambda: subject.explain(own),
            "alone": lambda: [single.explain(own) for single in singles],
        },
        repeats,
    )
    together, alone = (statistics.median(times) for times in taken.values())
    return together / alone


def first(network: Network, own: nf.Method) -> dict[str, Any]:
    """The columns of new processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(network.proto, path)
        found = first_explanations(path, network.feeds, own)
    cold, warm = found["cold"], found["warm"]
    return {
        "cold s": cold["started_to_end"],
        "warm s": warm["started_to_end"],
        "compile s": cold["compile_seconds"],
        "programs": cold["programs"],
        "recompiled": cold["recompiled"] + warm["recompiled"],
        "peak MB": cold["memory_peak"] / MB,
        "warm peak MB": warm["memory_peak"] / MB,
    }


def split_row(part: dict[str, Any]) -> dict[str, Any]:
    """One segment for the table; times in milliseconds."""
    each = part["seconds_per_iteration"]
    return {
        "tensor": part["tensor"],
        "shape": "x".join(str(size) for size in part["shape"]),
        "segment": part["segment"],
        "rule": part["rule"],
        "ms": part["seconds"] * 1e3,
        "iterations": part["iterations"],
        "ms/iteration": "" if each is None else each * 1e3,
        "retained": round(part["retained"], 4),
        "converged": part["converged"],
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=nf.PRESETS, metavar="PRESET")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--segments", action="store_true", help="print the split by segment too")
    parser.add_argument("--no-fresh", dest="fresh", action="store_false", help="start no new processes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    for batch in options.batches:
        for network in chosen(options, batch):
            fresh = options.fresh and batch == min(options.batches)
            own, parts = rows_of(network, batch, options, fresh=fresh)
            rows, segments = rows + own, segments + parts
            nf.drop_programs()
            gc.collect()
    if options.segments:
        report("The cascade by segment", segments, None, repeats=options.repeats)
        print()
    report(
        "The whole cascade",
        rows,
        options.json,
        unprinted={"segments": segments},
        repeats=options.repeats,
        changes=" ".join(options.changes) or "none",
    )


if __name__ == "__main__":
    main()
