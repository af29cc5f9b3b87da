"""Values and sizes: min-max to [0, 1], bilinear resize with half-pixel centres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from naflow_client.errors import MapError

MapState = Literal["ok", "constant", "invalid", "missing"]

# Spans below this share of the largest magnitude are rounding noise of float32 sums; stretching
# them to [0, 1] would draw a structure that is not there.
FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class Normalised:
    """A map in [0, 1].

    Attributes:
        values: float32 [h, w]; zeros for a constant map.
        constant: whether the map has no structure to show.
        low, high: the raw values that became 0 and 1.
    """

    values: NDArray[np.float32]
    constant: bool
    low: float
    high: float


def map_state(values: ArrayLike | None) -> MapState:
    """What can be shown: "missing" (None or empty), "invalid" (nan, inf), "constant", or "ok".

    Raises:
        MapError: if it is not a real array of two axes.
    """
    if values is None:
        return "missing"
    array = _two_axes(values)
    if array.size == 0:
        return "missing"
    if not np.isfinite(array).all():
        return "invalid"
    low, high = float(array.min()), float(array.max())
    return "constant" if high - low <= FLAT * max(abs(low), abs(high)) else "ok"


def normalise(values: ArrayLike) -> Normalised:
    """Min-max to [0, 1], per map. A constant map becomes zeros and is flagged.

    Args:
        values: [h, w] of any real dtype.

    Raises:
        MapError: if the map is empty, not [h, w], or holds nan or inf.
    """
    state = map_state(values)
    if state in ("missing", "invalid"):
        problem = "holds nan or infinite values" if state == "invalid" else "is empty"
        raise MapError(f"the map {problem}", "it cannot be drawn; look at the layer's diagnostics")
    array = np.asarray(values, dtype=np.float64)
    low, high = float(array.min()), float(array.max())
    if state == "constant":
        return Normalised(np.zeros(array.shape, np.float32), True, low, high)
    # Halved, so that a span beyond the largest double stays finite.
    scaled = (array / 2 - low / 2) / (high / 2 - low / 2)
    return Normalised(scaled.astype(np.float32), False, low, high)


def upscale(values: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear resize with half-pixel centres and clamped edges, no antialiasing.

    The centre of output cell i lies at (i + 0.5) * n / N - 0.5 of the input, the convention of
    `align_corners=False`.

    Args:
        values: [h, w].
        size: (H, W) in pixels, at least (1, 1).

    Returns:
        float32 [H, W], within the range of the input.

    Raises:
        MapError: if the map is not a non-empty [h, w], or the size is not positive.
    """
    array = _two_axes(values).astype(np.float64)
    if array.size == 0 or min(size) < 1:
        raise MapError(f"a map of {list(array.shape)} cannot be resized to {list(size)}")
    rows = _lerp(array, size[0])
    return _lerp(rows.T, size[1]).T.astype(np.float32)


def _lerp(array: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Resample the first axis."""
    length = array.shape[0]
    centres = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
    before = np.floor(centres).astype(np.intp)
    after = np.minimum(before + 1, length - 1)
    share = (centres - before)[:, np.newaxis]
    return np.asarray(array[before] * (1 - share) + array[after] * share)


def _two_axes(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise MapError(
            f"a map must be a real array [h, w], this one is {array.dtype} {list(array.shape)}",
            "draw one picture of a batch at a time",
        )
    return array
