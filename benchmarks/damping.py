"""How damping changes the maps: are they determined, what do they cost, do they still find the object?

Runs on the bundled network and freshly drawn digit scenes whose true boxes are known:

    python benchmarks/damping.py [--scenes 24] [--json FILE]

Columns: iterations per picture; the largest difference of any min-max map from the same map solved to a
tolerance of 1e-5 (0 = fully determined at the default tolerance); solves that did not converge; share of the
map's energy inside the digit's box at the first, a middle and the last layer (chance = the box's share of the
picture).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

import naflow_core as nf

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "digits_in_clutter"
sys.path.insert(0, str(EXAMPLE))

from dataset import as_input, load_sources, scenes  # noqa: E402  (a folder of scripts, not a package)

DAMPINGS = (0.0, 0.03, 0.1, 0.3, 0.5, 1.0)
EXACT = {"tolerance": 1e-5, "max_iterations": 3000}


def min_max(maps: np.ndarray) -> np.ndarray:
    """Each map scaled to [0, 1]."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return (maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny)


def energy_inside(maps: np.ndarray, boxes: np.ndarray, size: int) -> float:
    """Mean share of the sum in cells whose centre is inside the box (left, top, right, bottom, pixels)."""
    shares = []
    for values, (x0, y0, x1, y1) in zip(maps, boxes, strict=True):
        rows = (np.arange(values.shape[0]) + 0.5) / values.shape[0] * size
        columns = (np.arange(values.shape[1]) + 0.5) / values.shape[1] * size
        inside = ((rows >= y0) & (rows <= y1))[:, None] & ((columns >= x0) & (columns <= x1))[None]
        shares.append(values[inside].sum() / max(values.sum(), np.finfo(np.float32).tiny))
    return float(np.mean(shares))


def measure(model: nf.Model, pictures: np.ndarray, boxes: np.ndarray, damping: float) -> dict[str, Any]:
    """One row of the table."""
    flows = model.explain(pictures, method=nf.Method(damping=damping)).collect().flows
    exact = model.explain(pictures, method=nf.Method(damping=damping, **EXACT)).collect().flows
    size = pictures.shape[-1]
    chosen = (flows[0], flows[len(flows) // 2], flows[-1])
    return {
        "damping": damping,
        "iterations": sum(float(flow.diagnostics.iterations.mean()) for flow in flows),
        "largest_difference": max(
            float(np.abs(min_max(a.map) - min_max(b.map)).max()) for a, b in zip(flows, exact, strict=True)
        ),
        "not_converged": sum(int((~flow.diagnostics.converged).sum()) for flow in flows),
        "energy_inside": [energy_inside(flow.map, boxes, size) for flow in chosen],
    }


def main() -> None:
    """Print the table, and write it as JSON on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = nf.load(EXAMPLE / "digits_in_clutter.onnx")
    drawn = list(scenes(load_sources("test"), options.scenes, options.seed))
    pictures = as_input(np.stack([scene.picture for scene in drawn]))
    boxes = np.array([scene.box for scene in drawn])
    size = pictures.shape[-1]
    chance = float(np.mean((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))) / size**2
    rows = [measure(model, pictures, boxes, damping) for damping in DAMPINGS]
    print(f"{options.scenes} scenes, {platform.processor() or platform.machine()}; box share {chance:.3f}")
    print("damping  iterations  largest difference  not converged  energy inside: first  middle  last")
    for row in rows:
        energy = "  ".join(f"{value:6.3f}" for value in row["energy_inside"])
        print(
            f"{row['damping']:7.2f}  {row['iterations']:10.0f}  {row['largest_difference']:18.3f}  "
            f"{row['not_converged']:13d}  {energy:>28}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"chance": chance, "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
