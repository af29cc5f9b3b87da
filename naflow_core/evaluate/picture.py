"""What is evaluated: a picture with its truth, and its axes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from naflow_core.errors import InputError

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as the model takes it.

    Attributes:
        name: what to call it.
        x: float32 [1, ...], preprocessed.
        classes: the classes that are right for it; the one that the model likes best of them is explained.
            Empty: the predicted class is.
        boxes: of the object, (left, top, right, bottom) as shares 0..1 of the width and height of `x`, where
            known.
        variants: the same picture otherwise stored, by name, each as `x` is; for stability.
    """

    name: str
    x: np.ndarray
    classes: Sequence[int] = ()
    boxes: Sequence[Box] = ()
    variants: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of name, values and truth: what the results depend on."""
        parts = (self.name, self.x.shape, tuple(self.classes), tuple(self.boxes))
        found = hashlib.sha256("\0".join(repr(part) for part in parts).encode())
        for array in (self.x, *(self.variants[name] for name in sorted(self.variants))):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def inside(boxes: Sequence[Box], height: int, width: int) -> np.ndarray:
    """[height, width] share of each cell that lies in the union of the boxes, 0..1.

    Exact for a single box; where several overlap in one cell the larger share counts.
    """
    found = np.zeros((height, width))
    for left, top, right, bottom in boxes:
        rows, columns = _covered(top, bottom, height), _covered(left, right, width)
        found = np.maximum(found, rows[:, None] * columns)
    return found


def _covered(low: float, high: float, count: int) -> np.ndarray:
    cells = np.arange(count)
    return np.clip(np.minimum(high * count, cells + 1) - np.maximum(low * count, cells), 0, 1)


@dataclass(frozen=True, slots=True)
class Axes:
    """Where height and width are in a tensor; everything else but axis 0 counts as channels.

    Attributes:
        rank: number of axes.
        spatial: positions of height and width.
    """

    rank: int
    spatial: tuple[int, int]

    @classmethod
    def of(cls, tensor: str, rank: int, spatial: Sequence[int]) -> Axes:
        """Raises InputError where the tensor is no picture-like map."""
        if len(spatial) != 2:
            raise InputError(
                f"tensor {tensor!r} has {len(spatial)} spatial axes, evaluation needs height and width",
                hint="name other layers, or evaluate a model of pictures",
            )
        return cls(rank, (spatial[0], spatial[1]))

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """(height, width) of a tensor of this shape."""
        return shape[self.spatial[0]], shape[self.spatial[1]]

    def spread(self, plane: np.ndarray) -> np.ndarray:
        """[N, H, W] so that it broadcasts against tensors of these axes."""
        shape = [1] * self.rank
        shape[0] = len(plane)
        for axis, size in zip(self.spatial, plane.shape[1:], strict=True):
            shape[axis] = size
        return plane.reshape(shape)

    def planes(self, tensor: np.ndarray) -> np.ndarray:
        """[N, C, H, W] view of a tensor."""
        moved = np.moveaxis(tensor, self.spatial, (-2, -1))
        return moved.reshape(len(tensor), -1, *moved.shape[-2:])

    def tensor(self, planes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """[N, C, H, W] back to a tensor whose axes but the first are as in `shape`; float32."""
        others = [n for axis, n in enumerate(shape) if axis and axis not in self.spatial]
        moved = planes.reshape(len(planes), *others, *planes.shape[-2:])
        return np.ascontiguousarray(np.moveaxis(moved, (-2, -1), self.spatial), np.float32)
