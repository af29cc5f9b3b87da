"""How much maps change with what should not matter; on request only.

Maps are compared at the size of the input, by Pearson's and by Spearman's correlation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from naflow_core.evaluate.arrays import enlarged, pearson, spearman
from naflow_core.evaluate.layers import SpineTensor
from naflow_core.evaluate.metrics.registry import METRICS, Outcome, Shown
from naflow_core.evaluate.subject import Subject

NOISE = 0.01
"""Standard deviation of the noise, as a share of the picture's range of values."""
JPEG, TWIN = "jpeg", "twin"
"""Names of variants of a picture: what has been through JPEG, and what the twin model takes."""

Again = Callable[[Shown], np.ndarray | None]


def _fine(shown: Shown, found: np.ndarray) -> np.ndarray:
    return enlarged(found, *shown.sample.size)


def shifted(shown: Shown) -> np.ndarray:
    """[H, W] the map of the picture moved one pixel down and right, moved back."""
    sample = shown.sample
    moved = np.pad(sample.planes[None], ((0, 0), (0, 0), (1, 0), (1, 0)), mode="edge")[..., :-1, :-1]
    x = sample.axes.tensor(moved, sample.picture.x.shape)
    found = _fine(shown, shown.remap(sample.subject, x, sample.class_, shown.layer, "shift"))
    return np.pad(found, ((0, 1), (0, 1)), mode="edge")[1:, 1:]


def rounded(shown: Shown) -> np.ndarray:
    """[H, W] the map of the picture rounded to float16."""
    sample = shown.sample
    x = sample.picture.x.astype(np.float16).astype(np.float32)
    return _fine(shown, shown.remap(sample.subject, x, sample.class_, shown.layer, "float16"))


def noisy(shown: Shown) -> np.ndarray:
    """[H, W] the map of the picture with normal noise of 1 % of its range."""
    sample = shown.sample
    x = sample.picture.x
    noise = sample.random("stability").normal(0, NOISE * float(x.max() - x.min()), x.shape)
    x = (x + noise).astype(np.float32)
    return _fine(shown, shown.remap(sample.subject, x, sample.class_, shown.layer, "stability noise"))


def recompressed(shown: Shown) -> np.ndarray | None:
    """[H, W] the map of the picture that went through JPEG; None where there is no such variant."""
    sample = shown.sample
    x = sample.picture.variants.get(JPEG)
    if x is None:
        return None
    return _fine(shown, shown.remap(sample.subject, x, sample.class_, shown.layer, JPEG))


def of_twin(shown: Shown) -> np.ndarray | None:
    """[H, W] the map of the twin model at the matching layer; None where there is none."""
    sample = shown.sample
    layer = None if sample.twin is None else matching(sample.subject, sample.twin, shown.layer)
    if sample.twin is None or layer is None:
        return None
    x = sample.picture.variants.get(TWIN, sample.picture.x)
    return _fine(shown, shown.remap(sample.twin, x, sample.class_, layer, TWIN))


def matching(subject: Subject, twin: Subject, layer: str) -> str | None:
    """The layer of the twin that has the same channels, height and width: of the same name, else the one of
    the same rank among those that end a block, or that end none, as this one does."""
    place = subject.layer(layer)
    own, alike = (
        [found for found in other.layers if _size(found) == _size(place)] for other in (subject, twin)
    )
    if layer in {found.name for found in alike}:
        return layer
    own, near = ([f for f in given if f.ends_block == place.ends_block] for given in (own, alike))
    if not near:
        return None
    rank = own.index(place) * (len(near) - 1) / max(len(own) - 1, 1)
    return near[round(rank)].name


def _size(layer: SpineTensor) -> tuple[tuple[int, int], int]:
    """Height and width, and how many values there are."""
    return layer.resolution, math.prod(layer.shape)


def _register(name: str, what: str, again: Again) -> None:
    for kind, correlation in (("pearson", pearson), ("spearman", spearman)):

        def measure(shown: Shown, correlation: Callable[..., float] = correlation) -> Outcome | None:
            key = (name, shown.method, shown.layer)
            found = shown.sample.memory.get(key, lambda: again(shown))
            if found is None:
                return None
            return Outcome(correlation(_fine(shown, shown.map), found))

        title = f"{kind.capitalize()}'s correlation with the map of {what}"
        METRICS.register(f"{name}-{kind}", title, better="higher", default=False, stability=True)(measure)


_register("stability-jpeg", "the picture after JPEG of quality 75", recompressed)
_register("stability-shift", "the picture moved by one pixel", shifted)
_register("stability-float16", "the picture rounded to float16", rounded)
_register("stability-noise", "the picture with noise of 1 % of its range", noisy)
_register("stability-twin", "the twin model", of_twin)
