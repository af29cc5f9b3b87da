"""The files that `naflow explain` leaves: flows.npz, manifest.json, overlays, animation, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naflow_cli.points import Points
from naflow_client.presentation import (
    PER_PICTURE,
    TOP,
    FlowLike,
    Pictured,
    picture_report,
    save_gif,
    save_maps,
    save_overlays,
)
from naflow_client.report import Report, write_report


@dataclass(frozen=True)
class Outcome:
    """One finished explanation with all that the files tell about it, wherever it was computed.

    Attributes:
        model: "file", "sha256" and "top_feature_map" as in the manifest.
        origin: what else the report says about the model, such as its producer.
        flows: nearest to the input first.
        pictures: in the order of the maps' first axis.
        label: name of a class, or its number as text.
        method: options of the method.
        versions: of everything that took part.
        request: what makes the same maps again (the manifest's "run").
        warnings: about the run as a whole.
        points: what `--point` asks for.
    """

    model: Mapping[str, str]
    origin: Mapping[str, str]
    flows: tuple[FlowLike, ...]
    pictures: tuple[Pictured, ...]
    label: Callable[[int], str]
    method: Mapping[str, Any]
    versions: Mapping[str, str]
    request: Mapping[str, Any]
    warnings: tuple[str, ...]
    points: Points | None = None


def write_outputs(folder: Path, outcome: Outcome) -> dict[str, Any]:
    """Write every file into an empty folder and return the manifest."""
    save_maps(folder / "flows.npz", outcome.flows)
    reports = [picture_report(p, outcome.flows, i, outcome.label) for i, p in enumerate(outcome.pictures)]
    save_overlays(folder / "overlays", reports)
    for i, report in enumerate(reports):
        save_gif(folder / (f"flow-{i:03d}.gif" if i else "flow.gif"), report)
    if outcome.points is not None:
        outcome.points.write(folder)
    manifest = make_manifest(outcome)
    whole = Report(
        title=f"Layer flows of {outcome.model['file']}",
        pictures=[*reports, *(outcome.points.reports() if outcome.points else ())],
        method=manifest["method"],
        model={**manifest["model"], **outcome.origin},
        versions=manifest["versions"],
        warnings=outcome.warnings,
    )
    write_report(folder / "report.html", whole)
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def make_manifest(outcome: Outcome) -> dict[str, Any]:
    """manifest.json as plain values."""
    pictures = [_picture_entry(outcome, picture) for picture in outcome.pictures]
    single = len(pictures) == 1
    layers = []
    for flow in outcome.flows:
        rows = [flow.diagnostics.to_dict(i) for i in range(len(pictures))]
        entry = {"index": flow.index, "tensor": flow.tensor, "key": flow.key, **rows[0]}
        if not single:
            entry.update({key: [row[key] for row in rows] for key in PER_PICTURE})
        layers.append(entry)
    return {
        "model": dict(outcome.model),
        "prediction": pictures[0]["prediction"] if single else [p["prediction"] for p in pictures],
        "target": pictures[0]["target"] if single else [p["target"] for p in pictures],
        "pictures": pictures,
        "method": dict(outcome.method),
        "layers": layers,
        **({"point": outcome.points.to_dict()} if outcome.points else {}),
        "versions": dict(outcome.versions),
        "seed": 0,  # the cascade draws no random numbers
        "warnings": [*outcome.warnings, *_layer_warnings(outcome)],
        "run": dict(outcome.request),
    }


def _picture_entry(outcome: Outcome, picture: Pictured) -> dict[str, Any]:
    return {
        "input": picture.name,
        "prediction": {
            "output": picture.output,
            "naflow": [_class(outcome, *row) for row in picture.best[:TOP]],
            "onnxruntime": _reference(outcome, picture),
        },
        "target": _target(outcome, picture),
    }


def _target(outcome: Outcome, picture: Pictured) -> dict[str, Any]:
    common = {"class": picture.target, "label": outcome.label(picture.target)}
    found = picture.comparison
    if found is None:
        return {"kind": "class", **common, "logit": picture.logit}
    return {
        "kind": "similarity",
        **common,
        "metric": found.metric,
        "similarity": found.score,
        "top_channels": [{"channel": c, "contribution": value} for c, value in found.channels],
        "neighbours": [
            {"label": item.label, "name": item.name, "similarity": item.similarity, "used": item.used}
            for item in found.references
        ],
    }


def _reference(outcome: Outcome, picture: Pictured) -> list[dict[str, Any]] | None:
    """onnxruntime's best classes; None where it was not run."""
    if picture.reference is None:
        return None
    return [_class(outcome, row.index, row.score) for row in picture.reference.best[:TOP]]


def _class(outcome: Outcome, index: int, score: float) -> dict[str, Any]:
    return {"class": index, "label": outcome.label(index), "score": score}


def _layer_warnings(outcome: Outcome) -> list[str]:
    several = len(outcome.pictures) > 1
    return [
        f"{picture.name + ', ' if several else ''}layer {flow.tensor}: {text}"
        for flow in outcome.flows
        for i, picture in enumerate(outcome.pictures)
        for text in flow.diagnostics.warnings(i)
    ]
