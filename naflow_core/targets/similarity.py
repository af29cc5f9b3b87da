"""The similarity target: one reference, or a set of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naflow_core.errors import TargetError
from naflow_core.flow import Neighbour
from naflow_core.targets.aim import Aim, Space, Weighing, check_vectors, embedded
from naflow_core.targets.metrics import measure, pairwise

Array = Any


@dataclass(frozen=True, slots=True, eq=False)
class SimilarityTarget:
    """The similarity with one reference, or the mean similarity with several.

    Attributes:
        references: embeddings [M, C, ...] or a single one [C, ...], as `Model.embed` gives them; or pictures
            as the model takes them, which are embedded first. An array that fits both counts as embeddings.
        metric: "cosine", "dot", "euclidean", "image-to-class" (local descriptors) or a registered one.
        normalise: of the channel weights, "minmax" or "none".
        coefficients: "contribution" or "gradient", see `naflow_core.targets.aim.Weighing`.
        names: of the references, for reports; numbers when empty.
        paired: reference i belongs to picture i alone.

    Raises:
        OptionError: a name that does not exist.
    """

    references: Any
    metric: str = "cosine"
    normalise: str = "minmax"
    coefficients: str = "gradient"
    names: Sequence[str] = ()
    paired: bool = False

    def __post_init__(self) -> None:
        Weighing(self.metric, self.normalise, self.coefficients)

    def bind(self, space: Space) -> BoundSimilarity:
        """The target with its references as embeddings.

        Raises:
            TargetError, OptionError: references, names or metric do not fit.
        """
        weighing = Weighing(self.metric, self.normalise, self.coefficients)
        references = embedded(self.references, space, weighing, "references")
        names = tuple(map(str, self.names)) or tuple(map(str, range(len(references))))
        if len(names) != len(references):
            raise TargetError(
                f"{len(names)} names do not fit {len(references)} references", hint="give one for each"
            )
        return BoundSimilarity(references, names, weighing, self.paired)


@dataclass(frozen=True, slots=True, eq=False)
class BoundSimilarity:
    """A similarity target with embeddings [M, C, ...] as references."""

    references: np.ndarray
    names: tuple[str, ...]
    weighing: Weighing
    paired: bool

    def parts(self, counts: Sequence[int]) -> list[BoundSimilarity]:
        """The targets of batches of `counts` pictures.

        Raises:
            TargetError: pairs, and there are more or fewer pictures than references.
        """
        if not self.paired:
            return [self] * len(counts)
        if sum(counts) != len(self.references):
            raise TargetError(
                f"{len(self.references)} references do not pair with {sum(counts)} pictures",
                hint="give one for each picture",
            )
        ends = list(itertools.accumulate(counts))
        return [
            BoundSimilarity(self.references[end - n : end], self.names[end - n : end], self.weighing, True)
            for end, n in zip(ends, counts, strict=True)
        ]

    def aim(self, embeddings: np.ndarray, first: int = 0) -> Aim:
        """What is explained about pictures with these embeddings; see `Aimed`."""
        metric = self.weighing.measure
        check_vectors(embeddings, metric, "embeddings of the explained pictures", first)
        count = len(embeddings)
        if self.paired:
            measured = measure(metric, False, embeddings, self.references[:, None])
            scores = np.asarray(measured[1])[:, None]
            rows = [[Neighbour(0, self.names[i], float(scores[i, 0]), True)] for i in range(count)]
            return self.weighing.aim(embeddings, measured, scores, np.zeros(count, int), ("pair",), rows)
        measured = measure(metric, True, embeddings, self.references)
        scores = np.asarray(pairwise(metric, embeddings, self.references))
        order = np.argsort(-scores, axis=1, kind="stable")
        rows = [
            [Neighbour(int(j), self.names[j], float(scores[i, j]), True) for j in order[i]]
            for i in range(count)
        ]
        return self.weighing.aim(embeddings, measured, scores, order[:, 0], self.names, rows)
