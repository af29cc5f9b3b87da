"""What comes back from an explanation: plain, typed, frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naflow_client.errors import CallError


@dataclass(frozen=True, slots=True)
class ClassScore:
    """The score of one class.

    Attributes:
        index: of the class, from 0.
        score: value of the model's output for it; with a similarity target, the similarity or the share of
            votes.
        label: the server's name for it: the way, or the label of a bank; "" for a class or reference.
    """

    index: int
    score: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Something that a picture was compared with.

    Attributes:
        index: its number among the references or ways, or its position in the bank.
        label: its way or label; "" for references.
        similarity: with the picture.
        used: whether it is part of what is explained.
    """

    index: int
    label: str
    similarity: float
    used: bool


@dataclass(frozen=True, slots=True)
class Similarity:
    """What a similarity target found for one picture.

    Attributes:
        metric, normalise, coefficients: in use.
        score: the explained similarity.
        top_channels: (channel, contribution) of the largest contributions, largest first.
        neighbours: what the picture was compared with, best first.
        bank_id, bank_version: the content of the server's bank that answered; "" and 0 for no such bank.
    """

    metric: str
    normalise: str
    coefficients: str
    score: float
    top_channels: tuple[tuple[int, float], ...]
    neighbours: tuple[Neighbour, ...]
    bank_id: str
    bank_version: int


@dataclass(frozen=True, slots=True)
class ReferencePrediction:
    """What onnxruntime says about the same picture.

    Attributes:
        best: its best classes, best first.
        scores: its scores of the classes of `Prediction.best`, in that order.
        largest_difference: from the explained forward pass's scores, over all classes, relative to its
            largest absolute score.
    """

    best: tuple[ClassScore, ...]
    scores: tuple[float, ...]
    largest_difference: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one picture. With a similarity target, "class" means reference, way or label.

    Attributes:
        best: the best classes, best first.
        target: the class that is explained.
        target_score: its logit, before a closing Softmax or Sigmoid; or the explained similarity.
        squashed_by: op type of that closing node, or "".
        reference: onnxruntime's, where it was asked for; for a similarity only its difference is told.
        similarity: what a similarity target found, None for a class.
    """

    best: tuple[ClassScore, ...]
    target: ClassScore
    target_score: float
    squashed_by: str
    reference: ReferencePrediction | None = None
    similarity: Similarity | None = None


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer that will come: its place (0 nearest to the input), tensor name, dtype and shape of its map."""

    index: int
    tensor: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """First message of a stream.

    Attributes:
        model, version: what answers.
        sha256: of the model file.
        output: name of the explained model output.
        predictions: one per picture.
        layers: nearest to the input first; the flows come deepest first.
        total_bytes: size of all maps.
        method: options in use, by the names of `explain`'s arguments.
        request_id: stands in the server's logs.
    """

    model: str
    version: str
    sha256: str
    output: str
    predictions: tuple[Prediction, ...]
    layers: tuple[LayerInfo, ...]
    total_bytes: int
    method: Mapping[str, Any]
    request_id: str

    @property
    def prediction(self) -> Prediction:
        """That of the first picture."""
        return self.predictions[0]


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
        converged: whether that is within the tolerance, or the map stood still (`map_change`).
        conservation_gap: relative difference of what the method conserves across the step.
        seconds: wall time of the step on the server.
    """

    node: str
    op_type: str
    shape: tuple[int, ...]
    rule: str
    retained_fraction: NDArray[np.float64]
    iterations: NDArray[np.int64]
    relative_residual: NDArray[np.float64]
    converged: NDArray[np.bool_]
    conservation_gap: NDArray[np.float64]
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


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """One layer's attention map.

    Attributes:
        index: place among the explained layers, 0 nearest to the input.
        tensor: ONNX tensor name.
        map: raw float32, [N, H, W] (or [N, L], [N, D, H, W]), read-only.
        diagnostics: see there.
    """

    index: int
    tensor: str
    map: NDArray[np.float32]
    diagnostics: LayerDiagnostics

    @property
    def key(self) -> str:
        """Name in flows.npz, which keeps the layers in order."""
        return f"{self.index:03d}:{self.tensor}"


@dataclass(frozen=True, slots=True)
class LayerFailure:
    """A layer that has no map. `error` holds the server's reason."""

    index: int
    tensor: str
    error: CallError


@dataclass(frozen=True, slots=True)
class Progress:
    """Sign of life: layers done and in all, the tensor last finished, seconds since the call was taken."""

    done: int
    total: int
    tensor: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Last message of a complete stream; times in seconds, as the server saw them.

    Attributes:
        layers: maps sent.
        failed: layers without a map.
        queue: waiting for the device.
        compute: computing.
        first_flow: from acceptance to the first map.
        total: from acceptance to the end.
        iterations: of all least-squares solves.
        batch_size: pictures computed together, those of other callers included.
    """

    layers: int
    failed: int
    queue: float
    compute: float
    first_flow: float
    total: float
    iterations: int
    batch_size: int
