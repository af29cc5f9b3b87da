"""How similar a query still is without the strongest cells of a map.

* `painted`: they get the query's median colour.
* `taken_out`: for local descriptors. The descriptors of these cells no longer count, and in the picture the
  cells are filled from their neighbours, ring by ring, so that those around them see neither a new edge nor a
  new colour. Paint does not remove a local descriptor, it puts another one in its place: a plain one, which
  has near neighbours in nearly every picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from similarity_cases import Encoder

from naflow_core.evaluate.arrays import fitted

Removal = Callable[[Encoder, np.ndarray, np.ndarray, float, np.ndarray], np.ndarray]


def strongest(maps: np.ndarray, share: float) -> np.ndarray:
    """bool [N, h, w]: the given share of the cells of each map, one at least."""
    count, cells = len(maps), max(1, round(share * maps[0].size))
    gone = np.zeros((count, maps[0].size), bool)
    np.put_along_axis(gone, np.argsort(-maps.reshape(count, -1), axis=1)[:, :cells], True, axis=1)
    return gone.reshape(maps.shape)


def spread(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cells [N, h, w] as pixels [N, height, width]."""
    rows, columns = (
        np.arange(large) * small // large
        for large, small in zip((height, width), cells.shape[1:], strict=True)
    )
    return cells[:, rows[:, None], columns]


def without(pictures: np.ndarray, maps: np.ndarray, share: float) -> np.ndarray:
    """The pictures with the strongest cells of their maps painted over.

    Args:
        pictures: uint8 [N, H, W] or [N, H, W, 3]; maps: [N, h, w]; share: of the cells.
    """
    gone = spread(strongest(maps, share), *pictures.shape[1:3])
    grey = np.median(pictures, axis=(1, 2), keepdims=True).astype(np.uint8)
    return np.where(gone.reshape(*gone.shape, *[1] * (pictures.ndim - 3)), grey, pictures)


def filled(pictures: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The pictures, uint8 [N, H, W] or [N, H, W, 3], with the pixels `gone` [N, H, W] filled from around."""
    known = ~gone.reshape(*gone.shape, *[1] * (pictures.ndim - 3))
    value, known = np.where(known, pictures, np.float32(0)), known.astype(np.float32)
    while not known.all():
        count = _around(known)
        fresh = (1 - known) * (count > 0)
        value = value + fresh * _around(value) / np.maximum(count, 1)
        known = known + fresh
    return np.rint(value).astype(np.uint8)


def _around(values: np.ndarray) -> np.ndarray:
    """Sum over the 3 x 3 pixels around each, itself included."""
    for axis in (1, 2):
        wide = np.pad(values, [(int(a == axis), int(a == axis)) for a in range(values.ndim)])
        size = values.shape[axis]
        values = sum(np.take(wide, range(i, i + size), axis) for i in range(3))  # type: ignore[assignment]
    return values


def painted(
    encoder: Encoder, pictures: np.ndarray, maps: np.ndarray, share: float, references: np.ndarray
) -> np.ndarray:
    """Similarity [N] that is left; see the module."""
    return encoder.similarity(encoder.embed(without(pictures, maps, share)), references)


def taken_out(
    encoder: Encoder, pictures: np.ndarray, maps: np.ndarray, share: float, references: np.ndarray
) -> np.ndarray:
    """Similarity [N] that is left; see the module. The cells are those of the descriptors."""
    grid = references.shape[2:]
    gone = strongest(fitted(maps, *grid), share)
    left = encoder.embed(filled(pictures, spread(gone, *pictures.shape[1:3])))
    return np.ma.masked_array(encoder.places(left, references), gone).mean(axis=(1, 2)).filled(0)


REMOVALS: dict[str, tuple[tuple[str, Removal], ...]] = {
    "cosine": (("painted", painted),),
    "image-to-class": (("taken out", taken_out), ("painted", painted)),
}
