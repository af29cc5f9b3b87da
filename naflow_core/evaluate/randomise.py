"""A model whose weights have lost their order."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from naflow_core.explainer import Model, Shape
from naflow_core.model.program import Program

Change = Callable[[str, np.ndarray], np.ndarray]


class WithOtherWeights(Model):
    """A loaded model with some weights changed; its programs have the structure of the original's, so that
    nothing is compiled anew. What compares with the file itself (`verify`) still sees the file's weights."""

    def __init__(self, base: Model, names: frozenset[str], change: Change) -> None:
        """Args:
        names: constants to change, by tensor name.
        change: from a constant's name and value to its new value, of the same shape and type.
        """
        super().__init__(base.loaded)
        self._base, self._names, self._change = base, names, change
        self._changed: dict[tuple[Any, ...], Program] = {}

    def program(self, shapes: Mapping[str, Shape]) -> Program:
        """The program for concrete input shapes (cached)."""
        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        with self._lock:
            if key not in self._changed:
                self._changed[key] = self._rewritten(self._base.program(shapes))
            return self._changed[key]

    def _rewritten(self, program: Program) -> Program:
        new = {n: self._change(n, program.constants[n]) for n in program.constants if n in self._names}
        kept = {n: program.weight(n) for n in program.constants if n not in new}
        shared = {n: array for n, array in kept.items() if n in program.initializers}
        own = {n: array for n, array in kept.items() if n not in program.initializers}
        constants = {**program.constants, **new}
        return dataclasses.replace(program, constants=constants, _own_weights=own, _shared_weights=shared)


def weights_between(program: Program, source: str, target: str) -> tuple[str, ...]:
    """Names of the weights that the steps from one tensor to another read: float constants with more than one
    element."""
    read = [
        name for i in program.between(source, (target,)) for name in program.steps[i].sources
        if isinstance(name, str) and name in program.constants
    ]  # fmt: skip
    return tuple(
        name
        for name in dict.fromkeys(read)
        if program.constants[name].dtype.kind == "f" and program.constants[name].size > 1
    )


def permuted(name: str, value: np.ndarray, *, seed: int) -> np.ndarray:
    """The elements of a weight in random order, which depends on the seed and the weight's name."""
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return random.permutation(value.reshape(-1)).reshape(value.shape)
