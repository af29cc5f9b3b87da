"""What a similarity target found, to messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import naflow_core as nf
from naflow.v1 import similarity_pb2 as sim
from naflow_server.convert.tables import COEFFICIENTS, NORMALISATIONS, key
from naflow_server.engine import types

NEIGHBOUR_BYTES = 1 << 20  # of a header, labels included
FIXED_BYTES = 24  # of a neighbour, its label aside


def names_of(target: types.Target, prediction: nf.Prediction) -> Callable[[int], str]:
    """The name of a candidate, where it has one that the caller does not know by its number."""
    found = prediction.similarity
    if found is None or isinstance(target, nf.SimilarityTarget):
        return lambda _: ""
    return found.candidates.__getitem__


def similarity(header: types.Header, target: types.Target, picture: int, count: int) -> sim.Similarity:
    """What was found for one picture; `count` channels of it."""
    prediction, bank = header.prediction, header.bank
    found = prediction.similarity
    assert found is not None, "there is a similarity to convert"
    named = not isinstance(target, nf.SimilarityTarget)
    paired = isinstance(target, nf.SimilarityTarget) and target.paired
    room = NEIGHBOUR_BYTES // len(prediction.scores)
    return sim.Similarity(
        score=float(found.score[picture]),
        comparison=sim.Comparison(
            metric=found.metric,
            coefficients=key(COEFFICIENTS, found.coefficients),
            normalisation=key(NORMALISATIONS, found.normalise),
        ),
        channels=[
            sim.ChannelContribution(channel=channel, contribution=contribution)
            for channel, contribution in found.top_channels(picture, count)
        ],
        neighbours=[
            sim.Neighbour(
                index=picture if paired else item.index,
                label=item.label if named else "",
                similarity=item.similarity,
                used=item.used,
            )
            for item in _fitting(found.neighbours[picture], room)
        ],
        bank_id=bank.id if bank is not None else "",
        bank_version=bank.version if bank is not None else 0,
    )


def _fitting(neighbours: Sequence[nf.Neighbour], room: int) -> Iterator[nf.Neighbour]:
    """The first of them that go into so many bytes."""
    for item in neighbours:
        room -= FIXED_BYTES + len(item.label.encode())
        if room < 0:
            return
        yield item
