"""Maps of the input from what happens to the score when parts of the picture are hidden.

What is hidden takes the picture's own mean colour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from naflow_core.evaluate.arrays import enlarged
from naflow_core.evaluate.rivals.input_gradients import flat_colour
from naflow_core.evaluate.rivals.registry import register
from naflow_core.evaluate.subject import Subject

OCCLUSION = "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2014"
MOST_MASKS = 64
RISE = "Petsiuk, Das and Saenko, RISE, 2018"


@register("occlusion", resolution="input", runs=170, source=OCCLUSION)
def occlusion(
    subject: Subject,
    x: np.ndarray,
    classes: np.ndarray,
    _layer: str,
    _random: np.random.Generator,
    *,
    windows: int = 7,
) -> np.ndarray:
    """How much the class score falls when a window is hidden, averaged over the windows that hide a pixel.

    Args:
        windows: how many fit side by side; they overlap by half.
    """
    height, width = subject.layer(subject.source).resolution
    places = list(itertools.product(_spans(height, windows), _spans(width, windows)))
    shown = np.ones((len(places), height, width), np.float32)
    for mask, (rows, columns) in zip(shown, places, strict=True):
        mask[rows, columns] = 0
    hidden = 1 - shown
    maps = []
    for picture, kind in zip(np.split(x, len(x)), classes, strict=True):
        before = subject.scores(picture)[0, kind]
        falls = before - np.concatenate(
            [subject.scores(_behind(subject, picture, part))[:, kind] for part in _portions(shown)]
        )
        maps.append(np.tensordot(falls, hidden, 1) / hidden.sum(axis=0))
    return np.maximum(np.stack(maps), 0)


@register("rise", resolution="input", runs=256, source=RISE)
def rise(
    subject: Subject,
    x: np.ndarray,
    classes: np.ndarray,
    _layer: str,
    random: np.random.Generator,
    *,
    masks: int = 256,
    cells: int = 7,
    kept: float = 0.5,
) -> np.ndarray:
    """Mean of random smooth masks, each weighted by the class's probability behind it.

    Args:
        masks: how many; the paper takes thousands.
        cells: of a mask's coarse grid along each axis.
        kept: chance that a cell is shown.
    """
    shown = _smooth_masks(masks, cells, kept, subject.layer(subject.source).resolution, random)
    maps = []
    for picture, kind in zip(np.split(x, len(x)), classes, strict=True):
        found = np.zeros(shown.shape[1:])
        for part in _portions(shown):
            likely = subject.probabilities(_behind(subject, picture, part))[:, kind]
            found += np.tensordot(likely, part, 1)
        maps.append(found / (masks * kept))
    return np.stack(maps)


def _spans(size: int, windows: int) -> list[slice]:
    """Half-overlapping windows that cover an axis."""
    length = max(1, round(size / windows))
    stride = max(1, length // 2)
    begins = list(range(0, size - length, stride)) + [size - length]
    return [slice(begin, begin + length) for begin in begins]


def _portions(masks: np.ndarray) -> Iterator[np.ndarray]:
    """So many that as many copies of a picture are no burden."""
    for begin in range(0, len(masks), MOST_MASKS):
        yield masks[begin : begin + MOST_MASKS]


def _behind(subject: Subject, picture: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """One picture [1, ...] behind each of the masks [M, H, W]."""
    flat = flat_colour(subject, picture)
    masks = subject.layer(subject.source).axes.spread(shown)
    return (flat + masks * (picture - flat)).astype(np.float32)


def _smooth_masks(
    count: int, cells: int, kept: float, resolution: tuple[int, int], random: np.random.Generator
) -> np.ndarray:
    """[count, H, W]: coarse random grids, enlarged to a cell more than the picture, cut at a random place."""
    height, width = resolution
    tall, wide = -(-height // cells), -(-width // cells)
    grids = (random.random((count, cells, cells)) < kept).astype(np.float32)
    shifts = random.integers(0, (tall, wide), (count, 2))
    masks = np.empty((count, height, width), np.float32)
    for mask, grid, (down, right) in zip(masks, grids, shifts, strict=True):
        large = enlarged(grid, (cells + 1) * tall, (cells + 1) * wide)
        mask[:] = large[down : down + height, right : right + width]
    return masks
