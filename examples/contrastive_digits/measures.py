"""How good embeddings are: k nearest neighbours and few-shot episodes, in plain numpy.

Embeddings have length one, so that a dot product is a cosine similarity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 20
TEMPERATURE = 0.07


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def knn_labels(
    queries: np.ndarray,
    bank: np.ndarray,
    labels: np.ndarray,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """The label of each query: its k nearest vote with exp(similarity / temperature).

    Args:
        queries: [N, D]; bank: [M, D]; labels: int [M].
    """
    similarity = queries @ bank.T
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    votes = np.exp(np.take_along_axis(similarity, nearest, 1) / temperature)
    totals = np.zeros((len(queries), labels.max() + 1))
    np.add.at(totals, (np.arange(len(queries))[:, None], labels[nearest]), votes)
    return totals.argmax(1)


def one_shot_episode(
    embeddings: np.ndarray, labels: np.ndarray, rng: np.random.Generator, ways: int = 5, asked: int = 15
) -> float:
    """Accuracy of one episode: `ways` classes with one support each, `asked` queries of each class.

    Args:
        embeddings: [N, D]; labels: int [N]; supports and queries are drawn from these, all different.
    """
    classes = rng.choice(np.unique(labels), ways, replace=False)
    drawn = [rng.choice(np.flatnonzero(labels == label), 1 + asked, replace=False) for label in classes]
    supports = embeddings[[rows[0] for rows in drawn]]
    queries = embeddings[np.concatenate([rows[1:] for rows in drawn])]
    way = (queries @ supports.T).argmax(1)
    return float((way == np.repeat(np.arange(ways), asked)).mean())


def bootstrap(values: np.ndarray, seed: int = 0, draws: int = 10_000) -> Interval:
    """The mean of `values` [N] and the 2.5th and 97.5th percentile of the means of resampled ones."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))
