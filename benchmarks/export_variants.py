"""Do the maps depend on how a network was exported? Correlation of the block flows of its exports.

    python benchmarks/export_variants.py [--scenes 12] [--zoo FOLDER] [--variants NAME ...] [--json FILE]

Runs on the bundled network with freshly drawn scenes, and with --zoo on FOLDER/models/resnet20_cifar10_*.onnx
with FOLDER/images cut square and shrunk to its 32x32 pixels. Each row: the lowest and the median Pearson
correlation over blocks and pictures between the raw flows of the file as it is and of a variant, the share of
pictures whose lowest is at least 0.98, the largest relative difference of a logit, and the iterations of the
variant's solves per picture.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import naflow_core as nf

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "digits_in_clutter"
sys.path[:0] = [str(EXAMPLE), str(ROOT / "tests")]

from dataset import as_input, load_sources, scenes  # noqa: E402  (a folder of scripts, not a package)
from support.export_variants import (  # noqa: E402  (a folder of helpers, not a package)
    VARIANTS,
    cifar_pictures,
    is_channels_last,
    pearson,
    variants,
)

ENOUGH = 0.98


def explained(model: onnx.ModelProto, pictures: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, float]:
    """Block flows, nearest to the input first; logits; iterations of all solves per picture."""
    loaded = nf.load(model)
    explanation = loaded.explain(pictures, layers="spine")
    blocks = explanation.plan.layers("blocks")
    result = explanation.collect()
    flows = [flow.map for flow in result.flows if flow.tensor in blocks]
    iterations = sum(float(flow.diagnostics.iterations.mean()) for flow in result.flows)
    return flows, result.prediction.logits, iterations


def compare(model: onnx.ModelProto, pictures: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """One row per variant; the first is the file as it is."""
    flows, logits, iterations = explained(model, pictures)
    rows = [row("the file itself", flows, flows, logits, logits, iterations)]
    for name, variant in variants(model, names):
        given = pictures.transpose(0, 2, 3, 1) if is_channels_last(name) else pictures
        others, other_logits, iterations = explained(variant, given)
        rows.append(row(name, flows, others, logits, other_logits, iterations))
    return rows


def row(
    name: str,
    flows: list[np.ndarray],
    others: list[np.ndarray],
    logits: np.ndarray,
    other_logits: np.ndarray,
    iterations: float,
) -> dict[str, Any]:
    """How far one variant is from the file."""
    if [flow.shape for flow in flows] != [flow.shape for flow in others]:
        raise SystemExit(f"{name}: the blocks are others than those of the file")
    similar = np.array([pearson(a, b) for a, b in zip(flows, others, strict=True)])
    return {
        "variant": name,
        "lowest": float(similar.min()),
        "median": float(np.median(similar)),
        "enough": float((similar.min(axis=0) >= ENOUGH).mean()),
        "logits": float(np.abs(other_logits - logits).max() / np.abs(logits).max()),
        "iterations": iterations,
    }


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """One network's table."""
    print(f"\n{title}, {platform.processor() or platform.machine()}")
    print(f"{'variant':30s}  lowest  median  >= {ENOUGH}  logits  iterations")
    for r in rows:
        print(
            f"{r['variant']:30s}  {r['lowest']:6.4f}  {r['median']:6.4f}  {r['enough']:7.0%}  "
            f"{r['logits']:6.0e}  {r['iterations']:10.0f}"
        )


def main() -> None:
    """Print the tables, and write them as JSON on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    drawn = scenes(load_sources("test"), options.scenes, options.seed)
    pictures = as_input(np.stack([scene.picture for scene in drawn]))
    runs = [("digits_in_clutter", onnx.load(EXAMPLE / "digits_in_clutter.onnx"), pictures)]
    if options.zoo:
        path = next((options.zoo / "models").glob("resnet20_cifar10_*.onnx"))
        runs.append((path.stem, onnx.load(path), cifar_pictures(options.zoo / "images", options.scenes)))
    tables = {}
    for name, model, given in runs:
        tables[name] = compare(model, given, options.variants)
        show(f"{name}, {len(given)} pictures", tables[name])
    if options.json:
        options.json.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
