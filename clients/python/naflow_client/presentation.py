"""From flows to overlays, animation and report: the same for flows of a server and of this process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from naflow_client.answers import ReferencePrediction
from naflow_client.render import layer_frames, write_gif, write_overlays
from naflow_client.report import Comparison, LayerReport, PictureReport, Prediction

TOP = 5
PER_PICTURE = ("retained_fraction", "iterations", "relative_residual", "converged", "conservation_gap")


class DiagnosticsLike(Protocol):
    """How one layer's flow came about."""

    @property
    def node(self) -> str: ...
    @property
    def op_type(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def rule(self) -> str: ...
    def to_dict(self, picture: int) -> dict[str, Any]: ...
    def warnings(self, picture: int) -> list[str]: ...


class FlowLike(Protocol):
    """One layer's maps, [N, ...] float32."""

    @property
    def index(self) -> int: ...
    @property
    def tensor(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def map(self) -> NDArray[np.float32]: ...
    @property
    def diagnostics(self) -> DiagnosticsLike: ...


@dataclass(frozen=True, slots=True)
class Pictured:
    """One explained picture, without its maps.

    Attributes:
        name: of the file.
        display: uint8 RGB [H, W, 3] to draw the maps over.
        output: name of the explained model output.
        best: (class, score), best first.
        target: class that is explained.
        logit: its score before any closing softmax.
        squashed_by: op type of that closing node, or "".
        reference: what onnxruntime says, None where it was not run.
        comparison: the explained similarity, None where a class is explained; `target` and `best` then count
            references, ways or the labels of a bank.
    """

    name: str
    display: NDArray[np.uint8]
    output: str
    best: tuple[tuple[int, float], ...]
    target: int
    logit: float
    squashed_by: str = ""
    reference: ReferencePrediction | None = None
    comparison: Comparison | None = None


def picture_report(
    picture: Pictured, flows: Sequence[FlowLike], position: int, label: Callable[[int], str]
) -> PictureReport:
    """All that is shown of the picture at `position` of the batch; `label` names a class."""
    reference = picture.reference
    rows = [
        Prediction(rank, label(k), score, None if reference is None else reference.scores[rank - 1])
        for rank, (k, score) in enumerate(picture.best[:TOP], start=1)
    ]
    before = f" before {picture.squashed_by}" if picture.squashed_by else ""
    said = f"{label(picture.target)}: logit{before} {picture.logit:.4g}"
    if picture.comparison is not None:
        used = [item.label for item in picture.comparison.references if item.used]
        what = used[0] if len(used) == 1 else f"{len(used)} references"
        said = f"{picture.comparison.metric} similarity with {what}: {picture.comparison.score:.4g}"
    return PictureReport(
        name=picture.name,
        picture=picture.display,
        prediction=rows,
        target=said,
        layers=[_layer_report(flow, position) for flow in flows],
        comparison=picture.comparison,
    )


def save_overlays(folder: Path, pictures: Sequence[PictureReport]) -> list[Path]:
    """`NNN-tensor.png` per layer; for several pictures in a folder each."""
    if len(pictures) == 1:
        return write_overlays(folder, pictures[0].picture, pictures[0].layers)
    return [
        path
        for i, picture in enumerate(pictures)
        for path in write_overlays(folder / f"{i:03d}-{_stem(picture.name)}", picture.picture, picture.layers)
    ]


def save_gif(path: Path, picture: PictureReport) -> Path:
    """The layers of one picture, first to last."""
    return write_gif(layer_frames(picture.picture, picture.layers), path)


def save_maps(path: str | os.PathLike[str], flows: Sequence[FlowLike]) -> Path:
    """Raw maps as .npz, one key per layer in order; equal maps give equal bytes."""
    arrays: dict[str, Any] = {flow.key: flow.map[0] if len(flow.map) == 1 else flow.map for flow in flows}
    with Path(path).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return Path(path)


def _layer_report(flow: FlowLike, position: int) -> LayerReport:
    facts = flow.diagnostics.to_dict(position)
    return LayerReport(
        index=flow.index,
        tensor=flow.tensor,
        node=flow.diagnostics.node,
        op_type=flow.diagnostics.op_type,
        shape=flow.diagnostics.shape,
        rule=flow.diagnostics.rule,
        map=_flat(flow.map[position]),
        diagnostics={key: facts[key] for key in (*PER_PICTURE, "seconds") if key in facts},
        warnings=flow.diagnostics.warnings(position),
    )


def _flat(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map as a picture, for display: [L] becomes one row, [D, H, W] is summed over its depth."""
    return values[None] if values.ndim == 1 else values.reshape(-1, *values.shape[-2:]).sum(axis=0)


def _stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem)[:60]
