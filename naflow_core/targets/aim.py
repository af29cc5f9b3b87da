"""From similarities to what the cascade starts with: weights of the channels, and the prediction's facts.

Definitions: docs/similarity.md.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.errors import InputError, NumericalError, OptionError, TargetError
from naflow_core.flow import Neighbour, Similarity
from naflow_core.model.program import Subprogram
from naflow_core.targets.metrics import REGISTRY, Metric, checked

Array = Any
NORMALISE = ("minmax", "none")
COEFFICIENTS = ("contribution", "gradient")


class Embedder(Protocol):
    """What similarity targets ask of a model."""

    @property
    def sha256(self) -> str: ...
    def embed(self, x: Any, *, output: str | None = None, batch_size: int | None = None) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Space:
    """Where embeddings live: one model's output.

    Attributes:
        model: computes embeddings.
        output: name of the output.
        shape: of one embedding, [C, ...].
        batch_size: pictures per batch when reference pictures are embedded.
    """

    model: Embedder
    output: str
    shape: tuple[int, ...]
    batch_size: int | None


@dataclass(frozen=True, slots=True)
class Weighing:
    """How a similarity becomes coefficients at the top feature map.

    Attributes:
        metric: name of a registered metric.
        normalise: of the channel weights: "minmax" (to [0, 1]) or "none" (they keep their sign).
        coefficients: "contribution" (the Jacobian of the embedding, applied to the weights) or "gradient" (of
            the similarity).

    Raises:
        OptionError: a name that does not exist.
    """

    metric: str
    normalise: str
    coefficients: str

    def __post_init__(self) -> None:
        REGISTRY.find(self.metric)
        for name, value, known in (
            ("normalise", self.normalise, NORMALISE),
            ("coefficients", self.coefficients, COEFFICIENTS),
        ):
            if value not in known:
                raise OptionError(f"{name} {value!r} does not exist", hint=f"use {' or '.join(known)}")

    @property
    def measure(self) -> Metric:
        """The metric itself."""
        return REGISTRY.find(self.metric)

    def weights(self, contributions: np.ndarray) -> np.ndarray:
        """Channel contribution weights w [N, C] from contributions p [N, C].

        w = p / |sum p|; min-max then maps the smallest to 0 and the largest to 1. Where all are equal, all
        get 1. Without min-max, contributions that cancel to zero leave no weights: all 0.
        """
        if self.normalise == "minmax":
            low = contributions.min(axis=1, keepdims=True)
            width = contributions.max(axis=1, keepdims=True) - low
            return np.divide(contributions - low, width, out=np.ones_like(contributions), where=width > 0)
        total = np.abs(contributions.sum(axis=1, keepdims=True))
        return np.divide(contributions, total, out=np.zeros_like(contributions), where=total > 0)

    def aim(
        self,
        embedding: np.ndarray,
        measured: tuple[Array, Array, Array],
        scores: np.ndarray,
        target: np.ndarray,
        candidates: Sequence[str],
        neighbours: Sequence[Sequence[Neighbour]],
    ) -> Aim:
        """Everything about pictures whose similarity is `measured` (as `metrics.measure` returns it)."""
        contributions, similarity, gradient = (np.asarray(a, np.float32) for a in measured)
        if not (np.isfinite(similarity).all() and np.isfinite(gradient).all()):
            raise NumericalError(
                f"the {self.metric} similarity or its gradient is nan or infinite", hint="check preprocessing"
            )
        weights = self.weights(contributions)
        cotangent = gradient
        if self.coefficients == "contribution":
            spread = weights.reshape(*weights.shape, *([1] * (gradient.ndim - 2)))
            cotangent = np.broadcast_to(spread, gradient.shape)
        facts = Similarity(
            metric=self.metric,
            normalise=self.normalise,
            coefficients=self.coefficients,
            candidates=tuple(candidates),
            embedding=embedding,
            score=similarity,
            contributions=contributions,
            weights=weights,
            neighbours=tuple(tuple(row) for row in neighbours),
        )
        return Aim(cotangent, np.asarray(scores, np.float32), np.asarray(target), facts)


@dataclass(frozen=True, slots=True)
class Aim:
    """What is explained about a batch of pictures.

    Attributes:
        cotangent: [N, C, ...], pulled back through the head to the importance coefficients G_K.
        scores: [N, candidates] similarities or votes.
        target: [N] the explained candidate.
        similarity: the facts.
    """

    cotangent: np.ndarray
    scores: np.ndarray
    target: np.ndarray
    similarity: Similarity


class Aimed(Protocol):
    """A similarity target whose references are known as embeddings."""

    def parts(self, counts: Sequence[int]) -> Sequence[Aimed]:
        """The targets of batches of `counts` pictures."""

    def aim(self, embeddings: np.ndarray, first: int = 0) -> Aim:
        """What is explained about pictures with these embeddings [N, C, ...].

        Args:
            first: number of the first of them among all pictures, for messages.
        """


@functools.partial(jax.jit, static_argnums=0)
def pull_back(head: Subprogram, top: Array, operands: tuple[Array, ...], cotangent: Array) -> Array:
    """G_K: the transposed Jacobian of the embedding at the top feature map, applied to `cotangent`."""
    embedding, pull = jax.vjp(lambda t: head(t, operands)[0], top)
    (coefficients,) = pull(jnp.asarray(cotangent).reshape(embedding.shape))
    return coefficients


def embedded(references: Any, space: Space, weighing: Weighing, what: str) -> np.ndarray:
    """References as embeddings [M, C, ...]: taken as they are, or computed where they are pictures.

    Args:
        references: embeddings [M, C, ...] or one [C, ...]; or pictures as the model takes them.
        what: how messages call them.

    Raises:
        TargetError: they fit neither the model's output nor its input, or are empty, not finite or zero.
    """
    metric = weighing.measure
    values: Any = references
    if not isinstance(references, dict):
        values = np.asarray(references)
        if values.dtype.kind not in "fiu" or values.ndim == 0:
            raise TargetError(f"the {what} are no numbers: {values.dtype} {list(values.shape)}")
        if values.size == 0:
            raise TargetError(f"there are no {what}: shape {list(values.shape)}", hint="give at least one")
        if values.shape == space.shape:
            values = values[None]
    if isinstance(values, dict) or not _fits(values.shape[1:], space.shape, metric):
        values = _as_pictures(values, space, what)
    if not _fits(values.shape[1:], space.shape, metric):
        raise TargetError(
            f"the {what} give embeddings of shape {list(values.shape[1:])}, the explained pictures "
            f"{list(space.shape)}",
            hint="give them the same size",
        )
    values = np.ascontiguousarray(values, np.float32)
    check_vectors(values, metric, what)
    checked(metric, space.shape, values.shape)
    return values


def _fits(shape: tuple[int, ...], embedding: tuple[int, ...], metric: Metric) -> bool:
    if metric.maps_only:
        return len(shape) == len(embedding) and shape[:1] == embedding[:1]
    return shape == embedding


def _as_pictures(values: Any, space: Space, what: str) -> np.ndarray:
    try:
        return space.model.embed(values, output=space.output, batch_size=space.batch_size)
    except InputError as error:
        shape = "by name" if isinstance(values, dict) else f"of shape {list(values.shape)}"
        raise TargetError(
            f"the {what} {shape} are neither embeddings of shape {list(space.shape)} nor pictures for the "
            f"model: {error.message}",
            hint=error.hint,
        ) from error


def check_vectors(embeddings: np.ndarray, metric: Metric, what: str, first: int = 0) -> None:
    """Refuse embeddings that the metric is not defined for.

    Args:
        first: number of the first row, for messages.

    Raises:
        TargetError: names the first such row.
    """
    flat = embeddings.reshape(len(embeddings), -1)
    for begin in range(0, len(flat), 65536):  # without a second copy of a large bank
        part = flat[begin : begin + 65536]
        bad = ~np.isfinite(part).all(axis=1)
        if bad.any():
            row = first + begin + int(np.argmax(bad))
            raise TargetError(f"{what}: number {row} has nan or infinite values")
        zero = ~part.any(axis=1)
        if metric.directional and zero.any():
            raise TargetError(
                f"{what}: number {first + begin + int(np.argmax(zero))} is the zero vector, which has no "
                f"{metric.name} similarity",
                hint="leave it out, or use --metric euclidean",
            )


def joined(parts: Sequence[Similarity]) -> Similarity:
    """The facts of several batches as one."""
    return replace(
        parts[0],
        embedding=np.concatenate([part.embedding for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        contributions=np.concatenate([part.contributions for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
        neighbours=tuple(row for part in parts for row in part.neighbours),
    )
