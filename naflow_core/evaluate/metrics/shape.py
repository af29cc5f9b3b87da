"""Where a map lies and how it is spread; the model is not asked."""

from __future__ import annotations

import numpy as np

from naflow_core.evaluate.metrics.registry import METRICS, Outcome, Shown
from naflow_core.evaluate.picture import inside


@METRICS.register("energy", "share of the map inside the object's box", better="higher", boxes=True)
def energy(shown: Shown) -> Outcome:
    """At the map's own size; a cell on the border counts with the share of it that is inside.

    An empty map has the share of the box, as a random one has on average.
    """
    share = inside(shown.sample.picture.boxes, *shown.map.shape)
    total = float(shown.map.sum())
    return Outcome(float((shown.map * share).sum()) / total if total > 0 else float(share.mean()))


@METRICS.register(
    "pointing-game", "whether the map's strongest pixel is inside the box", better="higher", boxes=True
)
def pointing_game(shown: Shown) -> Outcome:
    """Zhang et al., 2018, without a margin around the box."""
    share = inside(shown.sample.picture.boxes, *shown.sample.size)
    return Outcome(float(share.ravel()[shown.order[0]] >= 0.5))


@METRICS.register("sparseness", "Gini index of the map, 0 (even) to 1 (one cell)", better="neither")
def sparseness(shown: Shown) -> Outcome:
    """Chalasani et al., 2020; of the cells at the map's own size. 0 for an empty map."""
    return Outcome(gini(shown.map))


@METRICS.register("complexity", "entropy of the map in nats; fewer cells, less entropy", better="neither")
def complexity(shown: Shown) -> Outcome:
    """Bhatt et al., 2020; of the cells at the map's own size. That of an even map for an empty one."""
    return Outcome(entropy(shown.map))


def gini(values: np.ndarray) -> float:
    """Gini index of non-negative numbers, 0 where all are 0."""
    x = np.sort(np.asarray(values, np.float64), axis=None)
    total = x.sum()
    if total <= 0:
        return 0.0
    weights = 2 * np.arange(1, x.size + 1) - x.size - 1
    return float(weights @ x / (x.size * total))


def entropy(values: np.ndarray) -> float:
    """Entropy of non-negative numbers, scaled to sum 1, in nats; that of equal ones where all are 0."""
    x = np.asarray(values, np.float64).ravel()
    total = x.sum()
    if total <= 0:
        return float(np.log(x.size))
    shares = x[x > 0] / total
    return float(-(shares * np.log(shares)).sum())
