"""A layer map over its picture, and one PNG per layer."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from naflow_client._files import write_file
from naflow_client.errors import MapError
from naflow_client.render.colours import colour
from naflow_client.render.scaling import MapState, map_state, normalise, upscale

ALPHA = 0.6
_REASONS = {"missing": "no map", "invalid": "map is not finite", "constant": "constant map"}


class LayerMap(Protocol):
    """What is drawn of a layer. `naflow_client.report.LayerReport` is one."""

    @property
    def index(self) -> int: ...
    @property
    def tensor(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def map(self) -> NDArray[np.floating] | None: ...


def overlay(picture: ArrayLike, values: ArrayLike, alpha: float = ALPHA) -> NDArray[np.uint8]:
    """The coloured map, min-max normalised and resized bilinearly, over a picture.

    Args:
        picture: uint8 RGB [H, W, 3].
        values: raw map [h, w].
        alpha: 0 shows the picture only, 1 the map only.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        MapError: if the picture is not uint8 RGB, alpha is outside 0..1, or the map cannot be drawn.
    """
    base = _picture(picture)
    if not 0 <= alpha <= 1:
        raise MapError(f"alpha is {alpha}", "it must be between 0 and 1")
    size = (base.shape[0], base.shape[1])
    coloured = colour(upscale(normalise(values).values, size)).astype(np.float64)
    return np.rint(alpha * coloured + (1 - alpha) * base).astype(np.uint8)


def tile(picture: ArrayLike, values: ArrayLike | None, alpha: float = ALPHA) -> tuple[NDArray[np.uint8], str]:
    """An overlay, or for a map that has nothing to show a hatched grey picture and the reason.

    Returns:
        (uint8 RGB [H, W, 3], reason or "").
    """
    state: MapState = map_state(values)
    if state == "ok" and values is not None:
        return overlay(picture, values, alpha), ""
    base = _picture(picture)
    grey = base.astype(np.float64).mean(axis=2, keepdims=True) * 0.35 + 90
    rows, columns = np.indices(base.shape[:2])
    stripes = ((rows + columns) // 8 % 2 == 0)[:, :, np.newaxis]
    hatched = np.where(stripes, grey, grey * 0.8)
    return np.rint(np.repeat(hatched, 3, axis=2)).astype(np.uint8), _REASONS[state]


def write_overlays(
    directory: str | os.PathLike[str], picture: ArrayLike, layers: Iterable[LayerMap], alpha: float = ALPHA
) -> list[Path]:
    """Write `NNN-tensor-name.png` per layer at the picture's size, in the order given.

    A map that cannot be drawn gives a hatched grey picture, and its file name ends in the reason.

    Raises:
        MapError: if the picture or a map has the wrong shape.
        OutputError: if a file cannot be written.
    """
    paths = []
    for layer in layers:
        pixels, reason = tile(picture, layer.map, alpha)
        suffix = f".{reason.replace(' ', '-')}" if reason else ""
        name = f"{layer.index:03d}-{_slug(layer.tensor)}{suffix}.png"
        paths.append(write_file(Path(directory) / name, png(pixels)))
    return paths


def png(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 RGB or grey pixels as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=False, compress_level=6)
    return stream.getvalue()


def _slug(name: str) -> str:
    """A tensor name as part of a file name: letters that every file system takes, bounded length."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:80] or "tensor"


def _picture(picture: ArrayLike) -> NDArray[np.uint8]:
    base = np.asarray(picture)
    if base.ndim != 3 or base.shape[2] != 3 or base.dtype != np.uint8 or base.size == 0:
        raise MapError(f"a picture must be uint8 [H, W, 3], this one is {base.dtype} {list(base.shape)}")
    return base
