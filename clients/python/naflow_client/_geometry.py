"""Which part of a picture is seen, and at what size. Sizes are (height, width) in pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from naflow_client.errors import PictureError

DISPLAY_SMALLEST = 256
DISPLAY_LARGEST = 640

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the source picture."""


def scaled(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Shorter side to `shorter`, longer side in proportion, rounded down."""
    if height <= width:
        return shorter, max(shorter, shorter * width // height)
    return max(shorter, shorter * height // width), shorter


def covering(height: int, width: int, size: tuple[int, int], ratio: float) -> tuple[int, int]:
    """The smallest size in the picture's proportions that covers `ratio * size`."""
    rows, columns = round(ratio * size[0]), round(ratio * size[1])
    if rows * width >= columns * height:
        return rows, max(columns, rows * width // height)
    return max(rows, columns * height // width), columns


def crop_box(source: tuple[int, int], resized: tuple[int, int], size: tuple[int, int], name: str) -> Box:
    """The part of the source that a centre crop of `size` from the resized picture shows."""
    if resized[0] < size[0] or resized[1] < size[1]:
        raise PictureError(
            f"{name}: a crop of {size[0]} x {size[1]} does not fit in {resized[0]} x {resized[1]} "
            f"(height x width)",
            "make resize_shorter larger, or use crop_fraction",
        )
    top, left = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    rows, columns = source[0] / resized[0], source[1] / resized[1]
    right, bottom = (left + size[1]) * columns, (top + size[0]) * rows
    return left * columns, top * rows, min(right, float(source[1])), min(bottom, float(source[0]))


def central_box(height: int, width: int, size: tuple[int, int], fraction: float) -> Box:
    """The largest central window in the proportions of `size`, scaled by `fraction`, in whole pixels."""
    unit = min(height / size[0], width / size[1]) * fraction
    rows = min(height, max(1, round(unit * size[0])))
    columns = min(width, max(1, round(unit * size[1])))
    top, left = (height - rows) // 2, (width - columns) // 2
    return float(left), float(top), float(left + columns), float(top + rows)


def display(rgb: Image.Image, box: Box) -> NDArray[np.uint8]:
    """The box in its own proportions at a size for people."""
    width, height = box[2] - box[0], box[3] - box[1]
    longer = max(width, height)
    scale = min(max(longer, DISPLAY_SMALLEST), DISPLAY_LARGEST) / longer
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(rgb.resize(size, Image.Resampling.BILINEAR, box=box), dtype=np.uint8)
