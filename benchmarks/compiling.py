"""What our options for XLA on CPUs save in compiling, and what they cost to run.

They are its older way to write loops, and Eigen instead of YNNPACK for matrix products
(`naflow_core.compiled`).

    python benchmarks/compiling.py [--networks ResNet-50 ...] [--preset default] [--repeats 5] [--json FILE]

Every inversion of a cascade over all spine layers of a 224 px picture, compiled and run both ways by turns in
one process. One row for the inversions that the product compiles quickly, with these options, and one for the
others; columns:

    programs         different ones
    compile s        of these, without; `quick s`: with them
    run s            all inversions, without
    quick/run        the same with them over that
    difference       the largest one of a preimage, over its largest value
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from networks import Network, add_options, chosen, method
from service_process import report

import naflow_core as nf
from naflow_core import ahead, cascade


class BothWays:
    """Stands for `cascade.invert`.

    Attributes:
        found: for inversions that the product compiles quickly (True) and for others, what is summed up.
    """

    def __init__(self, repeats: int) -> None:
        self.found: dict[bool, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._real, self._repeats = cascade.invert, repeats
        self._ways = self._real.traced, self._real.quick

    def __call__(self, *call: Any) -> Any:
        found = self.found[self._real.is_quick(*call)]
        before = self._ways[0]._cache_size()
        firsts, results = zip(*(timed(way, call) for way in self._ways), strict=True)
        if self._ways[0]._cache_size() > before:
            found["programs"] += 1
            found["compile s"] += firsts[0]
            found["quick s"] += firsts[1]
        turns = [[timed(way, call)[0] for way in self._ways] for _ in range(self._repeats)]
        for name, seconds in zip(("run s", "quick run"), zip(*turns, strict=True), strict=True):
            found[name] += statistics.median(seconds)
        newer, older = (np.asarray(result.preimage) for result in results)
        difference = float(np.abs(newer - older).max() / (np.abs(newer).max() or 1))
        found["difference"] = max(found["difference"], difference)
        return results[0]


def timed(way: Any, call: tuple[Any, ...]) -> tuple[float, Any]:
    """Seconds, and the result."""
    began = time.perf_counter()
    result = jax.block_until_ready(way(*call))
    return time.perf_counter() - began, result


def measure(network: Network, own: nf.Method, repeats: int) -> list[dict[str, Any]]:
    """The rows of one network."""
    both = BothWays(repeats)
    with mock.patch.object(cascade, "invert", both), mock.patch.object(ahead, "MOST_THREADS", 1):
        nf.load(network.proto).explain(network.feeds, method=own, layers="spine").collect()
    rows = []
    for quickly, found in sorted(both.found.items(), reverse=True):
        ratio = found.pop("quick run") / found["run s"]
        row = {"network": network.name, "compiled": "quickly" if quickly else "the newer way", **found}
        rows.append({**row, "programs": int(found["programs"]), "quick/run": ratio})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--preset", default="default", choices=sorted(nf.PRESETS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if jax.default_backend() != "cpu":
        parser.error("only CPUs have two ways")
    own = method(options.preset, options.changes)
    rows: list[dict[str, Any]] = []
    for network in chosen(options, 1):
        rows += measure(network, own, options.repeats)
        print(f"{network.name}: done", file=sys.stderr)
        nf.drop_programs()
        gc.collect()
    report("Two ways to compile", rows, options.json, preset=options.preset, repeats=options.repeats)


if __name__ == "__main__":
    main()
