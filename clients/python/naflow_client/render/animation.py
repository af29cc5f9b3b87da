"""The layers of one picture as an animation, first layer to last."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from naflow_client._files import write_file
from naflow_client.errors import MapError
from naflow_client.render.overlays import ALPHA, LayerMap, tile

LONGER_SIDE = 400
NARROWEST = 200
_MARGIN = 6
_BAR = (18, 18, 26)
_TEXT = (240, 240, 245)
_QUIET = (165, 168, 182)
_ALERT = (255, 180, 84)


@dataclass(frozen=True, slots=True)
class Frame:
    """One step of the animation.

    Attributes:
        pixels: uint8 RGB [H, W, 3].
        title: first line of the caption bar.
        detail: second line.
        alert: shown in the second line in a warning colour instead, if not empty.
    """

    pixels: NDArray[np.uint8]
    title: str
    detail: str = ""
    alert: str = ""


def layer_frames(picture: ArrayLike, layers: Iterable[LayerMap], alpha: float = ALPHA) -> list[Frame]:
    """One frame per layer by rising index: overlay, index and tensor name, shape.

    Raises:
        MapError: if the picture or a map has the wrong shape.
    """
    frames = []
    for layer in sorted(layers, key=lambda item: item.index):
        pixels, reason = tile(picture, layer.map, alpha)
        shape = " x ".join(str(item) for item in layer.shape)
        frames.append(Frame(pixels, f"{layer.index}  {layer.tensor}", shape, reason))
    return frames


def write_gif(frames: Sequence[Frame], path: str | os.PathLike[str], ms: int = 400) -> Path:
    """Write an endless GIF, every frame with its caption bar. The same frames give the same bytes.

    Args:
        frames: at least one, all of one size; the longer side is reduced to 400 pixels.
        path: the file to write.
        ms: milliseconds per frame, a multiple of 10 from 20; the last frame stays three times as long.

    Raises:
        MapError: if there is no frame, sizes differ, or `ms` is below 20.
        OutputError: if the file cannot be written.
    """
    if not frames:
        raise MapError("an animation needs at least one frame", "there is no layer to show")
    if len({frame.pixels.shape for frame in frames}) > 1:
        raise MapError("the frames of an animation must have one size", "draw every layer over one picture")
    if ms < 20:
        raise MapError(f"a frame cannot be shown for {ms} ms", "use 20 or more")
    drawn = [_draw(frame, number + 1, len(frames)) for number, frame in enumerate(frames)]
    indexed = [_indexed(picture) for picture in drawn]
    durations = [ms // 10 * 10] * (len(frames) - 1) + [3 * ms // 10 * 10]
    stream = io.BytesIO()
    indexed[0].save(
        stream,
        "GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=durations,
        loop=0,
        disposal=1,
        optimize=False,
    )
    return write_file(path, stream.getvalue())


def _indexed(picture: Image.Image) -> Image.Image:
    """Down to 256 colours. Maximum coverage keeps the few bright pixels that matter most here."""
    palette = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _draw(frame: Frame, number: int, count: int) -> Image.Image:
    """The frame at its final size over the caption bar, with a progress line."""
    picture = Image.fromarray(frame.pixels)
    scale = min(1.0, LONGER_SIDE / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    font = ImageFont.load_default(13)
    line = 17
    width = max(size[0], NARROWEST)
    canvas = Image.new("RGB", (width, size[1] + 2 * line + 2 * _MARGIN), _BAR)
    canvas.paste(picture, ((width - size[0]) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    room = width - 2 * _MARGIN
    top = size[1] + _MARGIN + 1
    draw.rectangle((0, size[1], round(width * number / count) - 1, size[1] + 1), fill=_TEXT)
    draw.text((_MARGIN, top), _fit(draw, font, frame.title, room), _TEXT, font)
    second = (frame.alert, _ALERT) if frame.alert else (frame.detail, _QUIET)
    draw.text((_MARGIN, top + line), _fit(draw, font, second[0], room), second[1], font)
    return canvas


def _fit(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, room: int
) -> str:
    """Shorten in the middle, where tensor names differ least. The built-in font has Latin letters only."""
    shown = "".join(item if " " <= item <= "~" else "?" for item in text[:400])
    kept = len(shown)
    short = shown
    while draw.textlength(short, font) > room and kept > 4:
        kept -= 1
        short = f"{shown[: kept // 3]}...{shown[len(shown) - (kept - kept // 3) :]}"
    return short
