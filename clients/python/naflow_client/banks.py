"""What a server says about its banks of reference embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BankStatus:
    """A bank of reference embeddings, and how much it holds.

    Attributes:
        bank: its name.
        id: tells it from other banks that had the same name before it or will have it after.
        dimension: float32 numbers in each embedding.
        model_sha256: of the model file that the embeddings come from.
        version: number of appends so far; with `id` it tells the content.
        count: embeddings.
        labelled: those of them that have a label.
        size_bytes: on the server's disk.
        reason: why it cannot be used, in which case only name and size are known; "" otherwise.
    """

    bank: str
    id: str
    dimension: int
    model_sha256: str
    version: int
    count: int
    labelled: int
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of embeddings that were appended.

    Attributes:
        bank: after the last of them.
        positions: of each embedding in the bank, int64 [N].
    """

    bank: BankStatus
    positions: NDArray[np.int64]
