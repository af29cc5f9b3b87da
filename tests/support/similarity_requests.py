"""Messages that ask for similarities."""

from __future__ import annotations

from typing import Any

import numpy as np

from naflow.v1 import method_pb2 as me
from naflow.v1 import similarity_pb2 as sim
from support.embedding_networks import CHANNELS
from support.grpc_server import tensor

EMBEDDED = np.arange(1, 1 + 2 * CHANNELS, dtype=np.float32).reshape(2, CHANNELS)


def of_references(values: np.ndarray, **fields: Any) -> me.Target:
    references = sim.References(embeddings=tensor(values))
    return me.Target(similarity_target=sim.SimilarityTarget(references=references, **fields))


def of_bank(**fields: Any) -> me.Target:
    return me.Target(bank_target=sim.BankTarget(**fields))


def changed(values: np.ndarray, row: int, to: float) -> np.ndarray:
    copy = values.copy()
    copy[row] = to
    return copy


def supports(values: np.ndarray = EMBEDDED, labels: tuple[str, ...] = ("a", "b"), **fields: Any) -> me.Target:
    own = sim.References(embeddings=tensor(values))
    return me.Target(prototype_target=sim.PrototypeTarget(supports=own, labels=labels, **fields))


def along(
    values: np.ndarray = EMBEDDED, labels: tuple[str, ...] = ("a", "b"), sha256: str = "", **fields: Any
) -> Any:
    own = sim.LabelledEmbeddings(embeddings=tensor(values), labels=labels, model_sha256=sha256)
    return of_bank(embeddings=own, **fields)


def as_pictures(values: np.ndarray) -> me.Target:
    own = sim.References(pictures=sim.Pictures(inputs={"": tensor(values)}))
    return me.Target(similarity_target=sim.SimilarityTarget(references=own))
