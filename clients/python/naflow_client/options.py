"""What a caller may ask of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from naflow_client.targets import Target


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """Everything but the model and its input. None leaves a choice to the server or to the preset.

    Attributes:
        version: of the model; the newest that is ready when None.
        target_class: index or name of the class to explain; each picture's best class when None.
        target: a similarity to explain instead of a class: `SimilarityTarget`, `PrototypeTarget` or
            `BankTarget`.
        labels: names of all classes, needed for a `target_class` by name.
        layers: "blocks", "spine", "nodes", one tensor name or several.
        preset: "default", "net", "positive", "paper" or "published-code".
        inverse: "least-squares" or "activation".
        rows: equations that a solve keeps: "retained", "active" or "all".
        weighting: what an equation counts: "scaled" (by the constant scales behind the layer) or "plain".
        abandon: "zero-gradient", "mass:RHO", "soft-mass:RHO", "balanced-mass:RHO", "graded-mass:RHO" or
            "mass-each:RHO".
        feasible: keep preimages in the range of the operator that made them.
        anchor: "origin", "activation", "signed" or "relative".
        evidence: how channels make a flow: "positive" (each where it speaks for the target) or "net" (added
            with their signs first).
        damping: Tikhonov parameter, >= 0.
        tolerance: relative residual at which a solve stops, between 0 and 1.
        max_iterations: cap for each solve.
        map_change: movement of the map, scaled to 0..1, below which a solve may stop earlier; 0: never.
        output: graph output to explain.
        top_feature_map: tensor at which the explanation starts.
        explained_input: of several inputs the one that the maps lead to.
        top_k: how many of the best classes the header lists.
        request_id: stands in the server's logs; the server makes one when "".
        reference_prediction: let onnxruntime predict as well; the header waits for it.
    """

    version: str | None = None
    target_class: int | str | None = None
    target: Target | None = None
    labels: Sequence[str] = ()
    layers: str | Sequence[str] = "blocks"
    preset: str = "default"
    inverse: str | None = None
    rows: str | None = None
    weighting: str | None = None
    abandon: str | None = None
    feasible: bool | None = None
    anchor: str | None = None
    evidence: str | None = None
    damping: float | None = None
    tolerance: float | None = None
    max_iterations: int | None = None
    map_change: float | None = None
    output: str | None = None
    top_feature_map: str | None = None
    explained_input: str | None = None
    top_k: int = 5
    request_id: str = ""
    reference_prediction: bool = False


class ExplainChoices(TypedDict, total=False):
    """The fields of `ExplainOptions` as keyword arguments of `explain`."""

    version: str | None
    target_class: int | str | None
    target: Target | None
    labels: Sequence[str]
    layers: str | Sequence[str]
    preset: str
    inverse: str | None
    rows: str | None
    weighting: str | None
    abandon: str | None
    feasible: bool | None
    anchor: str | None
    evidence: str | None
    damping: float | None
    tolerance: float | None
    max_iterations: int | None
    map_change: float | None
    output: str | None
    top_feature_map: str | None
    explained_input: str | None
    top_k: int
    request_id: str
    reference_prediction: bool
