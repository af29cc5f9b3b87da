"""Cells of a layer taken away, strongest first."""

from __future__ import annotations

import numpy as np

from naflow_core.evaluate.arrays import fitted, strongest_first, without_ties
from naflow_core.evaluate.metrics.registry import METRICS, Outcome, Sample, Shown
from naflow_core.evaluate.picture import Axes

SHARES = (0.05, 0.1, 0.2)
DRAWS = 4


@METRICS.register(
    "layer-deletion",
    "relative drop of the score when the layer's strongest cells are zeroed, minus that of random cells",
    better="higher",
    faithfulness=True,
    at_layer=True,
)
def layer_deletion(shown: Shown) -> Outcome:
    """Mean over 5, 10 and 20 % of the cells; all channels of a cell are zeroed.

    Random cells are the mean of four draws, the same for all methods. A map of another size is brought to
    that of the layer.
    """
    sample, layer = shown.sample, shown.layer
    value, axes = tapped(sample, layer)
    height, width = axes.size(value.shape)
    cells = shown.untied
    if cells.shape != (height, width):
        cells = without_ties(fitted(shown.untied, height, width), shown.random("cells"))
    drops = _drops(sample, layer, strongest_first(cells, shown.random("cell order"))[None])[0]
    gains = drops - _by_chance(sample, layer)
    points = tuple(zip(SHARES, map(float, gains), strict=True))
    return Outcome(float(gains.mean()), points)


def tapped(sample: Sample, layer: str) -> tuple[np.ndarray, Axes]:
    """The layer's forward value for the picture, and its axes."""

    def make() -> tuple[np.ndarray, Axes]:
        value = np.asarray(sample.subject.tap(sample.picture.x, [layer])[layer])
        return value, sample.subject.layer(layer).axes

    return sample.memory.get(("tapped", layer), make)


def _by_chance(sample: Sample, layer: str) -> np.ndarray:
    """[shares] mean drop over random orders."""

    def make() -> np.ndarray:
        value, axes = tapped(sample, layer)
        random = sample.random("random cells", layer)
        count = int(np.prod(axes.size(value.shape)))
        orders = np.stack([random.permutation(count) for _ in range(DRAWS)])
        return _drops(sample, layer, orders).mean(axis=0)

    return sample.memory.get(("random cells", layer), make)


def _drops(sample: Sample, layer: str, orders: np.ndarray) -> np.ndarray:
    """[orders, shares] relative drop of the score without the first cells of each order."""
    value, axes = tapped(sample, layer)
    height, width = axes.size(value.shape)
    places = np.empty(orders.shape, int)
    np.put_along_axis(places, orders, np.broadcast_to(np.arange(orders.shape[1]), orders.shape), axis=1)
    counts = [max(1, round(share * height * width)) for share in SHARES]
    found = []
    for row in places:
        kept = np.stack([row >= count for count in counts]).reshape(-1, height, width)
        scores = sample.subject.scores_from(layer, value * axes.spread(kept.astype(value.dtype)))
        found.append(sample.score - np.asarray(scores, np.float64)[:, sample.class_])
    return np.stack(found) / max(abs(sample.score), 1e-6)
