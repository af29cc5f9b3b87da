"""Recent results, kept for the next caller that needs the same."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

Made = TypeVar("Made")

REMEMBERED_BYTES = 256 * 2**20


class Memory:
    """What was made last, by key; the oldest goes when the arrays together pass a limit. Thread-safe."""

    def __init__(self, limit: float = REMEMBERED_BYTES) -> None:
        """Args:
        limit: bytes of numpy arrays.
        """
        self._limit = limit
        self._kept: OrderedDict[tuple[Any, ...], tuple[Any, int]] = OrderedDict()
        self._turns: dict[tuple[Any, ...], threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        """What `make` gave when it was last called for `key`, if that is kept; else what it gives now.

        Who asks while another thread makes it waits for that. `make` may ask for other keys.
        """
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    found: Made = self._kept[key][0]
                    return found
            made = make()
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(made) if isinstance(leaf, np.ndarray))
            with self._lock:
                self._kept[key] = made, size
                while sum(each for _, each in self._kept.values()) > self._limit:
                    self._turns.pop(self._kept.popitem(last=False)[0], None)
            return made


def digest(*arrays: np.ndarray) -> str:
    """A short name for the contents of arrays."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(repr((array.shape, array.dtype.str)).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
