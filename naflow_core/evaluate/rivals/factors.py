"""Maps from a factorisation of a layer's value."""

from __future__ import annotations

import numpy as np

from naflow_core.evaluate.rivals.registry import register
from naflow_core.evaluate.subject import Subject

EIGEN_CAM = "Muhammad and Yeasin, Eigen-CAM, 2020"
DEEP_FEATURES = "Collins, Achanta and Suesstrunk, Deep Feature Factorization, 2018"


@register("eigen-cam", runs=3, source=EIGEN_CAM)
def eigen_cam(
    subject: Subject, x: np.ndarray, classes: np.ndarray, layer: str, _random: np.random.Generator
) -> np.ndarray:
    """Each cell's channels, projected on their first right singular vector; it knows nothing of the class.

    The vector's sign, which is open, is the one with the larger sum of projections.
    """
    value, _ = subject.studied_gradients(x, classes, layer)  # which the class activation maps need anyway
    planes = np.asarray(subject.layer(layer).axes.planes(value), np.float64)
    cells = planes.reshape(*planes.shape[:2], -1)
    turned = cells.transpose(0, 2, 1)
    if cells.shape[1] <= cells.shape[2]:  # the smaller of the two Gram matrices has the same singular values
        _, vectors = np.linalg.eigh(cells @ turned)
        projected = np.einsum("nc,ncp->np", vectors[:, :, -1], cells)
    else:
        squares, vectors = np.linalg.eigh(turned @ cells)
        projected = np.sqrt(np.maximum(squares[:, -1:], 0)) * vectors[:, :, -1]
    signs = np.where(projected.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    return np.maximum(signs * projected, 0).reshape(len(x), *planes.shape[2:])


@register("deep-feature-factorization", runs=3, source=DEEP_FEATURES)
def deep_feature_factorization(
    subject: Subject,
    x: np.ndarray,
    classes: np.ndarray,
    layer: str,
    random: np.random.Generator,
    *,
    factors: int = 4,
    iterations: int = 100,
) -> np.ndarray:
    """The map of the non-negative factor of a layer's value that adds most to the class score.

    What a factor adds is the sum of its part of the value times the score's gradient. Each picture is
    factorised alone; negative values count as 0.

    Args:
        factors: how many.
        iterations: of the factorisation.
    """
    axes = subject.layer(layer).axes
    value, slope = (axes.planes(a) for a in subject.studied_gradients(x, classes, layer))
    cells = np.maximum(value, 0).reshape(*value.shape[:2], -1).transpose(0, 2, 1)
    maps, parts = factorised(cells, factors, random, iterations)
    adds = np.einsum("npk,nkc,ncp->nk", maps, parts, slope.reshape(*slope.shape[:2], -1), optimize=True)
    best = maps[np.arange(len(x)), :, adds.argmax(axis=1)]
    return best.reshape(len(x), *value.shape[2:])


def factorised(
    matrices: np.ndarray, factors: int, random: np.random.Generator, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative [N, P, K] and [N, K, C] whose product comes near [N, P, C] in least squares.

    Multiplicative updates, under which the distance never grows (Lee and Seung, 2001). The rows of the second
    have unit length, so that the first tells the factors' strengths.
    """
    count, rows, columns = matrices.shape
    scale = np.sqrt(matrices.mean(axis=(1, 2), keepdims=True) / factors)
    left = (scale * random.uniform(0.1, 1.0, (count, rows, factors))).astype(np.float32)
    right = (scale * random.uniform(0.1, 1.0, (count, factors, columns))).astype(np.float32)
    tiny = np.finfo(np.float32).tiny
    for _ in range(iterations):
        turned = left.transpose(0, 2, 1)
        right *= (turned @ matrices) / np.maximum(turned @ left @ right, tiny)
        turned = right.transpose(0, 2, 1)
        left *= (matrices @ turned) / np.maximum(left @ (right @ turned), tiny)
    lengths = np.linalg.norm(right, axis=2, keepdims=True)
    lengths[lengths == 0] = 1.0
    return left * lengths.transpose(0, 2, 1), right / lengths
