"""Embeddings for banks, and how to look into a bank's file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from naflow_server.engine.banks import Snapshot
from naflow_server.engine.banks.store import Store
from naflow_server.sections import BankSettings

MODEL = "ab" * 32
OTHER = "cd" * 32


def rows(seed: int, count: int = 3, dimension: int = 4) -> np.ndarray:
    """Embeddings that are told apart by their seed."""
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def opened(root: Path, **limits: Any) -> Store:
    """The store of a folder."""
    return Store(root, BankSettings(path=root, **limits))


def after_a_crash(root: Path, to: Path) -> Store:
    """A store as another process would find the folder now: the files as they are, without a goodbye."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(root, to)
    return opened(to)


def same(found: Snapshot, embeddings: list[np.ndarray], labels: list[str], dimension: int = 4) -> None:
    """The snapshot holds exactly these."""
    expected = np.concatenate(embeddings) if embeddings else np.empty((0, dimension), np.float32)
    assert found.embeddings.dtype == np.float32
    assert not found.embeddings.flags.writeable
    assert found.embeddings.tobytes() == expected.tobytes()
    assert found.embeddings.shape == expected.shape
    assert list(found.labels) == labels
