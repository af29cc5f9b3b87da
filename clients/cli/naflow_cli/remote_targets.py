"""Similarities that a server explains: what is sent for them, and what its answers say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import naflow_core as nf
from naflow_cli.comparands import Comparands
from naflow_client import BankTarget, LabelledEmbeddings, PrototypeTarget, Result, SimilarityTarget
from naflow_client.answers import Prediction
from naflow_client.presentation import TOP
from naflow_client.report import Comparison

PAIR = "pair"

RemoteTarget = SimilarityTarget | PrototypeTarget | BankTarget


def remote_target(comparands: Comparands) -> Callable[[int, int], RemoteTarget]:
    """What a server is asked for the pictures from one position to another.

    Raises:
        OptionError: references of both kinds, which one request does not hold.
        TargetError: their sizes differ.
    """
    options = comparands.options
    how = (options.metric, options.normalise, options.coefficients)
    if options.with_bank:
        bank: str | LabelledEmbeddings = options.server_bank or ""
        if comparands.bank is not None:
            own = comparands.bank
            bank = LabelledEmbeddings(own.embeddings, own.labels, own.model_sha256)
        voted = BankTarget(bank, options.neighbours, comparands.label, *how)
        return lambda *_: voted
    references = _joined(comparands.parts)
    if options.ways:
        episode = PrototypeTarget(references, options.ways, comparands.label, *how, contrast=options.contrast)
        return lambda *_: episode
    if options.sides is None:
        same = SimilarityTarget(references, *how, names=comparands.names)
        return lambda *_: same

    def pairs(begin: int, end: int) -> SimilarityTarget:
        if isinstance(references, dict):
            part: Any = {name: array[begin:end] for name, array in references.items()}
        else:
            part = references[begin:end]
        return SimilarityTarget(part, *how, names=comparands.names[begin:end], paired=True)

    return pairs


def check_pairs(comparands: Comparands, pictures: int) -> None:
    """Refuse pairs that are none; a server would see only a part of them.

    Raises:
        TargetError: there are more or fewer references than pictures.
    """
    count = len(comparands.names)
    if comparands.options.sides is not None and count != pictures:
        raise nf.TargetError(
            f"{count} references do not pair with {pictures} pictures", hint="give one for each picture"
        )


def comparison_of(comparands: Comparands, position: int, prediction: Prediction) -> Comparison | None:
    """For the report: what the picture at `position` was compared with."""
    found = prediction.similarity
    if found is None:
        return None
    channels = found.top_channels[:TOP]
    return Comparison(found.metric, found.score, channels, comparands.shown(position, found.neighbours))


def labels_of(comparands: Comparands, results: Sequence[Result]) -> Callable[[int], str]:
    """The name of a reference, way or label by its number."""
    if comparands.options.sides is not None:
        return lambda _: PAIR
    told = {
        row.index: row.label
        for result in results
        for prediction in result.header.predictions
        for row in (prediction.target, *prediction.best)
        if row.label
    }
    return lambda number: told[number] if number in told else comparands.names[number]


def _joined(
    parts: Sequence[NDArray[Any] | dict[str, NDArray[Any]]],
) -> NDArray[Any] | dict[str, NDArray[Any]]:
    pictures = [part for part in parts if isinstance(part, dict)]
    rows = [part for part in parts if not isinstance(part, dict)]
    if pictures and rows:
        raise nf.OptionError(
            "some references are pictures and some are embeddings, which a server does not take together",
            hint="give one kind, or leave out --server",
        )
    tables = pictures or [{"": part} for part in rows]
    if any(len({part[name].shape[1:] for part in tables}) > 1 for name in tables[0]):
        raise nf.TargetError("the references have different sizes", hint="give one size")
    joined = {name: np.concatenate([part[name] for part in tables]) for name in tables[0]}
    return joined if pictures else joined[""]
