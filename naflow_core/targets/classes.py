"""The class-score target: one logit per picture."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.errors import TargetError
from naflow_core.model.program import Subprogram
from naflow_core.targets.labels import Labels

Array = Any


@dataclass(frozen=True, slots=True)
class ClassTarget:
    """The logit of one class.

    Attributes:
        wanted: "top" (each picture's own best class), a class index, or a class name (needs labels).
        labels: names of the classes, in the model's order or without its background class.
    """

    wanted: int | str = "top"
    labels: Labels | None = None

    @classmethod
    def parse(cls, text: str, labels: Labels | None = None) -> ClassTarget:
        """From "top", "class:top", "class:281" or "class:tabby".

        Raises:
            TargetError: anything else.
        """
        kind, found, value = text.partition(":")
        if text == "top":
            return cls("top", labels)
        if kind != "class" or not found or not value:
            raise TargetError(f"--target {text!r} is not understood", hint="use top, class:281 or class:NAME")
        return cls(int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value, labels)

    def indices(self, scores: np.ndarray, ranked: np.ndarray | None = None) -> np.ndarray:
        """Class index per picture.

        Args:
            scores: [N, classes] logits.
            ranked: [N, classes] class indices, best first, where the order is not that of the logits.

        Raises:
            TargetError: no such class.
        """
        count, classes = scores.shape
        if self.wanted == "top":
            return np.argmax(scores, axis=1) if ranked is None else ranked[:, 0]
        if isinstance(self.wanted, str):
            if self.labels is None:
                raise TargetError(
                    f"class name {self.wanted!r} needs the class names",
                    hint="give --labels FILE or use class:K",
                )
            index = self.labels.fitted(classes).index(self.wanted)
        else:
            index = self.wanted
        if not 0 <= index < classes:
            raise TargetError(
                f"class {index} does not exist", hint=f"the model has {classes} classes, 0 to {classes - 1}"
            )
        return np.full(count, index)

    def parts(self, counts: Sequence[int]) -> list[ClassTarget]:
        """The targets of batches of `counts` pictures."""
        return [self] * len(counts)

    def coefficients(
        self, head: Subprogram, top: Array, operands: tuple[Array, ...], indices: np.ndarray
    ) -> Array:
        """G_K = ds/dt_K, for the classes from `indices`."""
        return _class_coefficients(head, top, operands, jnp.asarray(indices, jnp.int32))


@dataclass(frozen=True, slots=True)
class PerPicture:
    """A class target of its own for every picture of a batch.

    Attributes:
        targets: one for each picture, in order.
    """

    targets: tuple[ClassTarget, ...]

    def indices(self, scores: np.ndarray, ranked: np.ndarray | None = None) -> np.ndarray:
        """Class index per picture.

        Args:
            scores, ranked: as in `ClassTarget.indices`.

        Raises:
            TargetError: no such class.
        """
        found = [
            target.indices(scores[i : i + 1], None if ranked is None else ranked[i : i + 1])
            for i, target in enumerate(self.targets)
        ]
        return np.concatenate(found)

    def parts(self, counts: Sequence[int]) -> list[PerPicture]:
        """The targets of batches of `counts` pictures.

        Raises:
            TargetError: there are more or fewer pictures than targets.
        """
        if sum(counts) != len(self.targets):
            raise TargetError(
                f"{len(self.targets)} targets do not fit {sum(counts)} pictures",
                hint="give one for each picture",
            )
        ends = list(itertools.accumulate(counts))
        return [PerPicture(self.targets[end - count : end]) for end, count in zip(ends, counts, strict=True)]

    def coefficients(
        self, head: Subprogram, top: Array, operands: tuple[Array, ...], indices: np.ndarray
    ) -> Array:
        """G_K = ds/dt_K, for the classes from `indices`."""
        return _class_coefficients(head, top, operands, jnp.asarray(indices, jnp.int32))


@functools.partial(jax.jit, static_argnums=0)
def _class_coefficients(head: Subprogram, top: Array, operands: tuple[Array, ...], indices: Array) -> Array:
    def score(t: Array) -> Array:
        scores = head(t, operands)[0]
        flat = scores.reshape(indices.shape[0], -1)
        return jnp.sum(jnp.take_along_axis(flat, indices[:, None], axis=1))

    return jax.grad(score)(top)
