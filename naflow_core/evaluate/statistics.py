"""How sure a mean over pictures is, and whether two methods differ. Pure numpy, seeded."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from naflow_core.evaluate.arrays import generator

DRAWS = 2000
LEVEL = 0.95
EXACT_UP_TO = 12
"""With so few differences every pattern of signs is tried: 2^12 = 4096."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its bootstrap interval.

    Attributes:
        mean: over pictures.
        low, high: ends of the 95 % interval; both equal the mean for a single picture.
        count: number of pictures.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired comparison: first minus second, picture by picture.

    Attributes:
        mean, low, high: of the differences, with the 95 % bootstrap interval.
        p: two-sided p-value of the sign-flip permutation test; 1.0 for a single picture.
        count: number of pictures that both have.
    """

    mean: float
    low: float
    high: float
    p: float
    count: int


def estimate(values: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of one value per picture, with the percentile bootstrap interval over pictures.

    Raises:
        ValueError: no values.
    """
    x = np.asarray(values, np.float64)
    if x.size == 0:
        raise ValueError("an estimate needs at least one value")
    means = x[_draws(seed, x.size)].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(x.mean()), float(low), float(high), int(x.size))


def difference(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """Compare two methods on the same pictures.

    The p-value is that of the sign-flip permutation test: were both alike, each picture's difference could as
    well have the other sign. All patterns of signs are tried up to 12 pictures, else 10000 random ones.

    Args:
        first, second: one value per picture, in the same order.

    Raises:
        ValueError: other lengths, or no values.
    """
    gaps = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    found = estimate(gaps, seed)
    n = gaps.size
    signs = _signs(seed, n)
    extra = 0 if n <= EXACT_UP_TO else 1  # the observed pattern itself counts, so that p is never 0
    means = np.abs((signs * gaps).mean(axis=1))
    reached = int((means >= abs(found.mean) * (1 - 1e-12)).sum())
    p = (reached + extra) / (len(signs) + extra)
    return Difference(found.mean, found.low, found.high, float(p), n)


@functools.lru_cache(maxsize=1)
def _draws(seed: int, count: int) -> np.ndarray:
    """[DRAWS, count] which pictures each bootstrap sample holds; alike for every cell of a table."""
    return generator(seed, "bootstrap", count).integers(count, size=(DRAWS, count))


@functools.lru_cache(maxsize=1)
def _signs(seed: int, count: int) -> np.ndarray:
    """[patterns, count] signs, alike for every cell of a table; float64, as what they are multiplied with."""
    if count <= EXACT_UP_TO:
        return 1.0 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    return generator(seed, "signs", count).integers(0, 2, size=(10_000, count)) * 2.0 - 1
