"""What a report holds. Plain data; nothing here knows HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from naflow_client.render.scaling import map_state


class Prediction(NamedTuple):
    """One row of the prediction table. A plain tuple in this order does as well.

    Attributes:
        rank: 1 is the best.
        label: class name, or its number as text.
        score: as this product computed it.
        reference: the same from onnxruntime, or None where it was not run.
    """

    rank: int
    label: str
    score: float
    reference: float | None = None


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer of one picture.

    Attributes:
        index: position on the spine, 0 is the input.
        tensor, node, op_type: names from the model; node and op_type are "" for the input.
        shape: of the tensor.
        rule: inverse rule that led to this layer.
        map: raw float32 [h, w], or None if there is none.
        diagnostics: numbers and flags by name, in the order to show. `converged: False` marks the layer.
        warnings: sentences for the user.
    """

    index: int
    tensor: str
    node: str
    op_type: str
    shape: tuple[int, ...]
    rule: str
    map: NDArray[np.floating] | None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def problems(self) -> tuple[list[str], list[str]]:
        """(errors, warnings): what keeps the map from being shown, and what limits its worth."""
        state = map_state(self.map)
        errors = {
            "missing": ["There is no map for this layer."],
            "invalid": ["The map holds nan or infinite values and is not shown."],
        }.get(state, [])
        warnings = list(self.warnings)
        if state == "constant":
            warnings.insert(0, "The map is constant: no part of the picture stands out in this layer.")
        if self.diagnostics.get("converged") is not None and not self.diagnostics["converged"]:
            warnings.insert(0, "The solve of this layer did not converge; read its map with care.")
        return errors, list(dict.fromkeys(warnings))


@dataclass(frozen=True, slots=True)
class Compared:
    """Something that a picture was compared with.

    Attributes:
        label: of the reference, way or neighbour.
        name: of the picture behind it, "" where none is known.
        similarity: with the picture.
        used: whether it is part of what is explained.
        picture: uint8 RGB [h, w, 3], or None.
    """

    label: str
    name: str
    similarity: float
    used: bool
    picture: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """An explained similarity.

    Attributes:
        metric: its name.
        score: the explained similarity.
        channels: (channel, contribution to the similarity), largest first.
        references: best first.
    """

    metric: str
    score: float
    channels: Sequence[tuple[int, float]]
    references: Sequence[Compared]


@dataclass(frozen=True, slots=True)
class PictureReport:
    """One explained picture.

    Attributes:
        name: file name or the like.
        picture: uint8 RGB [H, W, 3], exactly the part that the model saw.
        prediction: rows of the table, best first; empty for models without classes.
        target: what is explained, in words.
        layers: shown by rising index.
        comparison: what the picture was compared with; None where a class is explained.
    """

    name: str
    picture: NDArray[np.uint8]
    prediction: Sequence[Prediction | tuple[int, str, float, float | None]]
    target: str
    layers: Sequence[LayerReport]
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report.

    Attributes:
        title: heading.
        pictures: at least one.
        method, model, versions: names and values to list; values may be nested one level.
        warnings: about the run as a whole.
    """

    title: str
    pictures: Sequence[PictureReport]
    method: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
