"""Small tools on maps and pictures; numpy only, nothing here knows of models."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

JITTER = 1e-9
"""Share of a map's largest value that breaks ties: far below any difference that means something."""


def generator(seed: int, *labels: object) -> np.random.Generator:
    """A random generator that depends on the seed and the labels alone.

    Results are therefore the same whatever else is drawn, and in whatever order.
    """
    text = "\0".join(str(label) for label in (seed, *labels)).encode()
    return np.random.default_rng(np.frombuffer(hashlib.sha256(text).digest(), np.uint32))


@functools.lru_cache(maxsize=64)
def _interpolation(old: int, new: int) -> np.ndarray:
    """[new, old] bilinear weights along one axis, half-pixel centres, edges repeated."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(centres.astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    part = centres - low
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - part)
    np.add.at(weights, (np.arange(new), high), part)
    return weights


@functools.lru_cache(maxsize=64)
def _areas(old: int, new: int) -> np.ndarray:
    """[new, old] share of each old cell in each new one along one axis; rows sum to 1."""
    edges = np.arange(new + 1) * old / new
    cells = np.arange(old)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.maximum(overlap, 0) * new / old


def enlarged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """[..., height, width] from [..., h, w], bilinear with half-pixel centres, float64."""
    rows, columns = _interpolation(values.shape[-2], height), _interpolation(values.shape[-1], width)
    return rows @ np.asarray(values, np.float64) @ columns.T


def averaged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """[..., height, width]: mean of [..., h, w] over each new cell, float64."""
    rows, columns = _areas(values.shape[-2], height), _areas(values.shape[-1], width)
    return rows @ np.asarray(values, np.float64) @ columns.T


def fitted(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """To another size: bilinear where it grows, means of areas where it shrinks."""
    if values.shape[-2] > height or values.shape[-1] > width:
        return averaged(values, height, width)
    return enlarged(values, height, width)


def blurred(planes: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of [..., H, W] with edges repeated; `sigma` in pixels."""
    rows, columns = (_gaussian(size, sigma) for size in planes.shape[-2:])
    return rows @ np.asarray(planes, np.float64) @ columns.T


@functools.lru_cache(maxsize=32)
def _gaussian(size: int, sigma: float) -> np.ndarray:
    """[size, size] blur along one axis; what lies beyond an edge counts as the edge's own value."""
    reach = int(np.ceil(4 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((size, size))
    for offset, weight in zip(range(-reach, reach + 1), weights, strict=True):
        np.add.at(matrix, (np.arange(size), np.clip(np.arange(size) + offset, 0, size - 1)), weight)
    return matrix


def without_ties(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The map in float64 with equal cells moved apart at random, so that an empty map is a random one."""
    exact = np.asarray(values, np.float64)
    scale = float(np.abs(exact).max()) or 1.0
    return exact + scale * JITTER * random.random(exact.shape)


def strongest_first(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Positions of a map's cells, flattened, from strongest to weakest; equal ones in random order."""
    falling = -np.asarray(values, np.float64).ravel()
    order = np.argsort(falling)
    equal = falling[order[1:]] == falling[order[:-1]]
    tied = np.zeros(order.size, bool)
    tied[1:] |= equal
    tied[:-1] |= equal
    if tied.any():  # few of the cells as a rule, and sorting by two keys takes ten times as long
        cells = order[tied]
        order[tied] = cells[np.lexsort((random.random(falling.size)[cells], falling[cells]))]
    return order


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, flattened; equal values share the mean of theirs."""
    flat = np.asarray(values).ravel()
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse.ravel()]


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two arrays of one size. 1 where both are constant, 0 where only one is."""
    x, y = (np.asarray(v, np.float64).ravel() for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    lengths = np.sqrt((x @ x) * (y @ y))
    if lengths == 0:
        return float(not x.any() and not y.any())
    return float(np.clip(x @ y / lengths, -1, 1))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two arrays of one size; constant ones as in `pearson`."""
    return pearson(ranks(a), ranks(b))
