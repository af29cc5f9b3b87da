"""What happens to each network of a folder: forward error, classes of rules, seconds, memory, conservation.

    python benchmarks/architectures.py FOLDER [FOLDER...] --out docs/architectures.md

Every .onnx file is taken on its own, in a process of its own, with default settings and seeded noise as its
input: inspected, its forward pass compared with onnxruntime at every tensor, and explained twice. The second
explanation is the one that is timed: it compiles nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import naflow_core as nf

CLASSES = ("exact", "least_squares", "mask", "passthrough")
OPEN_SIZE = {"ppocr_cls_mobilenetv3_paddle": (1, 3, 48, 192)}
HEADER = (
    "| network | nodes | segments (composite) | layers | exact / least squares / mask / pass | forward error | "
    "first, s | again, s | peak, MB | gap |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def measure(path: Path) -> dict[str, Any]:
    """One row of the table, for a file on its own in this process."""
    model = nf.load(path)
    shapes = {model.inputs[0].name: OPEN_SIZE[path.stem]} if path.stem in OPEN_SIZE else {}
    output = None
    report = model.inspect(input_shapes=shapes)
    if not report.explainable and len(model.outputs) > 1:
        output = model.outputs[0].name
        report = model.inspect(input_shapes=shapes, output=output)
    facts = report.to_dict()
    row: dict[str, Any] = {"name": path.stem, "folder": path.parent.name, "nodes": len(facts["nodes"])}
    checked = model.verify(input_shapes=shapes).to_dict()
    worst = max(checked["tensors"], key=lambda t: (not t["ok"], t["max_rel_error"]))
    row |= {"verified": checked["ok"], "forward_error": worst["max_rel_error"], "worst": worst["tensor"]}
    if not report.explainable:
        return row | {"reason": facts["reason"]}
    segments = facts["segments"]
    row |= {
        "segments": len(segments),
        "composites": sum(segment["kind"] == "composite" for segment in segments),
        "classes": Counter(segment["class"] for segment in segments),
        "top": facts["top_feature_map"],
    }
    if report.plan is not None and report.plan.head.is_feature_map:
        return row | {"reason": f"output {facts['explained_output']!r} is a feature map"}
    feeds = noise(model, shapes)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        flows = model.explain(feeds, output=output).collect().flows
        seconds.append(time.perf_counter() - began)
    return row | {
        "layers": len(flows),
        "constant": [flow.tensor for flow in flows if flow.map.max() == flow.map.min()],
        "not_converged": [flow.tensor for flow in flows if not flow.diagnostics.converged.all()],
        "seconds": seconds,
        "gap": max(float(flow.diagnostics.conservation_gap.max()) for flow in flows),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def noise(model: nf.Model, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Standard normal numbers for floating inputs, all values alike for integers of 8 bits."""
    generator = np.random.default_rng(0)
    feeds = {}
    for spec in model.inputs:
        shape = model.default_shapes(**shapes)[spec.name]
        if spec.dtype in {"int8", "uint8"}:
            feeds[spec.name] = generator.integers(0, 128, shape).astype(spec.dtype)
        else:
            feeds[spec.name] = generator.standard_normal(shape).astype(np.float32)
    return feeds


def line(row: dict[str, Any]) -> str:
    """A row as Markdown."""
    error = f"{row['forward_error']:.0e}" if row["verified"] else f"**{row['forward_error']:.0e}**"
    if "layers" not in row:
        return f"| {row['name']} | {row['nodes']} | {row['reason']} | | | {error} | | | | |"
    classes = " / ".join(str(row["classes"].get(name, 0)) for name in CLASSES)
    first, again = row["seconds"]
    return (
        f"| {row['name']} | {row['nodes']} | {row['segments']} ({row['composites']}) | {row['layers']} | {classes} | "
        f"{error} | {first:.1f} | {again:.2f} | {row['peak'] / 1e6:.0f} | {row['gap']:.0e} |"
    )


def alone(path: Path) -> dict[str, Any]:
    """`measure` in a process of its own, so that memory is this network's."""
    ended = subprocess.run(
        [sys.executable, __file__, "--one", str(path)], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:]
        raise SystemExit(f"{path}: {''.join(last)}")
    return dict(json.loads(ended.stdout))


def machine() -> str:
    """Processor and number of cores."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [text for text in information.read_text().splitlines() if text.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}"


def main() -> None:
    """Measure, print as it goes, and write the page on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    rows = []
    for folder in options.folders:
        for path in sorted(folder.glob("*.onnx")):
            rows.append(alone(path))
            print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
