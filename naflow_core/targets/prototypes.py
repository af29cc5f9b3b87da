"""The few-shot target: the similarity with the prototype of one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naflow_core.errors import TargetError
from naflow_core.flow import Neighbour
from naflow_core.targets.aim import Aim, Space, Weighing, check_vectors, embedded
from naflow_core.targets.labels import nearest_names
from naflow_core.targets.metrics import measure

PREDICTED = None


@dataclass(frozen=True, slots=True, eq=False)
class PrototypeTarget:
    """An N-way K-shot episode: the similarity with one way's supports.

    Each way's reference is its prototype, the mean of its supports' embeddings; with a metric that pools
    ("image-to-class"), all local descriptors of its supports together. The predicted way is the most similar.

    Attributes:
        supports: embeddings [S, C, ...] or pictures, as in `SimilarityTarget`.
        labels: [S] the way of each support; the number of shots may differ between ways.
        wanted: the label of the way to explain; each picture's predicted way when None.
        metric, normalise, coefficients: as in `SimilarityTarget`.
        contrast: explain the similarity minus that with the most similar other way.

    Raises:
        OptionError: a name that does not exist.
    """

    supports: Any
    labels: Sequence[str | int]
    wanted: str | int | None = PREDICTED
    metric: str = "cosine"
    normalise: str = "minmax"
    coefficients: str = "gradient"
    contrast: bool = False

    def __post_init__(self) -> None:
        Weighing(self.metric, self.normalise, self.coefficients)

    def bind(self, space: Space) -> BoundPrototypes:
        """The target with its references as embeddings.

        Raises:
            TargetError, OptionError: supports, labels, way or metric do not fit.
        """
        weighing = Weighing(self.metric, self.normalise, self.coefficients)
        supports = embedded(self.supports, space, weighing, "supports")
        labels = tuple(map(str, self.labels))
        if len(labels) != len(supports):
            raise TargetError(
                f"{len(labels)} labels do not fit {len(supports)} supports", hint="one for each"
            )
        ways = tuple(dict.fromkeys(labels))
        if self.contrast and len(ways) < 2:
            raise TargetError(f"there is no runner-up: all supports are {ways[0]!r}", hint="give another way")
        members = [supports[[label == way for label in labels]] for way in ways]
        if not weighing.measure.pools:
            members = [rows.mean(axis=0, keepdims=True) for rows in members]
            check_vectors(np.concatenate(members), weighing.measure, "prototypes")
        wanted = None
        if self.wanted is not None:
            if str(self.wanted) not in ways:
                raise TargetError(
                    f"way {str(self.wanted)!r} is not among the supports' labels",
                    hint=nearest_names(str(self.wanted), ways),
                )
            wanted = ways.index(str(self.wanted))
        return BoundPrototypes(tuple(members), ways, wanted, weighing, self.contrast)


@dataclass(frozen=True, slots=True, eq=False)
class BoundPrototypes:
    """A few-shot target with each way's references [M, C, ...] as embeddings."""

    references: tuple[np.ndarray, ...]
    ways: tuple[str, ...]
    wanted: int | None
    weighing: Weighing
    contrast: bool

    def parts(self, counts: Sequence[int]) -> list[BoundPrototypes]:
        """The targets of batches of `counts` pictures."""
        return [self] * len(counts)

    def aim(self, embeddings: np.ndarray, first: int = 0) -> Aim:
        """What is explained about pictures with these embeddings; see `Aimed`."""
        metric = self.weighing.measure
        check_vectors(embeddings, metric, "embeddings of the explained pictures", first)
        count = np.arange(len(embeddings))
        each = [measure(metric, True, embeddings, references) for references in self.references]
        tables = tuple(np.stack([np.asarray(way[i]) for way in each]) for i in range(3))
        scores = tables[1].T
        order = np.argsort(-scores, axis=1, kind="stable")
        target = order[:, 0] if self.wanted is None else np.full(len(count), self.wanted)
        measured = tuple(table[target, count] for table in tables)
        rivals = np.full(len(count), -1)
        if self.contrast:
            rivals = np.where(order[:, 0] == target, order[:, 1 % len(self.ways)], order[:, 0])
            measured = tuple(table[target, count] - table[rivals, count] for table in tables)
        rows = [
            [
                Neighbour(int(j), self.ways[j], float(scores[i, j]), bool(j in (target[i], rivals[i])))
                for j in order[i]
            ]
            for i in count
        ]
        contributions, similarity, gradient = measured
        return self.weighing.aim(
            embeddings, (contributions, similarity, gradient), scores, target, self.ways, rows
        )
