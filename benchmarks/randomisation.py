"""Do maps follow the weights? Rank correlation with the maps of the same network with shuffled weights.

    python benchmarks/randomisation.py [--zoo FOLDER] [--networks NAME ...] [--pictures N] [--scenes 100]
                                       [--draws 3] [--depth 2] [--json FILE]

The weights of the top blocks are shuffled, from the head down: 1 is the head alone, 2 head and top block (the
cascading randomisation of Adebayo et al., 2018). Every picture meets shufflings of its own. Absolute values
of Spearman's correlation at a shallow, a middle and a deep block, as mean and half the 95 % interval over
pictures. `hires-cam` and `layer-cam` are here the cascade without an inverse and without abandonment, which
gives the same maps wherever activations are not negative.

Networks and pictures are those of faithfulness.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from faithfulness import DIGITS, REAL, SEED, Case, digits, photographs
from service_process import machine

import naflow_core as nf
from naflow_core.evaluate.arrays import spearman
from naflow_core.evaluate.evaluation import spread
from naflow_core.evaluate.subject import Subject

METHODS = {
    **{name: nf.PRESETS[name] for name in ("default", "net", "positive")},
    "layer-cam": nf.PRESETS["published-code"],
    "hires-cam": nf.Method.preset("published-code", evidence="net"),
}
SHUFFLINGS = 1000
"""More than anyone draws for one picture."""


def correlations(case: Case, draws: int, depth: int) -> tuple[tuple[str, ...], np.ndarray]:
    """(layers, [method, picture, draw, layer] absolute rank correlations)."""
    layers = spread(Subject(case.model, batch=1))
    subject = Subject(case.model, layers=layers, batch=1)
    found = np.zeros((len(METHODS), len(case.pictures), draws, len(layers)))
    for number, picture in enumerate(case.pictures):
        scores = subject.scores(picture.x)[0]
        explained = np.array([max(picture.classes or [int(np.argmax(scores))], key=lambda k: scores[k])])
        first = [subject.flows(picture.x, explained, layers, method) for method in METHODS.values()]
        for draw in range(draws):
            other = subject.randomised(depth, SEED + SHUFFLINGS * number + draw)
            for row, (maps, method) in enumerate(zip(first, METHODS.values(), strict=True)):
                again = other.flows(picture.x, explained, layers, method)
                found[row, number, draw] = [
                    abs(spearman(maps[layer][0], again[layer][0])) for layer in layers
                ]
    return layers, found


def table(layers: tuple[str, ...], found: np.ndarray) -> Iterator[str]:
    """Markdown."""
    yield "| | " + " | ".join(layers) + " |"
    yield "| --- |" + " --- |" * len(layers)
    each = found.mean(axis=2)
    half = 1.96 * each.std(axis=1) / np.sqrt(each.shape[1])
    for name, means, halves in zip(METHODS, each.mean(axis=1), half, strict=True):
        cells = (f"{mean:.2f} ±{reach:.2f}" for mean, reach in zip(means, halves, strict=True))
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print a table for each network, and write them as JSON on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--pictures", type=int, help="photographs at most")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    record = {}
    for name in given.networks or (DIGITS, *(REAL if given.zoo else ())):
        case = digits(given.scenes) if name == DIGITS else photographs(given.zoo, name, given.pictures)
        layers, found = correlations(case, given.draws, given.depth)
        record[name] = {"layers": layers, "methods": list(METHODS), "mean": found.mean(axis=(1, 2)).tolist()}
        print(f"\n### {name}: {len(case.pictures)} pictures, {given.draws} shufflings each; {machine()}\n")
        print("\n".join(table(layers, found)), flush=True)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
