"""The table of explanation methods that an evaluation compares."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from naflow_core.errors import NumericalError, OptionError
from naflow_core.evaluate.subject import Subject

Resolution = Literal["layer", "input"]
Function = Callable[..., np.ndarray]


@dataclass(frozen=True, slots=True)
class Rival:
    """A named method that makes maps.

    Attributes:
        name: as in reports and on the command line.
        function: called with (subject, x, classes, layer, random), and its options by name
            (keyword-only).
        resolution: of its maps: the layer's own, or that of the input; the latter do not depend on the layer.
        control: it knows nothing of the class or nothing of the model: what a method must beat.
        runs: how often it runs the network for each picture, roughly, with its default options.
        source: the paper it comes from; "" for controls.
        options: what differs from the function's defaults.
    """

    name: str
    function: Function
    resolution: Resolution
    control: bool
    runs: int
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self, subject: Subject, x: np.ndarray, classes: np.ndarray, layer: str, random: np.random.Generator
    ) -> np.ndarray:
        """Maps [N, h, w], float32, not negative, higher is more important.

        Args:
            x: [N, ...] pictures as the model takes them.
            classes: [N] which class's score is explained.
            layer: name of one of `subject.layers`.
            random: where all that is random comes from. A generator that is seeded alike for every layer lets
                methods that sample make the maps of all studied layers at once.

        Raises:
            AnalysisError: no such layer.
            NumericalError: a map has nan or infinite values.
        """
        found = self.function(subject, x, classes, layer, random, **self.options)
        place = subject.layer(layer if self.resolution == "layer" else subject.source)
        maps = np.maximum(np.asarray(found, np.float32), 0)
        if maps.shape != (len(x), *place.resolution):
            raise ValueError(f"{self.name} made maps {maps.shape} for {place.resolution} at {place.name!r}")
        if not np.isfinite(maps).all():
            raise NumericalError(f"{self.name} made nan or infinite values at layer {layer!r}")
        return maps

    def configured(self, name: str, **options: Any) -> Rival:
        """The same method under another name, with other options.

        Raises:
            OptionError: it has no such option.
        """
        parameters = inspect.signature(self.function).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        for option in options:
            if option not in known:
                raise OptionError(
                    f"{self.name} has no option {option!r}", hint=f"it has {', '.join(known) or 'none'}"
                )
        return dataclasses.replace(self, name=name, options={**self.options, **options})


class RivalRegistry:
    """Rivals by name."""

    def __init__(self) -> None:
        self._rivals: dict[str, Rival] = {}

    def register(
        self,
        name: str,
        *,
        resolution: Resolution = "layer",
        control: bool = False,
        runs: int = 1,
        source: str = "",
    ) -> Callable[[Function], Function]:
        """Decorator: add a method; see `Rival` for the arguments.

        Raises:
            ValueError: the name is taken.
        """

        def add(function: Function) -> Function:
            self.add(Rival(name, function, resolution, control, runs, source))
            return function

        return add

    def add(self, rival: Rival) -> None:
        """Add a method that is made already.

        Raises:
            ValueError: the name is taken.
        """
        if rival.name in self._rivals:
            raise ValueError(f"there is already a method {rival.name!r}")
        self._rivals[rival.name] = rival

    def unregister(self, name: str) -> None:
        """Take one out again."""
        del self._rivals[name]

    def find(self, name: str) -> Rival:
        """The method of that name.

        Raises:
            OptionError: there is none; says which there are.
        """
        if name not in self._rivals:
            near = difflib.get_close_matches(name, self._rivals, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise OptionError(
                f"method {name!r} does not exist", hint=f"{meant}there is {', '.join(self._rivals)}"
            )
        return self._rivals[name]

    def names(self) -> tuple[str, ...]:
        """Of everything registered, in the order of registration."""
        return tuple(self._rivals)


REGISTRY = RivalRegistry()
register = REGISTRY.register
find = REGISTRY.find
