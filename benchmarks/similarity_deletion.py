"""Do similarity flows show what two pictures have in common? Remove it and see.

    python benchmarks/similarity_deletion.py [--pairs 150] [--json FILE]

Pairs of pictures of one digit, from different scans that the encoder of examples/contrastive_digits has not
seen; the query shows its digit among clutter, or side by side with another digit. In every layer the
strongest cells of the query's flow are painted over with the query's median grey, and the fall of its cosine
similarity to the reference is measured with onnxruntime. The same is done with

* random cells: as many of the same size, mean of 5 draws;
* random reference: the strongest cells of the flow for a view of another digit (where the query has two: of
  the second), the similarity still taken to the true reference;
* shuffled channels: the flow for the true reference with the channels of its embedding in random order.

First table: the fall of the similarity, mean over layers and pairs, and how much more the flow lowers it than
each control, with the 95 % bootstrap interval over pairs. A control loses where the interval lies above 0.
Second table: the share of the flow that lies on the matching digit's half of a query with two digits; chance
is 0.5. Single layers are in the JSON file.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import naflow_core as nf

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "contrastive_digits"
sys.path.insert(0, str(EXAMPLE))

from measures import bootstrap  # noqa: E402  (a folder of scripts, not a package)
from views import SIZE, as_input, draw, draw_two, load_scans  # noqa: E402

MODEL = EXAMPLE / "contrastive_digits.onnx"
SHARES = (0.05, 0.2)
DRAWS = 5
FLOW, CELLS, REFERENCE, SHUFFLED = "flow", "random cells", "random reference", "shuffled channels"
CONTROLS = (CELLS, REFERENCE, SHUFFLED)
TARGETS = (("contribution", "minmax"), ("contribution", "none"), ("gradient", "none"))

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Queries uint8 [N, 32, 32], the references [N, 64] of the flow and of its controls, and which queries
    have their digit on the left (None for queries with one digit)."""

    name: str
    queries: np.ndarray
    references: dict[str, np.ndarray]
    on_left: np.ndarray | None


def pairs(count: int, seed: int, embed: Embed) -> Iterator[Pairs]:
    """The pairs with one digit in the query, and those with two."""
    scans, rng = load_scans("test"), np.random.default_rng(seed)
    digits = rng.integers(10, size=count)
    same = np.array([rng.choice(np.flatnonzero(scans.labels == digit), 2, replace=False) for digit in digits])
    others = np.array([rng.choice(np.flatnonzero(scans.labels != digit)) for digit in digits])
    beside = np.array([rng.choice(np.flatnonzero(scans.labels == scans.labels[other])) for other in others])
    wanted = embed(draw(scans, same[:, 1], rng).pictures)
    references = {
        FLOW: wanted,
        REFERENCE: embed(draw(scans, others, rng).pictures),
        SHUFFLED: wanted[:, rng.permutation(wanted.shape[1])],
    }
    yield Pairs("one digit", draw(scans, same[:, 0], rng).pictures, references, None)
    both, on_left = draw_two(scans, same[:, 0], beside, rng)
    yield Pairs("two digits", both, references, on_left)


def without(pictures: np.ndarray, maps: np.ndarray, share: float) -> np.ndarray:
    """The pictures with the strongest cells of their maps painted over.

    Args:
        pictures: uint8 [N, 32, 32]; maps: [N, h, w], h and w divide 32; share: of the cells.
    """
    count, height, width = maps.shape
    cells = round(share * height * width)
    strongest = np.argsort(-maps.reshape(count, -1), axis=1)[:, :cells]
    gone = np.zeros((count, height * width), bool)
    np.put_along_axis(gone, strongest, True, axis=1)
    gone = gone.reshape(maps.shape).repeat(SIZE // height, axis=1).repeat(SIZE // width, axis=2)
    grey = np.median(pictures, axis=(1, 2), keepdims=True).astype(np.uint8)
    return np.where(gone, grey, pictures)


def matching_share(maps: np.ndarray, on_left: np.ndarray) -> np.ndarray:
    """[N] share of each map [N, h, w] on the half where the first digit is."""
    left = maps[:, :, : maps.shape[2] // 2].sum((1, 2))
    total = np.maximum(maps.sum((1, 2)), np.finfo(np.float32).tiny)
    return np.where(on_left, left, total - left) / total


def measure(model: nf.Model, case: Pairs, embed: Embed, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of both tables for one kind of pairs."""
    rng = np.random.default_rng(seed)
    queries, wanted = case.queries, case.references[FLOW]
    before = (embed(queries) * wanted).sum(1)

    def falls(maps: list[np.ndarray], share: float) -> np.ndarray:
        """[layers, N]"""
        return np.stack([before - (embed(without(queries, m, share)) * wanted).sum(1) for m in maps])

    by_chance: dict[float, np.ndarray] = {}
    rows: dict[str, list[dict[str, Any]]] = {"deletion": [], "halves": []}
    for coefficients, normalise in TARGETS:
        maps: dict[str, list[np.ndarray]] = {}
        for name, reference in case.references.items():
            target = nf.SimilarityTarget(
                reference, normalise=normalise, coefficients=coefficients, paired=True
            )
            result = model.explain(as_input(queries), target).collect()
            maps[name] = [flow.map for flow in result.flows]
        layers = [flow.tensor for flow in result.flows]
        way = coefficients if coefficients == "gradient" else f"{coefficients}, {normalise}"
        for share in SHARES:
            if share not in by_chance:
                sizes = [m.shape for m in maps[FLOW]]
                by_chance[share] = np.mean(
                    [falls([rng.random(size) for size in sizes], share) for _ in range(DRAWS)], axis=0
                )
            found = {name: falls(own, share) for name, own in maps.items()} | {CELLS: by_chance[share]}
            rows["deletion"].append(
                {"query": case.name, "coefficients": way, "removed": share} | _summary(found, layers)
            )
        if case.on_left is not None:
            on_left = case.on_left
            halves = {n: np.stack([matching_share(m, on_left) for m in own]) for n, own in maps.items()}
            rows["halves"].append(
                {"coefficients": way}
                | {name: bootstrap(values.mean(0)) for name, values in halves.items()}
                | {"layers": dict(zip(layers, halves[FLOW].mean(1).tolist(), strict=True))}
            )
    return rows


def _summary(falls: dict[str, np.ndarray], layers: list[str]) -> dict[str, Any]:
    """Means, and leads over the controls, from falls [layers, N]."""
    return {
        "fall": {name: float(values.mean()) for name, values in falls.items()},
        "lead": {name: bootstrap((falls[FLOW] - falls[name]).mean(0)) for name in CONTROLS},
        "layers": {
            layer: {name: bootstrap(falls[FLOW][i] - falls[name][i], draws=2000) for name in CONTROLS}
            for i, layer in enumerate(layers)
        },
    }


def _print(titles: list[str], rows: list[list[str]]) -> None:
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Print the tables, and write them as JSON on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])

    def embed(pictures: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"image": as_input(pictures)})[0])

    model = nf.load(MODEL)
    found: dict[str, list[dict[str, Any]]] = {"deletion": [], "halves": []}
    for case in pairs(options.pairs, options.seed, embed):
        for name, rows in measure(model, case, embed, options.seed).items():
            found[name] += rows
    machine = platform.processor() or platform.machine()
    print(f"{options.pairs} pairs of each kind, seed {options.seed}, {machine}")
    _print(
        ["query", "coefficients", "removed", *(f"fall: {name}" for name in (FLOW, *CONTROLS))]
        + [f"lead over {name}" for name in CONTROLS],
        [
            [row["query"], row["coefficients"], f"{row['removed']:.0%}"]
            + [f"{row['fall'][name]:.3f}" for name in (FLOW, *CONTROLS)]
            + [str(row["lead"][name]) for name in CONTROLS]
            for row in found["deletion"]
        ],
    )
    _print(
        ["coefficients", "share on the matching half: flow", REFERENCE, SHUFFLED],
        [
            [row["coefficients"], *(str(row[name]) for name in (FLOW, REFERENCE, SHUFFLED))]
            for row in found["halves"]
        ],
    )
    if options.json:
        options.json.write_text(json.dumps(found, default=asdict, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
