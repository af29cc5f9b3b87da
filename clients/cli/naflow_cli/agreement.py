"""Whether our forward pass and onnxruntime say the same about a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naflow_client import ClassScore, ReferencePrediction
from naflow_client.presentation import TOP, Pictured

DISAGREEMENT = 1e-3


def reference_prediction(
    best: Sequence[tuple[int, float]], ours: np.ndarray, theirs: np.ndarray
) -> ReferencePrediction:
    """onnxruntime's word on one picture, as a server gives it.

    Args:
        best: our best classes with their scores, best first.
        ours, theirs: scores of all classes, [classes].
    """
    order = np.argsort(-theirs, kind="stable")[:TOP]
    scale = float(np.abs(theirs).max()) or 1.0
    return ReferencePrediction(
        best=tuple(ClassScore(int(k), float(theirs[k])) for k in order),
        scores=tuple(float(theirs[k]) for k, _ in best),
        largest_difference=float(np.abs(ours - theirs).max()) / scale,
    )


def disagreements(pictures: Sequence[Pictured]) -> list[str]:
    """Warnings for the pictures of which the two do not say the same."""
    found = []
    for picture in pictures:
        reference = picture.reference
        if reference is None:
            continue
        other = reference.scores[0] < reference.best[0].score  # onnxruntime likes another class better
        if other or not reference.largest_difference <= DISAGREEMENT:
            found.append(
                f"{picture.name}: our scores differ from onnxruntime's by "
                f"{reference.largest_difference:.1e} (relative); run `naflow verify` to see where"
            )
    return found


def embedding_disagreements(names: Sequence[str], ours: np.ndarray, theirs: np.ndarray) -> list[str]:
    """The same for pictures whose similarity is explained.

    Args:
        names: of the pictures.
        ours, theirs: embeddings, [N, ...].
    """
    found = []
    for name, a, b in zip(names, ours, theirs, strict=True):
        gap = float(np.abs(a.ravel() - b.ravel()).max()) / (float(np.abs(b).max()) or 1.0)
        found += embedding_differs(name, gap)
    return found


def embedding_differs(name: str, gap: float) -> list[str]:
    """The warning for one picture, if there is one; `gap` is relative to the largest absolute value."""
    if gap <= DISAGREEMENT:
        return []
    return [
        f"{name}: our embedding differs from onnxruntime's by {gap:.1e} (relative); "
        "run `naflow verify` to see where"
    ]
