"""Do similarity flows show what two pictures have in common? Remove it and see.

    python benchmarks/similarity_deletion.py [--pairs 150] [--only NAME] [--default-only] [--json FILE]

The strongest cells of the query's flow are removed, in every layer, and the fall of its similarity to the
reference is measured with onnxruntime. How cells are removed is said in similarity_removal.py: vectors are
measured with paint, local descriptors are taken out, and for comparison painted over, too. The same is done
with

* random cells: as many of the same size, mean of several draws;
* random reference: the strongest cells of the flow for a wrong reference, the similarity still taken to the
  true one;
* shuffled channels: the flow for the true reference with the channels of its embedding in random order.

Digits: pairs of pictures of one digit, from different scans that the encoder of examples/contrastive_digits
has not seen; the query shows its digit among clutter, or side by side with another digit, which then is what
the wrong reference shows; once by its vector, once by the local descriptors of its last feature map.
Photographs, where NAFLOW_ZOO names a folder with models/ and images/: see
`similarity_cases.photograph_pairs`.

First table: the fall of the similarity, mean over layers and pairs, and how much more the flow lowers it than
each control, with the 95 % bootstrap interval over pairs (over photographs, where several pairs share one). A
control loses where the interval lies above 0. The row "all of these" has all kinds of pairs of photographs
together, each pair once. Second table: the share of the flow that lies on the matching
half of a query with two digits or photographs; chance is 0.5. Single layers are in the JSON file, and so is
the similarity of a query that is painted over wholly ("blank"): where that is hardly lower, paint removes
nothing. With --default-only only the default coefficients are measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from similarity_cases import (
    FLOW,
    NETWORKS,
    REFERENCE,
    SHUFFLED,
    Encoder,
    Pairs,
    digit_descriptors,
    digits,
    encoder_of,
    photograph_pairs,
)
from similarity_removal import REMOVALS, Removal, without

import naflow_core as nf
from measures import Interval


class Way(NamedTuple):
    """What makes the coefficients. `metric`: that of the encoder when empty."""

    coefficients: str
    normalise: str
    metric: str = ""

    def __str__(self) -> str:
        name = self.coefficients if self.coefficients == "gradient" else ", ".join(self[:2])
        return f"{name}, {self.metric}" if self.metric else name


SHARES = (0.05, 0.2)
DRAWS = 5
CELLS = "random cells"
CONTROLS = (CELLS, REFERENCE, SHUFFLED)
CONTRIBUTION = Way("contribution", "minmax")
GRADIENT = Way("gradient", "none")
WAYS = (CONTRIBUTION, Way("contribution", "none"), GRADIENT)
WAYS_OF = {
    "cosine": (CONTRIBUTION, GRADIENT),
    "image-to-class": (GRADIENT, CONTRIBUTION, Way("gradient", "none", "image-to-class-full")),
}
DIGITS, DESCRIPTORS = "digits", "digits-descriptors"

Rows = dict[str, list[dict[str, Any]]]


def matching_share(maps: np.ndarray, first: np.ndarray, axis: int = 2) -> np.ndarray:
    """[N] share of each map [N, h, w] on the half that matches; the left (upper) one where `first`."""
    size = maps.shape[axis]
    weight = np.clip(size / 2 - np.arange(size), 0, 1)  # a cell in the middle counts half
    left = np.tensordot(maps, weight, (axis, 0)).sum(axis=1)
    total = np.maximum(maps.sum((1, 2)), np.finfo(np.float32).tiny)
    return np.where(first, left, total - left) / total


def interval(values: np.ndarray, groups: np.ndarray, draws: int = 10_000, seed: int = 0) -> Interval:
    """The mean of `values` [N] and its 95 % bootstrap interval, whole groups resampled."""
    _, member = np.unique(groups, return_inverse=True)
    count = np.bincount(member)
    total = np.bincount(member, values)
    drawn = np.random.default_rng(seed).integers(len(count), size=(draws, len(count)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def spaced(names: tuple[str, ...], count: int | None) -> tuple[str, ...]:
    """`count` of the names, evenly spaced, the last one included; all of them for None."""
    if count is None or len(names) <= count:
        return names
    places = np.linspace(0, len(names) - 1, count + 1)[1:].round().astype(int)
    return tuple(names[i] for i in places)


def flows(encoder: Encoder, case: Pairs, way: Way, layers: tuple[str, ...]) -> dict[str, list[np.ndarray]]:
    """For the flow and each control with a reference of its own: the maps [N, h, w] of every layer."""
    maps = {}
    for name, reference in case.references.items():
        aim = nf.SimilarityTarget(
            reference, way.metric or encoder.metric, way.normalise, way.coefficients, paired=True
        )
        found = encoder.model.explain(
            encoder.as_input(case.queries), aim, layers=layers, batch_size=encoder.batch
        )
        maps[name] = [flow.map for flow in found.collect().flows]
    return maps


def layers_of(encoder: Encoder, case: Pairs) -> tuple[str, ...]:
    """Names of the layers whose flows are looked at, nearest to the input first."""
    target = nf.SimilarityTarget(case.references[FLOW][:1], metric=encoder.metric)
    every = encoder.model.explain(encoder.as_input(case.queries[:1]), target).layers
    return spaced(tuple(every), case.layers)


def measure(
    encoder: Encoder,
    case: Pairs,
    seed: int,
    ways: tuple[Way, ...] = WAYS,
    shares: tuple[float, ...] = SHARES,
) -> Rows:
    """Rows of both tables for one kind of pairs."""
    rng, layers = np.random.default_rng(seed), layers_of(encoder, case)
    wanted = case.references[FLOW]
    before = {
        name: encoder.similarity(encoder.embed(case.queries), reference)
        for name, reference in case.references.items()
    }

    everything = np.ones((len(wanted), 1, 1))
    blank = encoder.similarity(encoder.embed(without(case.queries, everything, 1.0)), wanted)
    similarity = {name: float(values.mean()) for name, values in before.items()}
    similarity["blank"] = float(blank.mean())

    def falls(removal: Removal, maps: list[np.ndarray], share: float) -> np.ndarray:
        """[layers, N]"""
        left = [removal(encoder, case.queries, m, share, wanted) for m in maps]
        return before[FLOW] - np.stack(left)

    by_chance: dict[tuple[str, float], np.ndarray] = {}
    rows: Rows = {"deletion": [], "halves": []}
    for way in ways:
        maps = flows(encoder, case, way, layers)
        for (how, removal), share in itertools.product(REMOVALS[encoder.metric], shares):
            if (how, share) not in by_chance:
                drawn = [[rng.random(m.shape) for m in maps[FLOW]] for _ in range(DRAWS)]
                by_chance[how, share] = np.mean([falls(removal, draw, share) for draw in drawn], axis=0)
            found = {name: falls(removal, own, share) for name, own in maps.items()}
            found[CELLS] = by_chance[how, share]
            facts = {"query": case.name, "pairs": len(wanted), "coefficients": str(way), "how": how}
            facts |= {"removed": share, "similarity": similarity}
            rows["deletion"].append(facts | _summary(found, layers, case.groups))
            leads = {name: (found[FLOW] - found[name]).mean(0).tolist() for name in CONTROLS}
            rows["deletion"][-1] |= {"each": leads, "groups": case.groups.tolist()}
        if case.first is not None:
            halves = {
                name: np.stack([matching_share(m, case.first, case.axis) for m in own])
                for name, own in maps.items()
            }
            rows["halves"].append(
                {"query": case.name, "coefficients": str(way)}
                | {name: interval(values.mean(0), case.groups) for name, values in halves.items()}
                | {"layers": dict(zip(layers, halves[FLOW].mean(1).tolist(), strict=True))}
            )
    return rows


def together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All kinds of pairs as one, for each way, removal and share; their groups are the same photographs."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault((row["coefficients"], row["how"], row["removed"]), []).append(row)
    found = []
    for kinds in alike.values():
        pairs = np.array([row["pairs"] for row in kinds])
        groups = np.concatenate([row["groups"] for row in kinds])
        means = {
            part: {
                name: float(np.average([row[part][name] for row in kinds], weights=pairs))
                for name in kinds[0][part]
            }
            for part in ("similarity", "fall")
        }
        leads = {name: np.concatenate([row["each"][name] for row in kinds]) for name in CONTROLS}
        facts = {key: kinds[0][key] for key in ("coefficients", "how", "removed")}
        lead = {name: interval(values, groups) for name, values in leads.items()}
        found.append({"query": "all of these", "pairs": int(pairs.sum())} | facts | means | {"lead": lead})
    return found


def _summary(falls: dict[str, np.ndarray], layers: tuple[str, ...], groups: np.ndarray) -> dict[str, Any]:
    """Means, and leads over the controls, from falls [layers, N]."""
    return {
        "fall": {name: float(values.mean()) for name, values in falls.items()},
        "lead": {name: interval((falls[FLOW] - falls[name]).mean(0), groups) for name in CONTROLS},
        "layers": {
            layer: {name: interval(falls[FLOW][i] - falls[name][i], groups, draws=2000) for name in CONTROLS}
            for i, layer in enumerate(layers)
        },
    }


def _print(titles: list[str], rows: list[list[str]]) -> None:
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


def report(found: Rows) -> None:
    """Print both tables."""
    _print(
        [
            "query",
            "pairs",
            "coefficients",
            "how",
            "removed",
            "before",
            "blank",
            *(f"fall: {name}" for name in (FLOW, *CONTROLS)),
        ]
        + [f"lead over {name}" for name in CONTROLS],
        [
            [row["query"], str(row["pairs"]), row["coefficients"], row["how"], f"{row['removed']:.0%}"]
            + [f"{row['similarity'][name]:.3f}" for name in (FLOW, "blank")]
            + [f"{row['fall'][name]:.3f}" for name in (FLOW, *CONTROLS)]
            + [str(row["lead"][name]) for name in CONTROLS]
            for row in found["deletion"]
        ],
    )
    _print(
        ["query", "coefficients", "share on the matching half: flow", REFERENCE, SHUFFLED],
        [
            [row["query"], row["coefficients"], *(str(row[name]) for name in (FLOW, REFERENCE, SHUFFLED))]
            for row in found["halves"]
        ],
    )


def main() -> None:
    """Print the tables, and write them as JSON on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = os.environ.get("NAFLOW_ZOO")
    names = (DIGITS, DESCRIPTORS, *(NETWORKS if folder else ()))
    parser.add_argument("--pairs", type=int, default=150, help="of digits")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=names, action="append", help="an encoder; all when left out")
    parser.add_argument("--default-only", action="store_true", help="leave the other coefficients out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    everything: dict[str, Rows] = {}
    for name in options.only or names:
        if name == DIGITS:
            encoder, cases = digits(options.pairs, options.seed)
            choices: dict[str, Any] = {}
        elif name == DESCRIPTORS:
            encoder, cases = digit_descriptors(options.pairs, options.seed)
            choices = {"ways": WAYS_OF[encoder.metric], "shares": SHARES[-1:]}
        else:
            encoder = encoder_of(Path(str(folder)), name)
            cases = photograph_pairs(encoder, Path(str(folder)), name, options.seed)
            choices = {"ways": WAYS_OF[encoder.metric], "shares": SHARES[-1:]}
        if options.default_only:
            choices["ways"] = (GRADIENT,)
        found: Rows = {"deletion": [], "halves": []}
        for case in cases:
            for table, rows in measure(encoder, case, options.seed, **choices).items():
                found[table] += rows
        if name not in (DIGITS, DESCRIPTORS):
            found["deletion"] += together(found["deletion"])
        everything[name] = found
        print(f"\n{name}, seed {options.seed}, {platform.processor() or platform.machine()}")
        report(found)
    if options.json:
        options.json.write_text(json.dumps(everything, default=asdict, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
