"""Pixels taken away or put in, strongest first: deletion, insertion, ROAD, and drop in confidence.

Every curve is the probability of the explained class over the share of pixels; its measure is the area below
it divided by its length, so that curves of different lengths compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from naflow_core.evaluate.arrays import blurred
from naflow_core.evaluate.masking import masked_probabilities
from naflow_core.evaluate.metrics.imputation import imputed
from naflow_core.evaluate.metrics.registry import METRICS, Outcome, Sample, Shown

SHARES = (0.03, 0.1, 0.2, 0.35, 0.55, 0.8)
ROAD_SHARES = (0.1, 0.3, 0.6)
BLUR = 1 / 20
"""Standard deviation of the blurred baseline, as a share of the picture's longer side."""
NOISE = 0.01
"""Standard deviation of ROAD's noise, as a share of the picture's own."""

Baseline = Callable[[Sample], np.ndarray]


def blur(sample: Sample) -> np.ndarray:
    """[C, H, W] the picture, blurred beyond recognition."""

    def make() -> np.ndarray:
        return blurred(sample.planes, BLUR * max(sample.size)).astype(np.float32)

    return sample.memory.get(("blurred picture",), make)


def mean(sample: Sample) -> np.ndarray:
    """[C, H, W] the mean of each channel."""
    return np.broadcast_to(sample.planes.mean(axis=(1, 2), keepdims=True), sample.planes.shape)


def area(points: Sequence[tuple[float, float]]) -> float:
    """Area below a curve by the trapezoidal rule, divided by its length."""
    x, y = np.array(points, np.float64).T
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def chosen(shown: Shown, shares: Sequence[float]) -> np.ndarray:
    """bool [len(shares), H, W]: the strongest pixels of a map, a share each."""
    height, width = shown.sample.size
    places = np.empty(height * width, int)
    places[shown.order] = np.arange(height * width)
    counts = np.rint(np.array(shares) * height * width)
    return (places < counts[:, None]).reshape(-1, height, width)


def _curve(shown: Shown, baseline: Baseline, *, insert: bool) -> Outcome:
    sample = shown.sample
    empty = baseline(sample)
    nothing = sample.memory.get(
        ("nothing left", baseline), lambda: float(sample.probabilities(empty[None])[0])
    )
    kept = chosen(shown, SHARES) if insert else ~chosen(shown, SHARES)
    found = sample.probabilities(np.where(kept[:, None], sample.planes, empty))
    first, last = (nothing, sample.probability) if insert else (sample.probability, nothing)
    points = ((0.0, first), *zip(SHARES, map(float, found), strict=True), (1.0, last))
    return Outcome(area(points), points)


@METRICS.register(
    "deletion-blur",
    "probability while the strongest pixels are blurred away",
    better="lower",
    faithfulness=True,
)
def deletion_blur(shown: Shown) -> Outcome:
    """Area below the deletion curve, baseline: the blurred picture."""
    return _curve(shown, blur, insert=False)


@METRICS.register(
    "insertion-blur",
    "probability while the strongest pixels of a blurred picture are made sharp",
    better="higher",
    faithfulness=True,
)
def insertion_blur(shown: Shown) -> Outcome:
    """Area below the insertion curve, baseline: the blurred picture."""
    return _curve(shown, blur, insert=True)


@METRICS.register(
    "deletion-mean",
    "probability while the strongest pixels are replaced by the mean colour",
    better="lower",
    faithfulness=True,
    default=False,
)
def deletion_mean(shown: Shown) -> Outcome:
    """Area below the deletion curve, baseline: the picture's mean colour."""
    return _curve(shown, mean, insert=False)


@METRICS.register(
    "insertion-mean",
    "probability while the strongest pixels are put on the mean colour",
    better="higher",
    faithfulness=True,
    default=False,
)
def insertion_mean(shown: Shown) -> Outcome:
    """Area below the insertion curve, baseline: the picture's mean colour."""
    return _curve(shown, mean, insert=True)


def _masked(shown: Shown, *, insert: bool) -> Outcome:
    sample = shown.sample
    known = chosen(shown, SHARES) if insert else ~chosen(shown, SHARES)
    found = masked_probabilities(sample.subject, sample.picture.x, known)[:, sample.class_]
    points = tuple(zip(SHARES, map(float, found), strict=True))
    points = (*points, (1.0, sample.probability)) if insert else ((0.0, sample.probability), *points)
    return Outcome(area(points), points)


@METRICS.register(
    "deletion-layer-mask",
    "probability while the strongest pixels are kept from every layer, so that no edge of a mask is seen",
    better="lower",
    faithfulness=True,
)
def deletion_layer_mask(shown: Shown) -> Outcome:
    """Area below the deletion curve under layer masking, up to the last share."""
    return _masked(shown, insert=False)


@METRICS.register(
    "insertion-layer-mask",
    "probability while every layer is given the strongest pixels only",
    better="higher",
    faithfulness=True,
    default=False,
)
def insertion_layer_mask(shown: Shown) -> Outcome:
    """Area below the insertion curve under layer masking, from the first share."""
    return _masked(shown, insert=True)


@METRICS.register(
    "road",
    "what removing the weakest pixels leaves of the probability, minus what removing the strongest does",
    better="higher",
    faithfulness=True,
)
def road(shown: Shown) -> Outcome:
    """Remove And Debias (Rong et al., 2022): removed pixels are interpolated from what is left, with noise.

    The mean over shares of (probability without the weakest - probability without the strongest).
    """
    sample = shown.sample
    strongest = chosen(shown, ROAD_SHARES)
    weakest = ~chosen(shown, [1 - share for share in ROAD_SHARES])
    gone = np.concatenate([strongest, weakest])
    noise = shown.random("road").standard_normal((len(gone), *sample.planes.shape), np.float32)
    noise *= NOISE * float(sample.planes.std())
    filled = imputed(sample.planes, gone)
    found = sample.probabilities(np.where(gone[:, None], filled + noise, sample.planes))
    gaps = found[len(strongest) :] - found[: len(strongest)]
    points = tuple(zip(ROAD_SHARES, map(float, gaps), strict=True))
    return Outcome(float(gaps.mean()), points)


def _weighted(shown: Shown) -> float:
    """Probability of the picture whose contrast is weighted with the map."""
    sample = shown.sample

    def make() -> float:
        low, high = shown.fine.min(), shown.fine.max()
        weight = (shown.fine - low) / (high - low) if high > low else np.zeros_like(shown.fine)
        grey = mean(sample)
        return float(sample.probabilities((grey + weight * (sample.planes - grey))[None])[0])

    return sample.memory.get(("weighted", shown.method, shown.layer), make)


@METRICS.register(
    "average-drop",
    "share of the probability that is lost when the picture's contrast is weighted with the map",
    better="lower",
)
def average_drop(shown: Shown) -> Outcome:
    """Chattopadhyay et al., 2018. A map that is bright everywhere wins it: no measure of faithfulness."""
    before = max(shown.sample.probability, np.finfo(np.float64).tiny)
    return Outcome(max(0.0, before - _weighted(shown)) / before)


@METRICS.register(
    "increase",
    "share of pictures whose probability grows when their contrast is weighted with the map",
    better="higher",
)
def increase(shown: Shown) -> Outcome:
    """Chattopadhyay et al., 2018: increase in confidence. Blind to maps as `average-drop` is."""
    return Outcome(float(_weighted(shown) > shown.sample.probability))
