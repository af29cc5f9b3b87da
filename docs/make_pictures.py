"""The pictures in the documentation, from the demo network alone.

    python docs/make_pictures.py

writes docs/images/*.png. Needs an installed naflow and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import naflow_core as nf
from naflow_client import Preprocessing, load_picture
from naflow_client.render import tile

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples" / "digits_in_clutter"
IMAGES = ROOT / "docs" / "images"

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
    """One row of the comparison of presets."""
    (picture, _), *layers = explained(model, 4, method=nf.Method.preset(name))
    return [(picture, f"preset {name}"), *layers]


def main() -> None:
    model = nf.load(DEMO / "digits_in_clutter.onnx")
    IMAGES.mkdir(parents=True, exist_ok=True)
    pictures = {
        "layers.png": [explained(model, digit) for digit in (3, 7)],
        "presets.png": [preset(model, name) for name in nf.PRESETS],
    }
    for name, rows in pictures.items():
        grid(rows).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
