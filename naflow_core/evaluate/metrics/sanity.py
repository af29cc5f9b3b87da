"""Maps computed again: under noise, with a randomised model, for another class."""

from __future__ import annotations

import numpy as np

from naflow_core.evaluate.arrays import spearman
from naflow_core.evaluate.metrics.registry import METRICS, Outcome, Shown

NOISE = 0.02
"""Half the width of the noise, as a share of the picture's range of values."""
DRAWS = 3


@METRICS.register(
    "max-sensitivity",
    "largest change of the map, scaled to length 1, under small noise on the input",
    better="lower",
    probing=True,
)
def max_sensitivity(shown: Shown) -> Outcome:
    """Yeh et al., 2019: the largest of three draws of uniform noise. Won by maps that ignore the picture."""
    sample = shown.sample
    x = sample.picture.x
    reach = NOISE * float(x.max() - x.min())
    unit = _unit(shown.map)
    changes = []
    for draw in range(DRAWS):
        noise = sample.random("sensitivity", draw).uniform(-reach, reach, x.shape).astype(np.float32)
        again = shown.remap(sample.subject, x + noise, sample.class_, shown.layer, f"noise {draw}")
        changes.append(float(np.linalg.norm(_unit(again) - unit)))
    return Outcome(max(changes))


@METRICS.register(
    "randomisation",
    "rank correlation with the map of the model whose head has random weights; near 0 is right",
    better="lower",
    probing=True,
)
def randomisation(shown: Shown) -> Outcome:
    """Adebayo et al., 2018, cascading from the top: the value is that of the shallowest step, where the head
    alone is randomised; the curve goes on to head and top block and down to the whole model. Correlations
    are taken as absolute values. A random map wins it."""
    sample = shown.sample
    points = []
    for depth, other in sample.randomised.items():
        again = shown.remap(other, sample.picture.x, sample.class_, shown.layer, f"randomised {depth}")
        points.append((float(depth), abs(spearman(shown.map, again))))
    return Outcome(points[0][1], tuple(points))


@METRICS.register(
    "random-logit",
    "rank correlation with the map of another class, drawn at random",
    better="lower",
    probing=True,
)
def random_logit(shown: Shown) -> Outcome:
    """Sixt et al., 2020: a map that does not depend on the class does not explain it. Won by random maps."""
    sample = shown.sample
    count = sample.subject.classes
    other = int(sample.random("random logit").integers(count - 1)) if count > 1 else 0
    other += other >= sample.class_ and count > 1
    again = shown.remap(sample.subject, sample.picture.x, other, shown.layer, "other class")
    return Outcome(abs(spearman(shown.map, again)))


def _unit(values: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(values))
    return np.asarray(values, np.float64) / length if length > 0 else np.zeros(values.shape)
