"""The pictures in the documentation, from the demo network alone.

    python docs/make_pictures.py
    python docs/make_pictures.py --zoo FOLDER --out FOLDER

writes docs/images/*.png; needs an installed naflow with the extra `examples`. With --zoo, a sheet for each of
the trained networks in FOLDER/models instead, over the photographs in FOLDER/images, into --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import naflow_core as nf
from naflow_client import Preprocessing, load_picture
from naflow_client.render import tile

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples" / "digits_in_clutter"
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(DEMO))

from dataset import as_input, load_sources, scenes  # noqa: E402  (a folder of scripts, not a package)

SEED = 20
MARGIN = 8
"""Pixels between the two digits of one scene."""
SEARCHED = 400
"""Scenes among which the wrongly classified ones are looked for."""
REAL = {
    "squeezenet11_fp32_winml": ("glow_zebra_340.png", "omnixai_elephant.jpg", "utku_cat_dog.png"),
    "mobilenetv2_100_224_tf_logits": ("burn_cat.jpg", "ortex_goldfish.jpg", "utku_cat_dog.png"),
    "mobilenetv1_025_128_tf_logits": ("winml_lobster.jpg", "burn_coyote.jpg", "utku_cat_dog.png"),
}
RECIPE = ("channels", "size", "resize_shorter", "crop", "crop_fraction", "subtract", "divide")

SIDE, GAP, BAR = 150, 8, 20
PAPER, INK = (255, 255, 255), (60, 60, 70)
SHOWN = ("top_relu", "block_pool", "widen_pool", "stem_pool")

Tile = tuple[np.ndarray, str]


def grid(rows: list[list[Tile]]) -> Image.Image:
    """Tiles with a caption under each."""
    width = len(rows[0]) * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, len(rows) * (SIDE + BAR + GAP) + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, row in enumerate(rows):
        for j, (pixels, caption) in enumerate(row):
            left, top = GAP + j * (SIDE + GAP), GAP + i * (SIDE + BAR + GAP)
            sheet.paste(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR), (left, top))
            draw.text((left + SIDE // 2, top + SIDE + BAR // 2), caption, INK, font, anchor="mm")
    return sheet


def explained(model: nf.Model, digit: int, **options: object) -> list[Tile]:
    """The picture, then chosen layers over it, deepest first."""
    recipe = Preprocessing.from_file(DEMO / "preprocess.json")
    shape = model.inputs[0].shape
    assert shape is not None
    prepared = recipe.apply(load_picture(DEMO / "inputs" / f"digit_{digit}.png"), shape)
    flows = model.explain(prepared.array, layers=SHOWN, **options)  # type: ignore[arg-type]
    tiles: list[Tile] = [(prepared.display, f"a {digit} in clutter")]
    return tiles + [(tile(prepared.display, flow.map[0])[0], flow.tensor) for flow in flows]


def preset(model: nf.Model, name: str) -> list[Tile]:
    """One row of the comparison of presets, below the top feature map, where they differ little."""
    (picture, _), _, *layers = explained(model, 4, method=nf.Method.preset(name))
    return [(picture, f"preset {name}"), *layers]


def classes(model: nf.Model, x: np.ndarray, picture: np.ndarray, numbers: Sequence[int]) -> list[list[Tile]]:
    """The same picture [1, ...] explained for several classes, a row each."""
    rows = []
    for number in numbers:
        flows = model.explain(x, nf.ClassTarget(number), layers=SHOWN)
        maps = [(tile(picture, flow.map[0])[0], flow.tensor) for flow in flows]
        rows.append([(picture, f"why a {number}?"), *maps])
    return rows


def mistaken(model: nf.Model) -> list[list[Tile]]:
    """The scene that is most surely taken for something else: the class it is taken for, and its own."""
    drawn = list(scenes(load_sources("test"), SEARCHED, SEED))
    x = as_input(np.stack([scene.picture for scene in drawn]))
    scores = np.concatenate([model.explain(part, layers=SHOWN[:1]).prediction.logits for part in batches(x)])
    own = np.array([scene.label for scene in drawn])
    margin = scores.max(axis=1) - scores[np.arange(len(own)), own]
    worst = int(margin.argmax())
    if margin[worst] == 0:
        raise SystemExit(f"all {SEARCHED} scenes are classified right")
    picture = np.repeat(drawn[worst].picture[..., None], 3, axis=2)
    return classes(model, x[worst : worst + 1], picture, (int(scores[worst].argmax()), int(own[worst])))


def batches(x: np.ndarray) -> list[np.ndarray]:
    """A hundred at a time."""
    return [x[i : i + 100] for i in range(0, len(x), 100)]


def two_digits(model: nf.Model) -> list[list[Tile]]:
    """Two digits in one scene, each explained."""
    drawn = list(scenes(load_sources("test"), SEARCHED, SEED))
    for first in drawn:
        for second in drawn:
            apart = first.box[2] + MARGIN <= second.box[0]
            if apart and first.label != second.label:
                blank = np.clip(second.ink[..., None], 0, 1)
                pixels = first.picture[..., None] * (1 - blank) + 230 * blank
                picture = np.repeat(np.rint(pixels).astype(np.uint8), 3, axis=2)
                x = as_input(picture[None, ..., 0])
                best = model.explain(x, layers=SHOWN[:1]).prediction.logits[0].argsort()[::-1][:2]
                if set(best.tolist()) == {first.label, second.label}:
                    return classes(model, x, picture, (first.label, second.label))
    raise SystemExit("no two scenes go together")


def photographs(zoo: Path, name: str, files: Sequence[str]) -> list[list[Tile]]:
    """A trained network's predicted class on photographs; the right one beside it where that is another, and
    that of each object where several are in sight."""
    facts = json.loads((zoo / "models" / "manifest.json").read_text(encoding="utf-8"))[f"{name}.onnx"]
    model = nf.load(zoo / "models" / f"{name}.onnx")
    labels = nf.Labels.read(zoo / "labels" / facts["labels"])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "preprocess.json")
        file.write_text(json.dumps({k: facts[k] for k in RECIPE if k in facts}), encoding="utf-8")
        recipe = Preprocessing.from_file(file)
    entries = json.loads((zoo / "images" / "manifest.json").read_text(encoding="utf-8"))
    known = {Path(entry["path"]).name: entry for entry in entries}
    shift = 1 if "background" in facts["labels"] else 0
    shape: Any = model.inputs[0].shape
    rows = []
    for file_name in files:
        prepared = recipe.apply(load_picture(zoo / "images" / file_name), shape)
        blocks = model.inspect().to_dict()["blocks"]
        shown = [blocks[round(share * (len(blocks) - 1))] for share in (1, 0.75, 0.5, 0.25, 0)]
        logits = model.explain(prepared.array, layers=shown[:1]).prediction.logits[0]
        own = [k + shift for k in known[file_name]["imagenet_labels"]]
        several = len(own) == len(known[file_name]["boxes_xyxy"]) > 1
        best = int(logits.argmax())
        for k in own if several else [best] if best in own else [best, own[0]]:
            title = labels.fitted(len(logits)).title(k).split(",")[0][:22]
            flows = model.explain(prepared.array, nf.ClassTarget(k), layers=shown)
            maps = [(tile(prepared.display, f.map[0])[0], "x".join(map(str, f.map.shape[1:]))) for f in flows]
            rows.append([(prepared.display, title), *maps])
    return rows


def main(zoo: Path | None = None, out: Path | None = None) -> None:
    """Draw the sheets of the documentation, or those of a folder of trained networks."""
    out = out or IMAGES
    out.mkdir(parents=True, exist_ok=True)
    if zoo is not None:
        pictures = {f"{name}.png": photographs(zoo, name, files) for name, files in REAL.items()}
    else:
        model = nf.load(DEMO / "digits_in_clutter.onnx")
        pictures = {
            "layers.png": [explained(model, digit) for digit in (3, 7)],
            # "net" looks like "default" here
            "presets.png": [preset(model, name) for name in nf.PRESETS if name != "net"],
            "mistaken.png": mistaken(model),
            "two_digits.png": two_digits(model),
        }
    for name, rows in pictures.items():
        grid(rows).save(out / name, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
