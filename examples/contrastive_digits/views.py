"""Views: one handwritten digit somewhere in a 32x32 grey picture, warped, among clutter.

A view shows a scan of scikit-learn's `load_digits` (8x8, real handwriting) 14 to 21 pixels high, turned,
sheared and bent a little, with pieces of other scans and pen strokes around it and noise over everything.
Two views of one scan are a positive pair for contrastive learning; no label is needed to draw them.
A quarter of the scans of each class is held out, clutter included.

Only numpy is used to draw, whole batches at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.datasets import load_digits

SIZE = 32
CLASSES = 10
TEST_SHARE = 0.25
SPLIT_SEED = 20
INK_FLOOR = 0.1
MAX_INTRUSION = 0.04  # how much of the digit's box one piece of clutter may cover
STROKES, FRAGMENTS = 3, 4
CENTRE = 3.5  # of a scan, in its own pixels

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Scans:
    """The scans of one split: `images` float32 [count, 8, 8] in 0..1, `labels` and the position `rows` of
    each in scikit-learn's data set."""

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True, slots=True)
class Views:
    """A batch of views with their truth.

    Attributes:
        pictures: uint8 [N, 32, 32].
        labels: int64 [N], 0 to 9.
        boxes: int64 [N, 4], (left, top, right, bottom) of the digit's ink, the last two exclusive.
        backdrops: float32 [N, 32, 32], the pictures before the digit and the noise were added.
    """

    pictures: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    backdrops: np.ndarray


def load_scans(split: Split) -> Scans:
    """The scans of a split."""
    data = load_digits()
    rng = np.random.default_rng(SPLIT_SEED)
    chosen: list[np.ndarray] = []
    for label in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(data.target == label))
        cut = round(len(rows) * TEST_SHARE)
        chosen.append(rows[:cut] if split == "test" else rows[cut:])
    rows = np.sort(np.concatenate(chosen))
    return Scans((data.images[rows] / 16.0).astype(np.float32), data.target[rows].astype(np.int64), rows)


def draw(scans: Scans, picks: np.ndarray, rng: np.random.Generator) -> Views:
    """One view of each scan in `picks` (indices into `scans`); the same generator state, the same views."""
    count = len(picks)
    ink = _digits(scans.images[picks], rng)
    boxes = _bounding_boxes(ink)
    backdrop = _upsampled(rng.uniform(0.0, 0.3, (count, 4, 4)))
    pieces = [_strokes(count, rng) for _ in range(STROKES)]
    pieces += [_fragments(scans.images, count, rng) for _ in range(FRAGMENTS)]
    inside = _inside(boxes)
    for piece in pieces:
        intrusion = (piece * inside).sum((1, 2)) / inside.sum((1, 2))
        cover = piece * (intrusion <= MAX_INTRUSION)[:, None, None]
        backdrop = backdrop * (1.0 - cover) + _each(rng, 0.4, 0.95, count) * cover
    picture = backdrop * (1.0 - ink) + _each(rng, 0.7, 1.0, count) * ink
    return Views(_noisy(picture, rng), scans.labels[picks], boxes, backdrop.astype(np.float32))


def draw_two(
    scans: Scans, first: np.ndarray, second: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of two upright digits side by side, without clutter: what matters in them depends on what they
    are compared with.

    Args:
        first, second: [N] indices into `scans`.

    Returns:
        uint8 [N, 32, 32], and bool [N], whether the first digit is on the left.
    """
    count = len(first)
    on_left = rng.random(count) < 0.5
    ink = np.zeros((count, SIZE, SIZE))
    for picks, left in ((first, on_left), (second, ~on_left)):
        backward = np.zeros((count, 2, 2))
        backward[:, 0, 0] = 8.0 / rng.uniform(13.5, 15.5, count)
        backward[:, 1, 1] = 8.0 / 14.5
        middle = np.stack([rng.uniform(8.0, 24.0, count), np.where(left, 8.0, 24.0)], axis=1) - 0.5
        ink = np.maximum(ink, _inked(_sampled(scans.images[picks], backward, middle, None)))
    backdrop = _upsampled(rng.uniform(0.0, 0.3, (count, 4, 4)))
    return _noisy(backdrop * (1.0 - ink) + _each(rng, 0.7, 1.0, count) * ink, rng), on_left


def as_input(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, 32, 32] to the encoder's input, float32 [N, 1, 32, 32] in 0..1."""
    return (pictures.astype(np.float32) / np.float32(255.0))[:, None]


def _digits(scans: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each scan [N, 8, 8] warped and put whole into an empty picture: its ink, 0..1."""
    count = len(scans)
    turn, shear = rng.uniform(-0.25, 0.25, count), rng.uniform(-0.2, 0.2, count)
    tall = rng.uniform(14.0, 21.0, count) / 8.0
    wide = tall * rng.uniform(0.85, 1.15, count)
    cosine, sine = np.cos(turn), np.sin(turn)
    # Pixels of the scan (row, column) to pixels of the picture: stretch, shear along the row, turn.
    forward = np.stack(
        [
            np.stack([cosine * tall - sine * shear * tall, -sine * wide], -1),
            np.stack([sine * tall + cosine * shear * tall, cosine * wide], -1),
        ],
        axis=1,
    )
    reach = np.minimum(np.abs(forward).sum(2) * 4.0, SIZE / 2)
    middle = reach + rng.uniform(0.0, 1.0, (count, 2)) * (SIZE - 2.0 * reach) - 0.5
    bend = np.stack([_upsampled(rng.normal(0.0, 0.35, (count, 4, 4))) for _ in range(2)], axis=1)
    cover = _sampled(scans, np.linalg.inv(forward), middle, bend) ** _each(rng, 0.7, 1.3, count)
    return _inked(cover)


def _inked(cover: np.ndarray) -> np.ndarray:
    """Without the faintest rim, and full ink in the middle."""
    return np.where(cover < INK_FLOOR, 0.0, np.minimum(cover * 1.25, 1.0))


def _noisy(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[N, 32, 32] of 0..1 as uint8 with noise of a strength of its own for each picture."""
    noisy = pictures + rng.standard_normal(pictures.shape) * _each(rng, 0.01, 0.04, len(pictures))
    return np.rint(np.clip(noisy, 0.0, 1.0) * 255.0).astype(np.uint8)


def _fragments(scans: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """3 to 4 pixels square out of a scan, turned at random: real ink, too little to read a digit from."""
    chosen = scans[rng.integers(len(scans), size=count)]
    first = rng.integers(0, 5, (count, 2, 1))
    last = first + rng.integers(3, 5, (count, 2, 1))
    at = np.arange(8)
    rows, columns = np.moveaxis((at >= first) & (at < last), 1, 0)
    cut = chosen * rows[:, :, None] * columns[:, None, :]
    turn, scale = rng.uniform(-np.pi, np.pi, count), rng.uniform(1.6, 2.4, count)
    cosine, sine = np.cos(turn) / scale, np.sin(turn) / scale
    backward = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], axis=1)
    cover = _sampled(cut, backward, rng.uniform(0.0, SIZE, (count, 2)), None)
    return np.minimum(cover * 1.25, 1.0)


def _strokes(count: int, rng: np.random.Generator) -> np.ndarray:
    """A straight pen stroke in each picture, 4 to 10 pixels long, with soft edges."""
    start, angle = rng.uniform(0.0, SIZE, (count, 2)), rng.uniform(0.0, np.pi, count)
    length, width = _each(rng, 4.0, 10.0, count), _each(rng, 0.6, 1.3, count)
    rows, columns = (start[:, i, None, None] for i in (0, 1))
    down, right = (f(angle)[:, None, None] for f in (np.sin, np.cos))
    at = np.arange(SIZE)
    away_rows, away_columns = at[None, :, None] - rows, at[None, None, :] - columns
    along = np.clip(away_rows * down + away_columns * right, 0.0, length)
    distance = np.hypot(away_rows - along * down, away_columns - along * right)
    return np.clip(width - distance + 0.5, 0.0, 1.0)


def _sampled(
    scans: np.ndarray, backward: np.ndarray, middle: np.ndarray, bend: np.ndarray | None
) -> np.ndarray:
    """Scans [N, 8, 8] drawn bilinearly into [N, 32, 32], nothing outside them.

    Args:
        backward: [N, 2, 2], pixels of the picture, counted from `middle`, to pixels of the scan.
        middle: [N, 2], where in the picture the scan's centre comes to lie.
        bend: [N, 2, 32, 32], added to the place in the scan, or None.
    """
    at = np.arange(SIZE)
    rows = (at - middle[:, :1])[:, :, None]
    columns = (at - middle[:, 1:])[:, None, :]
    place = backward[:, :, 0, None, None] * rows[:, None] + backward[:, :, 1, None, None] * columns[:, None]
    place = place + CENTRE + 1.0  # a rim of one empty pixel
    if bend is not None:
        place = place + bend
    place = np.clip(place, 0.0, 8.999)
    whole = place.astype(np.int64)
    part = place - whole
    padded = np.pad(scans, ((0, 0), (1, 1), (1, 1))).reshape(-1)
    corner = whole[:, 0] * 10 + whole[:, 1] + np.arange(len(scans))[:, None, None] * 100
    upper = padded[corner] * (1.0 - part[:, 1]) + padded[corner + 1] * part[:, 1]
    lower = padded[corner + 10] * (1.0 - part[:, 1]) + padded[corner + 11] * part[:, 1]
    return upper * (1.0 - part[:, 0]) + lower * part[:, 0]


def _upsampled(grids: np.ndarray) -> np.ndarray:
    """Grids [N, n, n] drawn smoothly over the whole picture, [N, 32, 32]."""
    points = grids.shape[1]
    position = np.linspace(0.0, points - 1.0, SIZE)
    weights = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(points)))
    return weights @ grids @ weights.T


def _bounding_boxes(ink: np.ndarray) -> np.ndarray:
    """(left, top, right, bottom) of what is not zero in [N, 32, 32]."""
    rows, columns = (ink > 0).any(2), (ink > 0).any(1)
    left, top = columns.argmax(1), rows.argmax(1)
    return np.stack([left, top, SIZE - columns[:, ::-1].argmax(1), SIZE - rows[:, ::-1].argmax(1)], 1)


def _inside(boxes: np.ndarray) -> np.ndarray:
    """[N, 32, 32], true inside each box."""
    left, top, right, bottom = boxes.T[:, :, None]
    at = np.arange(SIZE)
    return ((at >= top) & (at < bottom))[:, :, None] & ((at >= left) & (at < right))[:, None, :]


def _each(rng: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    """A uniform number for every picture, shaped to multiply pictures."""
    return rng.uniform(low, high, (count, 1, 1))
