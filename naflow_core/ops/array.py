"""Which array module to compute with, and small helpers shared by the operator families."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np


def is_known(*arrays: Any) -> bool:
    """True if every array (None ignored) is known when the program is built."""
    return all(a is None or isinstance(a, np.ndarray | np.generic) for a in arrays)


def namespace(*arrays: Any) -> ModuleType:
    """numpy if every array is known when the program is built, else jax.numpy."""
    return np if is_known(*arrays) else jnp


def normalise_axis(axis: int, rank: int) -> int:
    """A negative ONNX axis counted from the end."""
    return axis + rank if axis < 0 else axis
