"""Maps that know nothing of the class: a measure of faithfulness that they win measures something else."""

from __future__ import annotations

import numpy as np

from naflow_core.evaluate.rivals.registry import register
from naflow_core.evaluate.subject import Subject

SOBEL = (np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0]))


@register("random", control=True, runs=0)
def random_map(
    subject: Subject, x: np.ndarray, _classes: np.ndarray, layer: str, random: np.random.Generator
) -> np.ndarray:
    """Independent uniform numbers."""
    return random.random((len(x), *subject.layer(layer).resolution), np.float32)


@register("centre", control=True, runs=0)
def centre(
    subject: Subject,
    x: np.ndarray,
    _classes: np.ndarray,
    layer: str,
    _random: np.random.Generator,
    *,
    width: float = 0.25,
) -> np.ndarray:
    """A Gaussian around the centre: photographers centre what they photograph.

    Args:
        width: standard deviation, as a share of the map's height and width.
    """
    across = [
        np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / width) ** 2)
        for n in subject.layer(layer).resolution
    ]
    return np.repeat(np.outer(*across)[None], len(x), axis=0)


@register("edges", resolution="input", control=True, runs=0)
def edges(
    subject: Subject, x: np.ndarray, _classes: np.ndarray, _layer: str, _random: np.random.Generator
) -> np.ndarray:
    """Length of the Sobel gradient of the mean over the picture's channels."""
    grey = subject.layer(subject.source).axes.planes(x).mean(axis=1)
    smooth, slope = SOBEL
    down = _filtered(_filtered(grey, slope, 1), smooth, 2)
    right = _filtered(_filtered(grey, smooth, 1), slope, 2)
    return np.hypot(down, right)


@register("empty", control=True, runs=0)
def empty(
    subject: Subject, x: np.ndarray, _classes: np.ndarray, layer: str, _random: np.random.Generator
) -> np.ndarray:
    """All zero: whatever ranks its cells ranks ties."""
    return np.zeros((len(x), *subject.layer(layer).resolution), np.float32)


def _filtered(planes: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Three weights along one axis of [N, H, W], edges repeated."""
    pads = [(1, 1) if i == axis else (0, 0) for i in range(planes.ndim)]
    padded = np.moveaxis(np.pad(planes, pads, mode="edge"), axis, -1)
    found = sum(
        weight * padded[..., i : padded.shape[-1] - 2 + i] for i, weight in enumerate(weights.tolist())
    )
    return np.moveaxis(found, -1, axis)
