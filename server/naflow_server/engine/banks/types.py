"""What a bank holds, and what became of an append."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class BankInfo:
    """A bank, and how much it holds.

    Attributes:
        name: its own.
        id: tells it from others that had or will have the same name; 32 hexadecimal digits.
        dimension: float32 numbers in each embedding.
        model_sha256: of the model file that the embeddings come from.
        version: appends so far.
        count: embeddings.
        labelled: those of them that have a label.
        bytes: on disk.
        reason: why it cannot be used, in which case only name and bytes are known; "" otherwise.
    """

    name: str
    id: str = ""
    dimension: int = 0
    model_sha256: str = ""
    version: int = 0
    count: int = 0
    labelled: int = 0
    bytes: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of an append.

    Attributes:
        bank: as it is now.
        version: that this append made.
        first: position of its first embedding in the bank.
        repeated: it had been there already, and nothing was added.
    """

    bank: BankInfo
    version: int
    first: int
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of a bank at one version; later appends do not change it.

    Attributes:
        id: of the bank.
        model_sha256: of the model file that the embeddings come from.
        version: whose content this is.
        embeddings: float32 [count, dimension], read-only.
        labels: one for each embedding; "" where it has none.
    """

    id: str
    model_sha256: str
    version: int
    embeddings: np.ndarray
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BankNumbers:
    """How much all banks hold together, for metrics."""

    banks: int = 0
    embeddings: int = 0
    bytes: int = 0
