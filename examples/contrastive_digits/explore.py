"""Three questions to the encoder, each answered with layer flows.

    python examples/contrastive_digits/explore.py --out out/contrastive_digits

* bank: which labelled pictures are nearest, and what in the query makes them so?
* episode: of five digits with one picture each, which is it, and why?
* pair: what do two pictures have in common, seen from either side?

Prints the answers, and writes the bank (bank.npz) and a picture of each answer: a row has the explained
picture, what it was compared with, and the flow of every layer from the input to the top. The bank is made of
scans that the encoder was trained on, the pictures in inputs/ are of others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import naflow_core as nf
from measures import NEIGHBOURS, TEMPERATURE
from naflow_client import Preprocessing, load_picture
from naflow_client.render import tile
from views import SIZE, as_input, draw, load_scans

HERE = Path(__file__).resolve().parent
BANK_SEED = 2
SHOWN_NEIGHBOURS = 5
TILE, GAP = 128, 4

Layers = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Row:
    """One answer: the explained picture and its references, uint8 [32, 32] each, and the maps of its layers
    from the input to the top, [h, w] each."""

    picture: np.ndarray
    references: Sequence[np.ndarray]
    maps: Sequence[np.ndarray]


def make_bank(model: nf.Model, count: int | None = None) -> nf.Bank:
    """A bank of one view of each training scan, or of the first `count` of them."""
    scans = load_scans("train")
    views = draw(scans, np.arange(len(scans.images))[:count], np.random.default_rng(BANK_SEED))
    return nf.Bank(
        embeddings=model.embed(as_input(views.pictures), batch_size=128),
        labels=[str(label) for label in views.labels],
        model_sha256=model.sha256,
        output=model.outputs[0].name,
        preprocess=json.loads((HERE / "preprocess.json").read_text()),
        thumbnails=np.repeat(views.pictures[..., None], 3, axis=3),
    )


def ask_bank(
    model: nf.Model, bank: nf.Bank, pictures: np.ndarray, layers: Layers = "blocks"
) -> tuple[nf.Prediction, list[Row]]:
    """The label that the nearest neighbours of each picture vote for, with its nearest ones of that label.

    Args:
        pictures: uint8 [N, 32, 32].
        layers: whose flows are wanted, as for `Model.explain`.
    """
    assert bank.thumbnails is not None
    target = nf.BankTarget(bank, k=NEIGHBOURS, temperature=TEMPERATURE)
    result = model.explain(as_input(pictures), target, layers=layers).collect()
    rows = []
    for i, (picture, compared) in enumerate(zip(pictures, _neighbours(result), strict=True)):
        used = [neighbour.index for neighbour in compared if neighbour.used][:SHOWN_NEIGHBOURS]
        rows.append(Row(picture, [bank.thumbnails[j, :, :, 0] for j in used], _maps(result, i)))
    return result.prediction, rows


def ask_episode(
    model: nf.Model,
    supports: np.ndarray,
    labels: Sequence[int],
    pictures: np.ndarray,
    layers: Layers = "blocks",
) -> tuple[nf.Prediction, list[Row]]:
    """The way of each picture in an episode, most similar first among its references.

    Args:
        supports: uint8 [S, 32, 32]; labels: [S]; pictures: uint8 [N, 32, 32]; layers: as in `ask_bank`.
    """
    target = nf.PrototypeTarget(model.embed(as_input(supports)), labels)
    result = model.explain(as_input(pictures), target, layers=layers).collect()
    rows = []
    for i, (picture, compared) in enumerate(zip(pictures, _neighbours(result), strict=True)):
        ordered = [supports[list(map(str, labels)).index(way.label)] for way in compared]
        rows.append(Row(picture, ordered, _maps(result, i)))
    return result.prediction, rows


def ask_pairs(
    model: nf.Model, first: np.ndarray, second: np.ndarray, layers: Layers = "blocks"
) -> tuple[np.ndarray, list[Row]]:
    """The similarity [N] of the pictures of each pair, and two rows for each: what either side contributes.

    Args:
        first, second: uint8 [N, 32, 32]; layers: as in `ask_bank`.
    """
    explained = nf.explain_pair(model, as_input(first), as_input(second), layers=layers)
    similarity = explained.similarity
    assert explained.query is not None
    assert explained.gallery is not None
    query, gallery = explained.query.collect(), explained.gallery.collect()
    rows = []
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        rows += [Row(one, [other], _maps(query, i)), Row(other, [one], _maps(gallery, i))]
    return similarity, rows


def sheet(rows: Sequence[Row]) -> Image.Image:
    """The rows as one picture: explained picture, references, and the flows from the input to the top."""
    tiles = [
        [*(_enlarged(p) for p in (row.picture, *row.references)), *_overlays(row.picture, row.maps)]
        for row in rows
    ]
    width = max(map(len, tiles)) * (TILE + GAP) - GAP
    page = Image.new("RGB", (width, len(rows) * (TILE + GAP) - GAP), "white")
    for i, line in enumerate(tiles):
        for j, pixels in enumerate(line):
            page.paste(Image.fromarray(pixels), (j * (TILE + GAP), i * (TILE + GAP)))
    return page


def shipped(role: str) -> tuple[list[str], np.ndarray, list[int]]:
    """Names, pictures uint8 [N, 32, 32] and labels of the "query" or "support" pictures in inputs/."""
    truth = json.loads((HERE / "inputs" / "truth.json").read_text())
    names = [name for name in truth if name.startswith(role)]
    recipe = Preprocessing.load(HERE / "preprocess.json")
    shape = (1, 1, SIZE, SIZE)
    arrays = [recipe.apply(load_picture(HERE / "inputs" / name), shape).array for name in names]
    pictures = np.rint(np.concatenate(arrays)[:, 0] * 255).astype(np.uint8)
    return names, pictures, [truth[name]["label"] for name in names]


def _neighbours(result: nf.Result) -> Iterable[Sequence[nf.Neighbour]]:
    assert result.prediction.similarity is not None
    return result.prediction.similarity.neighbours


def _maps(result: nf.Result, picture: int) -> list[np.ndarray]:
    return [flow.map[picture] for flow in result.flows]


def _enlarged(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST))


def _overlays(picture: np.ndarray, maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    large = _enlarged(picture)
    return [tile(large, values)[0] for values in maps]


def main() -> None:
    """Ask the three questions about the pictures in inputs/."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/contrastive_digits"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    model = nf.load(HERE / "contrastive_digits.onnx")
    names, queries, digits = shipped("query")
    _, supports, labels = shipped("support")

    bank = make_bank(model)
    bank.save(out / "bank.npz")
    voted, rows = ask_bank(model, bank, queries)
    sheet(rows).save(out / "bank.png")
    facts = voted.similarity
    assert facts is not None
    for i, name in enumerate(names):
        share = voted.scores[i, voted.target[i]]
        print(
            f"bank: {name} is a {facts.candidates[voted.target[i]]} with {share:.0%} of the votes of "
            f"{len(facts.neighbours[i])} neighbours; mean similarity {facts.score[i]:.2f}"
        )

    decided, rows = ask_episode(model, supports, labels, queries)
    sheet(rows).save(out / "episode.png")
    facts = decided.similarity
    assert facts is not None
    for i, name in enumerate(names):
        ways = ", ".join(f"{way.label} {way.similarity:.2f}" for way in facts.neighbours[i])
        print(f"episode: {name} is nearest to {facts.neighbours[i][0].label}; similarities {ways}")

    same = supports[[labels.index(digit) for digit in digits]]
    similarity, rows = ask_pairs(model, queries, same)
    sheet(rows).save(out / "pair.png")
    for name, value in zip(names, similarity, strict=True):
        print(f"pair: {name} and the support of the same digit, similarity {value:.2f}")
    print(f"pictures and bank are in {out}")


if __name__ == "__main__":
    main()
