"""Find a photograph again among others, and see by what.

    NAFLOW_ZOO=folder python examples/retrieval/retrieve.py --out out/retrieval

A re-identification network, OSNet x0.25, turns each picture into 512 numbers; pictures of the same thing lie
close together. The gallery is a crop of each photograph, the queries are other crops: looser, mirrored and
darker. Three commands do the rest; they are printed as they run, and can be typed as well:

* `naflow bank create`: the gallery's embeddings in one file;
* `naflow explain --bank`: who is nearest to each query, and what in the query makes it so;
* `naflow explain --reference --sides both`: the same about each query and the gallery picture of the same
  photograph, from either side.

NAFLOW_ZOO names a folder with models/osnet_x0_25_msmt17.onnx, pictures, and images/manifest.json: a list of
objects with the `path` of a picture, and in `boxes_xyxy` the (left, top, right, bottom) of what
it shows, in pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

import naflow_core as nf
from naflow_client import Preprocessing, load_picture

HERE = Path(__file__).resolve().parent
MODEL = "osnet_x0_25_msmt17.onnx"
QUERY_MARGIN, QUERY_BRIGHTNESS = 1.25, 0.8
NEIGHBOURS = 5


def make_pictures(zoo: Path, out: Path, count: int | None) -> list[tuple[Path, Path]]:
    """Write the crops, a gallery picture and a query of each photograph that shows one thing.

    Args:
        count: of the first so many photographs; None for all.

    Returns:
        (query, gallery) of each. A gallery picture lies in a folder of its own, whose name is its label.
    """
    entries = json.loads((zoo / "images" / "manifest.json").read_text())
    chosen = [entry for entry in entries if len(entry["boxes_xyxy"]) == 1][:count]
    pairs = []
    for entry in chosen:
        name = Path(entry["path"]).stem
        photograph = Image.open(zoo / entry["path"]).convert("RGB")
        box = tuple(entry["boxes_xyxy"][0])
        query, gallery = out / "queries" / f"{name}_query.png", out / "gallery" / name / f"{name}_gallery.png"
        for path in (query, gallery):
            path.parent.mkdir(parents=True, exist_ok=True)
        crop(photograph, box, 1.0).save(gallery)
        looser = ImageOps.mirror(crop(photograph, box, QUERY_MARGIN))
        ImageEnhance.Brightness(looser).enhance(QUERY_BRIGHTNESS).save(query)
        pairs.append((query, gallery))
    return pairs


def crop(photograph: Image.Image, box: tuple[int, ...], margin: float) -> Image.Image:
    """The box, `margin` times as large as far as the photograph goes."""
    left, top, right, bottom = box
    across, down = (right - left) * (margin - 1) / 2, (bottom - top) * (margin - 1) / 2
    return photograph.crop(
        (
            round(max(left - across, 0)),
            round(max(top - down, 0)),
            round(min(right + across, photograph.width)),
            round(min(bottom + down, photograph.height)),
        )
    )


def naflow(*arguments: object) -> None:
    """Print a command and run it."""
    words = [str(argument) for argument in arguments]
    print(f"$ {shlex.join(['naflow', *words])}", flush=True)
    subprocess.run([sys.executable, "-m", "naflow_cli.main", *words], check=True)


def recognised(model: Path, bank: Path, pairs: list[tuple[Path, Path]]) -> int:
    """To how many queries the bank's embedding of the same photograph is the nearest."""
    encoder, known, recipe = nf.load(model), nf.Bank.read(bank), Preprocessing.load(HERE / "preprocess.json")
    gallery = known.embeddings / np.linalg.norm(known.embeddings, axis=1, keepdims=True)
    right = 0
    for query, same in pairs:
        tensor = recipe.apply(load_picture(query), (1, 3, 256, 128)).array
        right += known.names[int((gallery @ encoder.embed(tensor)[0]).argmax())] == same.name
    return right


def main() -> None:
    """Make the pictures, run the commands, and say how often the right photograph is nearest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/retrieval"))
    parser.add_argument("--photographs", type=int, help="the first so many; all when left out")
    parser.add_argument("--explained", type=int, default=4, help="how many queries get flows")
    parser.add_argument("--layers", default="blocks", help="as for naflow explain")
    options = parser.parse_args()
    zoo, out = os.environ.get("NAFLOW_ZOO"), options.out
    if not zoo:
        parser.error("set NAFLOW_ZOO to a folder with models/ and images/")
    model, recipe = Path(zoo, "models", MODEL), ("--preprocess", HERE / "preprocess.json")
    pairs = make_pictures(Path(zoo), out, options.photographs)
    queries, gallery = zip(*pairs[: options.explained], strict=True)
    bank, layers = out / "bank.npz", ("--layers", options.layers)
    naflow("bank", "create", model, out / "gallery", *recipe, "--out", bank)
    nearest = ("--bank", bank, "--neighbours", NEIGHBOURS)
    naflow("explain", model, *queries, *nearest, *layers, "--out", out / "nearest")
    sides = [word for path in gallery for word in ("--reference", path)]
    naflow("explain", model, *queries, *sides, "--sides", "both", *recipe, *layers, "--out", out / "pairs")
    right = recognised(model, bank, pairs)
    print(f"the nearest gallery picture is of the same photograph for {right} of {len(pairs)} queries")
    print(f"reports: {out / 'nearest' / 'report.html'}, {out / 'pairs' / 'report.html'}")


if __name__ == "__main__":
    main()
