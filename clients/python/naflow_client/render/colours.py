"""The colour map.

Dark blue over purple, red and orange to pale yellow. Lightness rises steadily from end to end, so
the order of values survives every form of colour blindness and a black-and-white print; the hue
moves along the blue-yellow axis that red-green colour blindness leaves intact. The anchors are
joined in OKLab (Ottosson 2020) and re-spaced so that equal steps of the value are equal steps of
perceived colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from naflow_client.errors import MapError

ANCHORS: tuple[tuple[int, int, int], ...] = (
    (12, 12, 44),
    (52, 22, 104),
    (112, 30, 124),
    (172, 46, 104),
    (218, 80, 70),
    (242, 134, 50),
    (250, 192, 82),
    (253, 245, 190),
)
"""sRGB, for values evenly spread over [0, 1] up to the re-spacing."""

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def oklab(colours: ArrayLike) -> NDArray[np.float64]:
    """sRGB [..., 3] of 0..255 to OKLab (lightness 0..1, a, b)."""
    encoded = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T)


def _srgb(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3) @ np.linalg.inv(_TO_LMS).T
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255), dtype=np.uint8)


def _table(steps: int = 256) -> NDArray[np.uint8]:
    """Join the anchors in OKLab, then space the entries evenly along the curve."""
    anchors = oklab(ANCHORS)
    fine = np.linspace(0, len(anchors) - 1, 4096)
    curve = np.stack([np.interp(fine, np.arange(len(anchors)), anchors[:, i]) for i in range(3)], axis=1)
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    even = np.linspace(0, travelled[-1], steps)
    return _srgb(np.stack([np.interp(even, travelled, curve[:, i]) for i in range(3)], axis=1))


TABLE: NDArray[np.uint8] = _table()
"""uint8 [256, 3]: entry i is the colour of the value i / 255."""
TABLE.setflags(write=False)


def colour(values: ArrayLike) -> NDArray[np.uint8]:
    """Values in [0, 1] (clipped) to uint8 RGB [..., 3].

    Raises:
        MapError: on nan.
    """
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise MapError("nan has no colour", "look at the layer's diagnostics")
    return np.asarray(TABLE[np.rint(np.clip(array, 0, 1) * 255).astype(np.intp)])
