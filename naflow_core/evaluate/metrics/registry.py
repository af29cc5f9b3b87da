"""The table of measures, and what they are given."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from naflow_core.errors import OptionError
from naflow_core.evaluate.arrays import enlarged, generator, strongest_first, without_ties
from naflow_core.evaluate.memory import Memory
from naflow_core.evaluate.picture import Axes, Picture
from naflow_core.evaluate.subject import Subject

Remap = Callable[[Subject, np.ndarray, int, str, str], np.ndarray]
"""(subject, x [1, ...], class, layer, tag for random numbers) to the map [h, w] of the same method there."""

Point = tuple[float, float]


@dataclass
class Sample:
    """One picture in front of one model; shared by all methods, layers and measures, on several threads.

    Attributes:
        subject: the model.
        picture: with its truth.
        class_: whose score is explained.
        score, probability: of that class, for the untouched picture.
        axes: of the input.
        seed: of the evaluation.
        depths: how many blocks from the head down `randomised` shuffles.
        twin: the model to compare maps with, if any.
        memory: what was computed for this picture and can be shared, by whatever key.
    """

    subject: Subject
    picture: Picture
    class_: int
    score: float
    probability: float
    axes: Axes
    seed: int
    depths: tuple[int, ...] = ()
    twin: Subject | None = None
    memory: Memory = field(default_factory=lambda: Memory(math.inf))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return self.axes.size(self.picture.x.shape)

    @functools.cached_property
    def planes(self) -> np.ndarray:
        """[C, H, W] the picture."""
        return self.axes.planes(self.picture.x)[0]

    @functools.cached_property
    def _digest(self) -> str:
        return self.picture.digest

    @property
    def randomised(self) -> Mapping[int, Subject]:
        """By depth, the model with shuffled weights down to there; shuffled anew for each picture, since a
        single shuffling can be a lucky one."""

        def make() -> Mapping[int, Subject]:
            seed = int(self.random("weights").integers(2**31))
            return {depth: self.subject.randomised(depth, seed) for depth in self.depths}

        return self.memory.get(("randomised",), make)

    def random(self, *labels: object) -> np.random.Generator:
        """A generator for one purpose on this picture."""
        return generator(self.seed, self._digest, *labels)

    def probabilities(self, planes: np.ndarray) -> np.ndarray:
        """[N] probability of the explained class for pictures [N, C, H, W]."""
        x = self.axes.tensor(planes, self.picture.x.shape)
        return np.asarray(self.subject.probabilities(x), np.float64)[:, self.class_]


@dataclass
class Shown:
    """One map of one method at one layer.

    Attributes:
        sample: the picture.
        method: name of the method.
        layer: tensor name.
        map: [h, w] as the method gives it, not negative.
        remap: the same method under other circumstances.
    """

    sample: Sample
    method: str
    layer: str
    map: np.ndarray
    remap: Remap

    def random(self, *labels: object) -> np.random.Generator:
        """A generator for one purpose on this map."""
        return self.sample.random(self.method, self.layer, *labels)

    @functools.cached_property
    def untied(self) -> np.ndarray:
        """[h, w] the map with ties broken at random."""
        return without_ties(self.map, self.random("ties"))

    @functools.cached_property
    def fine(self) -> np.ndarray:
        """[H, W] at the size of the input, without ties."""
        return enlarged(self.untied, *self.sample.size)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """Pixels, flattened, from strongest to weakest."""
        return strongest_first(self.fine, self.random("order"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a measure found for one map.

    Attributes:
        value: the measure.
        curve: points (share, value) behind it, if it is made of a curve.
    """

    value: float
    curve: tuple[Point, ...] = ()


Function = Callable[[Shown], Outcome | None]
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One measure.

    Attributes:
        name: with hyphens.
        summary: one sentence.
        better: which way is good; "neither" for what only describes.
        faithfulness: whether it says how far the map shows what the model used. False also for measures
            that a map can win without looking at the model.
        function: computes it; None where it does not apply to a map.
        default: part of an evaluation that names no measures.
        boxes: needs the object's box.
        at_layer: acts on the layer itself, so that one map differs from layer to layer.
        probing: computes maps again, so that it runs on a few pictures only.
        stability: compares maps of one method with each other, for `--stability`.
    """

    name: str
    summary: str
    better: Better
    faithfulness: bool
    function: Function
    default: bool
    boxes: bool
    at_layer: bool
    probing: bool
    stability: bool


class Metrics:
    """Measures by name; duplicates are refused."""

    def __init__(self) -> None:
        self._entries: dict[str, Metric] = {}

    def register(
        self,
        name: str,
        summary: str,
        *,
        better: Better,
        faithfulness: bool = False,
        default: bool = True,
        boxes: bool = False,
        at_layer: bool = False,
        probing: bool = False,
        stability: bool = False,
    ) -> Callable[[Function], Function]:
        """Decorator: add a measure.

        Raises:
            ValueError: the name is taken.
        """

        def add(function: Function) -> Function:
            if name in self._entries:
                raise ValueError(f"measure {name!r} is registered already")
            self._entries[name] = Metric(
                name, summary, better, faithfulness, function, default, boxes, at_layer, probing, stability
            )
            return function

        return add

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._entries.values())

    def __getitem__(self, name: str) -> Metric:
        """Raises OptionError where there is no such measure."""
        if name not in self._entries:
            raise OptionError(
                f"measure {name!r} does not exist", hint=f"one of {', '.join(self._entries)}, or all"
            )
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Of all measures, in the order in which they are shown."""
        return tuple(self._entries)


METRICS = Metrics()
