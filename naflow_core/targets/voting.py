"""The bank target: the neighbours of the class that the nearest neighbours vote for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naflow_core.errors import OptionError, TargetError
from naflow_core.flow import Neighbour
from naflow_core.targets.aim import Aim, Space, Weighing, check_vectors
from naflow_core.targets.banks import Bank
from naflow_core.targets.labels import nearest_names
from naflow_core.targets.metrics import checked, measure
from naflow_core.targets.search import nearest


@dataclass(frozen=True, slots=True, eq=False)
class BankTarget:
    """The mean similarity with those of the k nearest neighbours that carry the voted label.

    Each of the k nearest votes exp(similarity / temperature) for its label.

    Attributes:
        bank: labelled embeddings of the same model.
        k: how many neighbours vote; all, if the bank holds fewer.
        wanted: another label to explain; it must be among the k nearest. The voted one when None.
        metric, normalise, coefficients: as in `SimilarityTarget`.
        temperature: greater than 0.

    Raises:
        OptionError: a name that does not exist, or a number that is too small.
    """

    bank: Bank
    k: int = 20
    wanted: str | int | None = None
    metric: str = "cosine"
    normalise: str = "minmax"
    coefficients: str = "gradient"
    temperature: float = 0.07

    def __post_init__(self) -> None:
        Weighing(self.metric, self.normalise, self.coefficients)
        if self.k < 1:
            raise OptionError(f"k {self.k} must be at least 1")
        if not 0 < self.temperature < np.inf:
            raise OptionError(f"temperature {self.temperature} must be greater than 0")

    def bind(self, space: Space) -> BoundBank:
        """The target, checked against the model.

        Raises:
            TargetError, OptionError: the bank is another model's, or bank, label and metric do not fit.
        """
        bank, weighing = self.bank, Weighing(self.metric, self.normalise, self.coefficients)
        bank.check_model(space.model.sha256)
        if bank.output and bank.output != space.output:
            raise TargetError(
                f"bank {bank.source!r} holds output {bank.output!r}, explained is {space.output!r}",
                hint="choose the output, or make another bank",
            )
        if bank.embeddings.shape[1:] != space.shape:
            raise TargetError(
                f"bank {bank.source!r} holds embeddings of shape {list(bank.embeddings.shape[1:])}, "
                f"the model gives {list(space.shape)}",
                hint="make a bank with pictures of this size",
            )
        check_vectors(bank.embeddings, weighing.measure, f"bank {bank.source!r}")
        checked(weighing.measure, space.shape, (1, *space.shape))
        labels = tuple(dict.fromkeys(map(str, bank.labels)))
        wanted = None if self.wanted is None else str(self.wanted)
        if wanted is not None and wanted not in labels:
            raise TargetError(
                f"label {wanted!r} is not in bank {bank.source!r}", hint=nearest_names(wanted, labels)
            )
        return BoundBank(bank, labels, min(self.k, len(bank)), wanted, weighing, self.temperature)


@dataclass(frozen=True, slots=True, eq=False)
class BoundBank:
    """A bank target that fits its model. `labels`: the bank's different ones, in order of appearance."""

    bank: Bank
    labels: tuple[str, ...]
    k: int
    wanted: str | None
    weighing: Weighing
    temperature: float

    def parts(self, counts: Sequence[int]) -> list[BoundBank]:
        """The targets of batches of `counts` pictures."""
        return [self] * len(counts)

    def aim(self, embeddings: np.ndarray) -> Aim:
        """What is explained about pictures with these embeddings."""
        metric = self.weighing.measure
        check_vectors(embeddings, metric, "embeddings of the explained pictures")
        places, similarities = nearest(metric, embeddings, self.bank.embeddings, self.k)
        number = {label: i for i, label in enumerate(self.labels)}
        classes = np.array([[number[str(self.bank.labels[p])] for p in row] for row in places])
        votes = self._votes(classes, similarities)
        target = votes.argmax(axis=1)
        if self.wanted is not None:
            target = np.full(len(votes), number[self.wanted])
        used = classes == target[:, None]
        if not used.any(axis=1).all():
            picture = int(np.argmin(used.any(axis=1)))
            raise TargetError(
                f"none of the {self.k} nearest neighbours of picture {picture} is {self.wanted!r}",
                hint="use a larger k, or another label",
            )
        parts = [
            measure(metric, True, embeddings[i : i + 1], self.bank.embeddings[places[i][used[i]]])
            for i in range(len(embeddings))
        ]
        contributions, similarity, gradient = (
            np.concatenate([np.asarray(part[j]) for part in parts]) for j in range(3)
        )
        rows = [
            [
                Neighbour(int(p), str(self.bank.labels[p]), float(s), bool(u), str(self.bank.names[p]))
                for p, s, u in zip(places[i], similarities[i], used[i], strict=True)
            ]
            for i in range(len(embeddings))
        ]
        return self.weighing.aim(
            embeddings, (contributions, similarity, gradient), votes, target, self.labels, rows
        )

    def _votes(self, classes: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        """[N, labels] share of the votes; the largest similarity is taken out first, so nothing overflows."""
        high = similarities.max(axis=1, keepdims=True).astype(np.float64)
        ballots = np.exp((similarities - high) / self.temperature)
        votes = np.zeros((len(classes), len(self.labels)))
        for i, row in enumerate(classes):
            np.add.at(votes[i], row, ballots[i])
        return votes / votes.sum(axis=1, keepdims=True)
