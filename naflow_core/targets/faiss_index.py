"""Candidates from faiss, for those who have it: exact flat indices only, over all rows of a bank."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from naflow_core.errors import OptionError

METRICS = ("cosine", "dot", "euclidean")
UNIT = float(np.finfo(np.float32).eps) / 2


def check(metric: str) -> Any:
    """The faiss module.

    Raises:
        OptionError: it is not installed, or has no exact index for this metric.
    """
    if metric not in METRICS:
        raise OptionError(
            f"faiss does not know the metric {metric!r}", hint="leave search at jax, or choose another metric"
        )
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise OptionError(
            "search by faiss needs faiss, which is not installed",
            hint="pip install 'naflow[faiss]', or leave search at jax",
        ) from error


@dataclass(frozen=True, slots=True)
class Index:
    """A flat index.

    Attributes:
        metric: name.
        flat: IndexFlatIP or IndexFlatL2; a copy of the bank, at unit length for the cosine.
        longest: the greatest length of a row.
    """

    metric: str
    flat: Any
    longest: float

    @classmethod
    def of(cls, metric: str, bank: np.ndarray) -> Index:
        """Over the rows of a bank [M, C, ...], which takes as much memory again."""
        faiss = check(metric)
        rows = bank.reshape(len(bank), -1)
        index = (faiss.IndexFlatL2 if metric == "euclidean" else faiss.IndexFlatIP)(rows.shape[1])
        longest = 0.0
        for begin in range(0, len(rows), 65536):  # without a second copy of a large bank
            part = rows[begin : begin + 65536]
            lengths = np.linalg.norm(part, axis=1, keepdims=True)
            longest = max(longest, float(lengths.max()))
            index.add(part / lengths if metric == "cosine" else part)
        return cls(metric, index, longest)

    def candidates(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` nearest [N, count] of each query [N, C, ...], and how similar [N] any other can be."""
        rows = np.ascontiguousarray(queries.reshape(len(queries), -1), np.float32)
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        if self.metric == "cosine":
            rows = (rows / lengths[:, None]).astype(np.float32)
        values, places = self.flat.search(rows, count)
        last = values[:, -1].astype(np.float64)
        error = 2 * (rows.shape[1] + 8) * UNIT
        if self.metric == "cosine":
            return places, last + error
        if self.metric == "dot":
            return places, last + error * lengths * self.longest
        # faiss may expand the square: then the error goes with the lengths, not with the distance.
        return places, -last + 2 * error * (lengths**2 + self.longest**2)
