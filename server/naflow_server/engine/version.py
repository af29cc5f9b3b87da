"""A model version in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import naflow_core as nf


@dataclass(eq=False)
class LoadedVersion:
    """One version of a model, loaded.

    Attributes:
        name, version: in the repository.
        models: the model once for each device; the weights on the host are shared.
        batch_limit: pictures that the model takes at once (max_batch_size of config.pbtxt), or None.
        bytes: what its weights take.
        last_used: `time.monotonic()` seconds.
    """

    name: str
    version: str
    models: tuple[nf.Model, ...]
    batch_limit: int | None
    bytes: int
    last_used: float = field(default_factory=time.monotonic)

    @classmethod
    def read(
        cls, name: str, version: str, file: Path, batch_limit: int | None, limits: nf.Limits, devices: int
    ) -> LoadedVersion:
        """Load a file, for a number of devices.

        Raises:
            ModelError: see `naflow_core.load`.
        """
        first = nf.load(file, limits=limits)
        others = [nf.Model(first.loaded, limits) for _ in range(devices - 1)]
        size = sum(array.nbytes for array in first.loaded.graph.constants.values())
        return cls(name, version, (first, *others), batch_limit, size)

    @property
    def sha256(self) -> str:
        """Digest of the model file."""
        return self.models[0].sha256

    @property
    def batches(self) -> bool:
        """Whether every input leaves the number of pictures open."""
        return all(spec.shape and not isinstance(spec.shape[0], int) for spec in self.models[0].inputs)

    def named(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs by name; "" stands for the only input."""
        own = self.models[0].inputs
        if set(inputs) == {""} and len(own) == 1:
            return {own[0].name: inputs[""]}
        return inputs


def padded(pictures: int, limit: int) -> int:
    """Batch sizes are powers of two (or the limit), so that few programs are compiled."""
    size = 1
    while size < pictures:
        size *= 2
    return max(pictures, min(size, limit))


def batch_sizes(limit: int) -> Sequence[int]:
    """Every size that `padded` gives for more than one picture."""
    return sorted({padded(n, limit) for n in range(2, limit + 1)})
