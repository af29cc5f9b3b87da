"""Handwritten digits hidden in clutter, with the box of each digit known exactly.

A scene is a 64x64 grey picture with one whole digit, 20 to 28 pixels high, at a random place. Around
it lie pieces of other digits and pen strokes, which may touch the digit's box but hardly enter it;
soft blobs, an uneven background and noise lie beneath everything.
The digits are scikit-learn's `load_digits` (8x8 scans of real handwriting, 1797 of them). Sources are
split by digit image, so that no scan seen in training appears in a test scene, not even as clutter.

Only numpy is used to draw, so one seed gives the same pictures everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.datasets import load_digits

SIZE = 64
CLASSES = 10
MIN_DIGIT, MAX_DIGIT = 20, 28
TEST_SHARE = 0.25
SPLIT_SEED = 20
INK_FLOOR = 0.1
MAX_INTRUSION = 0.04  # how much of the digit's box one piece of clutter may cover

Split = Literal["train", "test"]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Sources:
    """The digit scans of one split: `images` float32 [count, 8, 8] in 0..1, `labels` and the position
    `rows` of each in scikit-learn's data set."""

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture with its truth.

    Attributes:
        picture: uint8 [64, 64].
        label: 0 to 9.
        box: (left, top, right, bottom) of the digit's ink in pixels, right and bottom exclusive.
        ink: float32 [64, 64], how much of each pixel the digit covers, 0..1; zero outside the box.
        backdrop: float32 [64, 64], the scene before the digit and the noise were added.
    """

    picture: np.ndarray
    label: int
    box: Box
    ink: np.ndarray
    backdrop: np.ndarray


def load_sources(split: Split) -> Sources:
    """The digit scans of a split; a quarter of each class is held out for testing."""
    data = load_digits()
    rng = np.random.default_rng(SPLIT_SEED)
    chosen: list[np.ndarray] = []
    for label in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(data.target == label))
        cut = round(len(rows) * TEST_SHARE)
        chosen.append(rows[:cut] if split == "test" else rows[cut:])
    rows = np.sort(np.concatenate(chosen))
    images = (data.images[rows] / 16.0).astype(np.float32)
    return Sources(images, data.target[rows].astype(np.int64), rows)


def scenes(sources: Sources, count: int, seed: int) -> Iterator[Scene]:
    """`count` scenes; the same sources and seed give the same scenes."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield draw_scene(sources, rng)


def draw_scene(sources: Sources, rng: np.random.Generator) -> Scene:
    """One scene with a random digit of `sources`."""
    pick = int(rng.integers(len(sources.images)))
    ink, box = _place(sources.images[pick], rng)
    backdrop = _backdrop(sources, box, rng)
    brightness = rng.uniform(0.75, 1.0)
    picture = backdrop * (1.0 - ink) + brightness * ink
    picture = picture + rng.normal(0.0, rng.uniform(0.01, 0.04), picture.shape)
    grey = np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Scene(grey, int(sources.labels[pick]), box, ink, backdrop)


def as_input(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, 64, 64] to the network's input, float32 [N, 1, 64, 64] in 0..1."""
    return (pictures.astype(np.float32) / np.float32(255.0))[:, None]


def _place(digit: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Box]:
    """The digit scaled and put somewhere in an empty picture, and the box of its ink."""
    height = int(rng.integers(MIN_DIGIT, MAX_DIGIT + 1))
    width = int(np.clip(round(height * rng.uniform(0.85, 1.15)), MIN_DIGIT, MAX_DIGIT))
    scaled = _resize(digit, height, width)
    scaled = np.where(scaled < INK_FLOOR, np.float32(0.0), np.minimum(scaled * 1.25, 1.0))
    top = int(rng.integers(0, SIZE - height + 1))
    left = int(rng.integers(0, SIZE - width + 1))
    ink = np.zeros((SIZE, SIZE), np.float32)
    ink[top : top + height, left : left + width] = scaled
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _backdrop(sources: Sources, box: Box, rng: np.random.Generator) -> np.ndarray:
    """Everything but the digit: uneven grey, blobs, strokes and pieces of other digits."""
    canvas = _resize(rng.uniform(0.0, 0.3, (4, 4)), SIZE, SIZE)
    for _ in range(int(rng.integers(2, 6))):
        canvas = _over(canvas, _blob(rng), rng.uniform(0.2, 0.5))
    for _ in range(int(rng.integers(3, 7))):
        canvas = _over(canvas, _clear_of(box, _stroke(rng)), rng.uniform(0.4, 0.95))
    for _ in range(int(rng.integers(6, 12))):
        canvas = _over(canvas, _clear_of(box, _fragment(sources, rng)), rng.uniform(0.5, 0.95))
    return canvas


def _clear_of(box: Box, cover: np.ndarray) -> np.ndarray:
    """The piece of clutter, or nothing where it would cover too much of the digit's box."""
    left, top, right, bottom = box
    intrusion = cover[top:bottom, left:right].mean()
    return cover if intrusion <= MAX_INTRUSION else np.zeros_like(cover)


def _over(canvas: np.ndarray, cover: np.ndarray, brightness: float) -> np.ndarray:
    result: np.ndarray = canvas * (1.0 - cover) + np.float32(brightness) * cover
    return result


def _fragment(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """A 3x3 to 4x4 piece of a digit scan, turned at random: real ink, too little to read a digit from."""
    digit = sources.images[int(rng.integers(len(sources.images)))]
    height, width = (int(n) for n in rng.integers(3, 5, 2))
    row, column = int(rng.integers(0, 9 - height)), int(rng.integers(0, 9 - width))
    piece = np.rot90(digit[row : row + height, column : column + width], int(rng.integers(4)))
    piece = np.pad(piece, 1)  # so that the cut edges come out soft, like the digit's own
    scale = rng.uniform(2.5, 3.5)
    tall, wide = (round(side * scale) for side in piece.shape)
    top, left = int(rng.integers(0, SIZE - tall + 1)), int(rng.integers(0, SIZE - wide + 1))
    cover = np.zeros((SIZE, SIZE), np.float32)
    cover[top : top + tall, left : left + wide] = np.minimum(_resize(piece, tall, wide) * 1.25, 1.0)
    return cover


def _stroke(rng: np.random.Generator) -> np.ndarray:
    """A straight pen stroke, 6 to 18 pixels long, with soft edges."""
    start = rng.uniform(0.0, SIZE, 2)
    angle, length = rng.uniform(0.0, np.pi), rng.uniform(6.0, 18.0)
    along = np.array([np.sin(angle), np.cos(angle)])
    offset = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), -1) - start
    nearest = np.clip(offset @ along, 0.0, length)[..., None] * along
    distance = np.linalg.norm(offset - nearest, axis=-1)
    cover: np.ndarray = np.clip(rng.uniform(1.2, 2.2) - distance + 0.5, 0.0, 1.0).astype(np.float32)
    return cover


def _blob(rng: np.random.Generator) -> np.ndarray:
    """A soft round spot."""
    row, column = rng.uniform(0.0, SIZE, 2)
    radius = rng.uniform(2.0, 7.0)
    rows, columns = np.ogrid[:SIZE, :SIZE]
    squared = (rows - row) ** 2 + (columns - column) ** 2
    cover: np.ndarray = np.exp(-squared / (2.0 * radius**2)).astype(np.float32)
    return cover


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize with half-pixel centres, edges repeated."""

    def weights(source: int, wanted: int) -> np.ndarray:
        position = np.clip((np.arange(wanted) + 0.5) * source / wanted - 0.5, 0.0, source - 1.0)
        return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(source)))

    resized = weights(image.shape[0], height) @ image @ weights(image.shape[1], width).T
    return np.asarray(resized, np.float32)
