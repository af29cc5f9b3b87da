"""The bank target: the neighbours of the class that the nearest neighbours vote for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naflow_core.errors import OptionError, TargetError
from naflow_core.flow import Neighbour
from naflow_core.targets import faiss_index
from naflow_core.targets.aim import Aim, Space, Weighing, check_vectors
from naflow_core.targets.banks import Bank
from naflow_core.targets.labels import nearest_names
from naflow_core.targets.metrics import Metric, checked, measure, measure_some
from naflow_core.targets.search import BACKENDS, search

LEAST = 32  # references that a program is made for, at least


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
        search: "jax", or "faiss" where that is installed: a copy of the bank in memory, searched on the
            CPU. Both find the same neighbours in the same order.

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
    search: str = "jax"

    def __post_init__(self) -> None:
        Weighing(self.metric, self.normalise, self.coefficients)
        if self.k < 1:
            raise OptionError(f"k {self.k} must be at least 1")
        if not 0 < self.temperature < np.inf:
            raise OptionError(f"temperature {self.temperature} must be greater than 0")
        if self.search not in BACKENDS:
            raise OptionError(f"search {self.search!r} does not exist", hint=f"use {' or '.join(BACKENDS)}")
        if self.search == "faiss":
            faiss_index.check(self.metric)

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
        directional = weighing.measure.directional
        bank.once(f"checked {directional}", lambda: _check(bank, weighing.measure))
        checked(weighing.measure, space.shape, (1, *space.shape))
        labels = bank.classes
        wanted = None if self.wanted is None else str(self.wanted)
        if wanted is not None and wanted not in labels:
            raise TargetError(
                f"label {wanted!r} is not in bank {bank.source!r}", hint=nearest_names(wanted, labels)
            )
        return BoundBank(
            bank, labels, min(self.k, len(bank)), wanted, weighing, self.temperature, self.search
        )


@dataclass(frozen=True, slots=True, eq=False)
class BoundBank:
    """A bank target that fits its model. `labels`: the bank's different ones, in order of appearance."""

    bank: Bank
    labels: tuple[str, ...]
    k: int
    wanted: str | None
    weighing: Weighing
    temperature: float
    search: str = "jax"

    def parts(self, counts: Sequence[int]) -> list[BoundBank]:
        """The targets of batches of `counts` pictures."""
        return [self] * len(counts)

    def aim(self, embeddings: np.ndarray, first: int = 0) -> Aim:
        """What is explained about pictures with these embeddings; see `Aimed`."""
        metric = self.weighing.measure
        check_vectors(embeddings, metric, "embeddings of the explained pictures", first)
        places, similarities = search(metric, embeddings, self.bank, self.k, self.search)
        classes = self.bank.class_numbers[places]
        votes = self._votes(classes, similarities)
        target = votes.argmax(axis=1)
        if self.wanted is not None:
            target = np.full(len(votes), self.labels.index(self.wanted))
        used = classes == target[:, None]
        if not used.any(axis=1).all():
            picture = first + int(np.argmin(used.any(axis=1)))
            raise TargetError(
                f"none of the {self.k} nearest neighbours of picture {picture} is {self.wanted!r}",
                hint="use a larger k, or another label",
            )
        parts = [
            _measured(metric, embeddings[i : i + 1], self.bank.embeddings[places[i][used[i]]], self.k)
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


def _check(bank: Bank, metric: Metric) -> bool:
    check_vectors(bank.embeddings, metric, f"bank {bank.source!r}")
    return True


def _measured(
    metric: Metric, embedding: np.ndarray, references: np.ndarray, most: int
) -> tuple[Any, Any, Any]:
    """`measure` with up to `most` references, filled up with copies that do not count: one program for many
    numbers of them. A pool cannot be filled up; there the number is part of the program."""
    if metric.pools:
        return measure(metric, True, embedding, references)
    count, size = len(references), max(LEAST, 1 << (most - 1).bit_length())
    filled = np.concatenate([references, np.repeat(references[:1], size - count, axis=0)])
    share = np.where(np.arange(size) < count, np.float32(1 / count), np.float32(0))
    return measure_some(metric, embedding, filled, share)
