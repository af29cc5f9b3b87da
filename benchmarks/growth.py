"""How time and memory grow with resolution, batch and depth.

    python benchmarks/growth.py [--preset default] [--repeats 3] [--json FILE]
                                [--sizes 64 128 224 320 512] [--batches 1 2 4 8 16] [--depths 2 4 8 16 32]

Resolution and batch on the onnx package's SqueezeNet graph with seeded weights (224 px where the batch
grows), depth on a seeded plain network of 3x3 convolutions with 32 channels at 56 px. Columns: seconds of all
spine layers with everything compiled, for the batch, for each picture and over one onnxruntime forward pass;
iterations of the mean picture; in a new process the largest resident set and its growth since the imports, in
MB; and `per picture x`, seconds for each picture over the first row of its kind.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from networks import Network, deep, light, method
from service_process import report

import naflow_core as nf
from naflow_core.measure import Subject, compare, first_explanations

MB = 1e6
SUBJECT = "SqueezeNet"


def subjects(options: argparse.Namespace) -> Iterator[tuple[str, int, Network]]:
    """What grows, how far, and the network."""
    for size in options.sizes:
        yield "size", size, light(SUBJECT, 1, size)
    for batch in options.batches:
        yield "batch", batch, light(SUBJECT, batch)
    for depth in options.depths:
        yield "depth", depth, deep(depth)


def measure(network: Network, own: nf.Method, repeats: int) -> dict[str, Any]:
    """One row, without what it is compared with."""
    found = compare(Subject(nf.load(network.proto), network.feeds), {"it": own}, repeats)["cascades"]["it"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(network.proto, path)
        cold = first_explanations(path, network.feeds, own, states=("cold",))["cold"]
    pictures = len(next(iter(network.feeds.values())))
    return {
        "s": found["seconds"],
        "s/picture": found["seconds"] / pictures,
        "x forward": found["per_forward"],
        "iterations": found["iterations"],
        "unconverged": found["unconverged"],
        "peak MB": cold["memory_peak"] / MB,
        "growth MB": (cold["memory_peak"] - cold["memory_imported"]) / MB,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="default", choices=sorted(nf.PRESETS))
    parser.add_argument("--set", dest="changes", nargs="+", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--sizes", nargs="*", type=int, default=[64, 128, 224, 320, 512])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--depths", nargs="*", type=int, default=[2, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    own = method(options.preset, options.changes)
    rows: list[dict[str, Any]] = []
    firsts: dict[str, float] = {}
    for axis, value, network in subjects(options):
        row = measure(network, own, options.repeats)
        each = row["s/picture"]
        relative = each / firsts.setdefault(axis, each)
        print(f"{axis} {value}: {row['s']:.2f} s", file=sys.stderr)
        rows.append({"grows": axis, "to": value, **row, "per picture x": relative})
        nf.drop_programs()
        gc.collect()
    report("Growth", rows, options.json, preset=options.preset, repeats=options.repeats)


if __name__ == "__main__":
    main()
