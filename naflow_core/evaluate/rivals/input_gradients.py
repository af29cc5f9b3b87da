"""Maps of the input from the class score's gradient there; positive evidence, summed over channels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from naflow_core.evaluate.rivals.noise import noisy
from naflow_core.evaluate.rivals.registry import register
from naflow_core.evaluate.subject import Subject

GRADIENT_INPUT = "Shrikumar et al., Not Just a Black Box, 2016"
INTEGRATED = "Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, 2017"
SMOOTH_GRAD = "Smilkov et al., SmoothGrad, 2017"

MOST_PICTURES = 64  # at once


@register("gradient-x-input", resolution="input", runs=3, source=GRADIENT_INPUT)
def gradient_x_input(
    subject: Subject, x: np.ndarray, classes: np.ndarray, _layer: str, _random: np.random.Generator
) -> np.ndarray:
    """relu(sum_c x_c g_c), with x as the model takes it."""
    value, slope = subject.gradients(x, classes, (subject.source,))[subject.source]
    return np.maximum(_planes(subject, value * slope).sum(axis=1), 0)


@register("integrated-gradients", resolution="input", runs=96, source=INTEGRATED)
def integrated_gradients(
    subject: Subject,
    x: np.ndarray,
    classes: np.ndarray,
    _layer: str,
    _random: np.random.Generator,
    *,
    steps: int = 32,
) -> np.ndarray:
    """relu(sum_c) of the attributions along the line from the picture's own mean colour.

    Args:
        steps: points on the line.
    """
    attributions = integrated(subject, x, classes, flat_colour(subject, x), steps)
    return np.maximum(_planes(subject, attributions).sum(axis=1), 0)


def integrated(
    subject: Subject, x: np.ndarray, classes: np.ndarray, baseline: np.ndarray, steps: int
) -> np.ndarray:
    """Attributions of the shape of `x`, signed; for each picture they add up to the difference of the class
    score between it and the baseline, but for the error of the midpoint rule.

    Args:
        baseline: where the line begins, of the shape of `x`.
        steps: points on the line.
    """
    shares = (np.arange(steps) + 0.5) / steps
    line = ((baseline + share * (x - baseline)).astype(np.float32) for share in shares)
    return (x - baseline) * _mean_gradient(subject, line, classes)


@register("smoothgrad", resolution="input", runs=48, source=SMOOTH_GRAD)
def smoothgrad(
    subject: Subject,
    x: np.ndarray,
    classes: np.ndarray,
    _layer: str,
    random: np.random.Generator,
    *,
    samples: int = 16,
    spread: float = 0.15,
) -> np.ndarray:
    """Sum over channels of |mean of the gradient over noisy copies of the picture|.

    Args:
        samples: noisy copies for each picture.
        spread: standard deviation of the noise, as a share of the picture's own range.
    """
    copies = (noisy(x, spread, random) for _ in range(samples))
    return np.abs(_planes(subject, _mean_gradient(subject, copies, classes))).sum(axis=1)


def _mean_gradient(subject: Subject, copies: Iterable[np.ndarray], classes: np.ndarray) -> np.ndarray:
    """Mean over several versions of the same pictures, float64."""
    rest, count = iter(copies), 0
    total = np.zeros(())
    while part := list(itertools.islice(rest, max(1, MOST_PICTURES // len(classes)))):
        found = subject.gradients(np.concatenate(part), np.tile(classes, len(part)), (subject.source,))
        slopes = found[subject.source][1].reshape(len(part), *part[0].shape)
        total = total + slopes.sum(axis=0, dtype=np.float64)
        count += len(part)
    return total / count


def flat_colour(subject: Subject, x: np.ndarray) -> np.ndarray:
    """Pictures of one colour each, the picture's mean: it is in range whatever the preprocessing."""
    axes = subject.layer(subject.source).axes
    return np.broadcast_to(x.mean(axis=axes.spatial, keepdims=True), x.shape)


def _planes(subject: Subject, value: np.ndarray) -> np.ndarray:
    return subject.layer(subject.source).axes.planes(value)
