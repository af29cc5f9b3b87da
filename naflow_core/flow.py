"""The result: layer flows with their diagnostics."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class LayerDiagnostics:
    """How one layer's flow came about. Arrays have one value per picture.

    Attributes:
        node, op_type: the node that makes the tensor in the forward pass.
        shape: of the tensor, with its batch axis.
        rule: the inverse rule that led to this tensor; "start" for the top feature map.
        retained_fraction: share of the tensor's neurons that are retained.
        iterations: of the least-squares solve (0 for exact rules).
        relative_residual: of its normal equations.
        converged: whether that is within the tolerance, or the map stood still (`Method.map_change`).
        conservation_gap: relative difference of sum(B G) across the step (METHOD, property 4).
        seconds: wall time of the step, compilation included when it is the first of its kind.
    """

    node: str
    op_type: str
    shape: tuple[int, ...]
    rule: str
    retained_fraction: np.ndarray
    iterations: np.ndarray
    relative_residual: np.ndarray
    converged: np.ndarray
    conservation_gap: np.ndarray
    seconds: float

    def warnings(self, picture: int) -> list[str]:
        """What a reader must know before trusting this layer's map of one picture."""
        found = []
        if not self.converged[picture]:
            found.append(
                f"the solve did not converge: relative residual {self.relative_residual[picture]:.2g} "
                f"after {self.iterations[picture]} iterations"
            )
        if self.retained_fraction[picture] == 0:
            found.append("every neuron of this layer is abandoned: the map is empty")
        return found

    def to_dict(self, picture: int) -> dict[str, Any]:
        """Plain values for one picture, named as in manifest.json."""
        return {
            "node": self.node,
            "op_type": self.op_type,
            "shape": list(self.shape),
            "rule": self.rule,
            "retained_fraction": float(self.retained_fraction[picture]),
            "iterations": int(self.iterations[picture]),
            "relative_residual": float(self.relative_residual[picture]),
            "converged": bool(self.converged[picture]),
            "conservation_gap": float(self.conservation_gap[picture]),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Flow:
    """One layer's attention map.

    Attributes:
        index: place among the explained layers, 0 nearest to the input.
        tensor: ONNX tensor name.
        map: raw float32, [N, H, W] (or [N, L], [N, D, H, W]); never normalised.
        diagnostics: see there.
    """

    index: int
    tensor: str
    map: np.ndarray
    diagnostics: LayerDiagnostics

    @property
    def key(self) -> str:
        """Name in flows.npz, which keeps the layers in order."""
        return f"{self.index:03d}:{self.tensor}"


def ranking(scores: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Classes from best to worst by score; equal scores (saturated, quantised) in the order of their logits.

    Args:
        scores, logits: [N, classes].
    """
    keys = (-logits, -scores) if logits.shape == scores.shape else (-scores,)
    return np.lexsort(keys, axis=1)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One candidate that a picture was compared with.

    Attributes:
        index: its number among the references, ways, or the rows of the bank.
        label: its name; in a bank, its label.
        similarity: with the picture, by the chosen metric.
        used: whether it is part of what is explained.
        name: of the picture behind it, where one is known.
    """

    index: int
    label: str
    similarity: float
    used: bool
    name: str = ""


@dataclass(frozen=True, slots=True)
class Similarity:
    """What a similarity target found.

    Attributes:
        metric, normalise, coefficients: as the target was asked.
        candidates: names of the columns of `Prediction.scores`: references, ways, or the bank's labels.
        embedding: [N, C, ...] of the explained pictures.
        score: [N] the explained similarity.
        contributions: [N, C] of each channel of the embedding to it; their sum is `score`.
        weights: [N, C] channel contribution weights, after normalisation.
        neighbours: for each picture the candidates it was compared with, best first.
    """

    metric: str
    normalise: str
    coefficients: str
    candidates: tuple[str, ...]
    embedding: np.ndarray
    score: np.ndarray
    contributions: np.ndarray
    weights: np.ndarray
    neighbours: tuple[tuple[Neighbour, ...], ...]

    def top_channels(self, picture: int, count: int = 5) -> list[tuple[int, float]]:
        """(channel, contribution) of the largest contributions, largest first."""
        row = self.contributions[picture]
        return [(int(c), float(row[c])) for c in np.argsort(-row, kind="stable")[:count]]


@dataclass(frozen=True)
class Prediction:
    """What the model says about each picture.

    With a similarity target, "class" means reference, way or label of the bank: `scores` and `logits` are the
    similarities with each (for a bank, the share of the votes).

    Attributes:
        output: name of the explained graph output.
        scores: [N, classes], the output as the model gives it.
        logits: [N, classes], before a closing Softmax, LogSoftmax or Sigmoid (else equal to `scores`).
        squashed_by: op type of that closing node, or "".
        target: [N] index of the explained class.
        target_score: [N] its logit, or the explained similarity.
        similarity: facts of a similarity target, None for a class.
    """

    output: str
    scores: np.ndarray
    logits: np.ndarray
    squashed_by: str
    target: np.ndarray
    target_score: np.ndarray
    similarity: Similarity | None = None

    def best(self, picture: int, count: int = 5) -> list[tuple[int, float]]:
        """(class, score) of the highest scores, best first."""
        order = ranking(self.scores, self.logits)[picture, :count]
        return [(int(i), float(self.scores[picture, i])) for i in order]


@dataclass(frozen=True)
class Result:
    """All flows of one explanation, nearest to the input first."""

    flows: tuple[Flow, ...]
    prediction: Prediction

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write flows.npz: one key per layer in order, float32; [H, W] for one picture, else [N, H, W]."""
        save_maps(path, ((flow.key, flow.map) for flow in self.flows))


def save_maps(path: str | os.PathLike[str], maps: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write raw maps as .npz; equal maps give equal bytes."""
    arrays = {key: value[0] if value.shape[0] == 1 else value for key, value in maps}
    with Path(path).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
