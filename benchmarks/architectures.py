"""What happens to each network of a folder: forward error, classes of rules, seconds, memory, conservation.

    python benchmarks/architectures.py FOLDER [FOLDER...] --light --out docs/architectures.md

Every .onnx file is taken on its own, in a process of its own, with default settings and seeded noise as its
input: inspected, its forward pass compared with onnxruntime at every tensor, and explained twice. The second
explanation is the one that is timed: it compiles nothing. The files are written by the export.py of each
folder of tests/frameworks; --light adds the graphs that the onnx package brings along, with seeded weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import naflow_core as nf
from naflow_core.measure import machine

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.light_networks import NINE, light_network

CLASSES = {"exact": "exact", "least_squares": "solved", "mask": "mask", "passthrough": "pass"}
OPEN_SIZE = {"ppocr_cls_mobilenetv3_paddle": (1, 3, 48, 192)}
HEADER = """\
| network | nodes | segments | classes | flows | forward error | seconds | peak MB | gap |
| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"""


PAGE = """\
# Architectures

Small networks of well-known architectures with seeded random weights, as five exporters write them
([PyTorch](frameworks/pytorch.md) twice, [TensorFlow](frameworks/tensorflow.md), [JAX](frameworks/jax.md),
[PaddlePaddle](frameworks/paddle.md)); each verified and explained with default settings. The table "light"
holds the full-size graphs that the onnx package brings along without weights, with seeded He-normal ones; the
table "trained" models that people use, which are not part of this repository. Written by
`python benchmarks/architectures.py FOLDER... --light --out docs/architectures.md` on {machine}.

* segments: between neighbouring tensors of the spine; in brackets how many of them are composites
* classes: segments inverted exactly, solved by least squares, masked by abandonment, or passed through
* flows: maps with `--layers blocks`; "flat" are those without any structure
* forward error: largest difference from onnxruntime at any tensor, relative to its largest value; bold where
  `naflow verify` fails (quantised tensors may be off by a step)
* seconds: of the processor, over all cores, for one explanation of one input when everything is compiled
* peak MB: memory of the whole process, of JAX and onnxruntime too; compiled programs came in part from JAX's
  compilation cache, and compiling needs more
* gap: conservation gap, median over the layers; a feasible and damped solve leaves one,
  see [method.md](method.md)

{tables}
"""


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
    model.explain(feeds, output=output).collect()  # compiles
    began = time.process_time()
    flows = model.explain(feeds, output=output).collect().flows
    seconds = time.process_time() - began
    inverted = [flow.diagnostics for flow in flows if flow.tensor != row["top"]]
    unit = 1 if sys.platform == "darwin" else 1024
    return row | {
        "flows": len(flows),
        "constant": [flow.tensor for flow in flows if flow.map.max() == flow.map.min()],
        "not_converged": [flow.tensor for flow in flows if not flow.diagnostics.converged.all()],
        "seconds": seconds,
        "gaps": [float(diagnostics.conservation_gap.max()) for diagnostics in inverted],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
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
    start = f"| {row['name']} | {row['nodes']} |"
    if "flows" not in row:
        return f"{start} {row['reason']} | | | {error} | | | |"
    classes = ", ".join(
        f"{row['classes'][name]} {short}" for name, short in CLASSES.items() if name in row["classes"]
    )
    composites = f" ({row['composites']})" if row["composites"] else ""
    flows = f"{row['flows']} ({len(row['constant'])} flat)" if row["constant"] else row["flows"]
    gap = f"{np.median(row['gaps']):.2f}" if row["gaps"] else ""
    return (
        f"{start} {row['segments']}{composites} | {classes} | {flows} | {error} | {row['seconds']:.2f} | "
        f"{row['peak'] / 1e6:.0f} | {gap} |"
    )


def page(rows: list[dict[str, Any]]) -> str:
    """The whole page."""
    tables = []
    for folder in dict.fromkeys(row["folder"] for row in rows):
        lines = [line(row) for row in rows if row["folder"] == folder]
        tables.append("\n".join([f"## {folder}", "", HEADER, *lines]))
    return PAGE.format(machine=machine(), tables="\n\n".join(tables))


def alone(path: Path) -> dict[str, Any]:
    """`measure` in a process of its own, so that memory is this network's."""
    ended = subprocess.run(
        [sys.executable, __file__, "--one", str(path)], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:]
        raise SystemExit(f"{path}: {''.join(last)}")
    return dict(json.loads(ended.stdout))


def main() -> None:
    """Measure, print as it goes, and write the page on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    rows = []

    def add(path: Path) -> None:
        rows.append(alone(path))
        print(line(rows[-1]), flush=True)

    for folder in options.folders:
        for path in sorted(folder.glob("*.onnx")):
            add(path)
    if options.light:
        with tempfile.TemporaryDirectory() as scratch:
            for name in NINE:
                path = Path(scratch, "light", f"{name}.onnx")
                path.parent.mkdir(exist_ok=True)
                onnx.save(light_network(name), path)
                add(path)
                path.unlink()
    if options.out:
        options.out.write_text(page(rows), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
