"""Small pictures of maps, for a report."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from naflow_core.evaluate.arrays import averaged

LARGEST = 56


def levels(values: np.ndarray) -> dict[str, Any]:
    """A map in 8 bits, made smaller where it is large; the levels are in base64."""
    height, width = (min(n, LARGEST) for n in values.shape)
    small = averaged(values, height, width)
    low, high = small.min(), small.max()
    bright = np.zeros(small.shape) if high <= low else (small - low) / (high - low)
    data = np.rint(bright * 255).astype(np.uint8).tobytes()
    return {"height": height, "width": width, "levels": base64.b64encode(data).decode("ascii")}
