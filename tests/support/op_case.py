"""One operator case, and arrays to build cases from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class Case:
    """A node with its inputs. `tolerance` bounds the largest difference over the largest value."""

    op_type: str
    inputs: Arrays
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 18
    outputs: int = 1
    tolerance: float = 1e-5
    same_type: bool = True
    domain: str = ""

    def __str__(self) -> str:
        shapes = ",".join("x".join(map(str, a.shape)) if a is not None else "-" for a in self.inputs)
        attributes = ",".join(f"{k}={v}" for k, v in self.attributes.items() if not isinstance(v, np.ndarray))
        return f"{self.op_type}{self.opset}[{shapes}]({attributes})"


def floats(*shape: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    """Signed values, some of them exactly zero."""
    values = np.random.default_rng(seed + sum(shape)).normal(size=shape) * scale
    return np.where(np.abs(values) < 0.05, 0.0, values).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.abs(floats(*shape, seed=seed)) + np.float32(0.1)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)
