"""The files that `naflow explain` leaves: flows.npz, manifest.json, overlays, animation, report."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import naflow_core as nf
from naflow_cli.inputs import InputBatch
from naflow_client.render import layer_frames, write_gif, write_overlays
from naflow_client.report import LayerReport, PictureReport, Prediction, Report, write_report

TOP = 5
PER_PICTURE = ("retained_fraction", "iterations", "relative_residual", "converged", "conservation_gap")


@dataclass(frozen=True)
class Outcome:
    """One finished explanation with all that the files tell about it.

    Attributes:
        request: what makes the same maps again (the manifest's "run").
        reference: [N, classes] scores from onnxruntime.
        warnings: about the run as a whole.
    """

    request: dict[str, Any]
    model: nf.Model
    result: nf.Result
    reference: np.ndarray
    batch: InputBatch
    labels: nf.Labels | None
    method: nf.Method
    top_feature_map: str
    warnings: tuple[str, ...]

    def label(self, index: int) -> str:
        """Class name, or its number where no label file was given."""
        return self.labels.title(index) if self.labels else f"class {index}"


def write_outputs(folder: Path, outcome: Outcome) -> dict[str, Any]:
    """Write every file into an empty folder and return the manifest."""
    outcome.result.save(folder / "flows.npz")
    pictures = [_picture_report(outcome, i) for i in range(len(outcome.batch.files))]
    for i, picture in enumerate(pictures):
        several = len(pictures) > 1
        place = folder / "overlays" / f"{i:03d}-{_stem(picture.name)}" if several else folder / "overlays"
        write_overlays(place, picture.picture, picture.layers)
        frames = layer_frames(picture.picture, picture.layers)
        write_gif(frames, folder / (f"flow-{i:03d}.gif" if i else "flow.gif"))
    manifest = make_manifest(outcome)
    write_report(folder / "report.html", _report(outcome, pictures, manifest))
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def make_manifest(outcome: Outcome) -> dict[str, Any]:
    """manifest.json as plain values."""
    pictures = [_picture_entry(outcome, i) for i in range(len(outcome.batch.files))]
    single = len(pictures) == 1
    layers = []
    for flow in outcome.result.flows:
        rows = [flow.diagnostics.to_dict(i) for i in range(len(pictures))]
        entry = {"index": flow.index, "tensor": flow.tensor, "key": flow.key, **rows[0]}
        if not single:
            entry.update({key: [row[key] for row in rows] for key in PER_PICTURE})
        layers.append(entry)
    return {
        "model": {
            "file": outcome.model.loaded.source.name,
            "sha256": outcome.model.sha256,
            "top_feature_map": outcome.top_feature_map,
        },
        "prediction": pictures[0]["prediction"] if single else [p["prediction"] for p in pictures],
        "target": pictures[0]["target"] if single else [p["target"] for p in pictures],
        "pictures": pictures,
        "method": outcome.method.to_dict(),
        "layers": layers,
        "versions": _versions(),
        "seed": 0,  # the cascade draws no random numbers
        "warnings": [*outcome.warnings, *_layer_warnings(outcome)],
        "run": outcome.request,
    }


def _picture_entry(outcome: Outcome, i: int) -> dict[str, Any]:
    prediction = outcome.result.prediction
    target = int(prediction.target[i])
    order = np.argsort(-outcome.reference[i], kind="stable")[:TOP]
    reference = [(int(k), float(outcome.reference[i, k])) for k in order]
    return {
        "input": outcome.batch.files[i].name,
        "prediction": {
            "output": prediction.output,
            "naflow": [_class(outcome, *row) for row in prediction.best(i, TOP)],
            "onnxruntime": [_class(outcome, *row) for row in reference],
        },
        "target": {
            "kind": "class",
            "class": target,
            "label": outcome.label(target),
            "logit": float(prediction.target_score[i]),
        },
    }


def _class(outcome: Outcome, index: int, score: float) -> dict[str, Any]:
    return {"class": index, "label": outcome.label(index), "score": score}


def _layer_warnings(outcome: Outcome) -> list[str]:
    several = len(outcome.batch.files) > 1
    return [
        f"{outcome.batch.files[i].name + ', ' if several else ''}layer {flow.tensor}: {text}"
        for flow in outcome.result.flows
        for i in range(len(outcome.batch.files))
        for text in flow.diagnostics.warnings(i)
    ]


def _picture_report(outcome: Outcome, i: int) -> PictureReport:
    prediction = outcome.result.prediction
    rows = [
        Prediction(rank, outcome.label(k), score, float(outcome.reference[i, k]))
        for rank, (k, score) in enumerate(prediction.best(i, TOP), start=1)
    ]
    target = int(prediction.target[i])
    before = f" before {prediction.squashed_by}" if prediction.squashed_by else ""
    return PictureReport(
        name=outcome.batch.files[i].name,
        picture=outcome.batch.files[i].display,
        prediction=rows,
        target=f"{outcome.label(target)}: logit{before} {float(prediction.target_score[i]):.4g}",
        layers=[_layer_report(flow, i) for flow in outcome.result.flows],
    )


def _layer_report(flow: nf.Flow, i: int) -> LayerReport:
    facts = flow.diagnostics.to_dict(i)
    shown = {key: facts[key] for key in (*PER_PICTURE, "seconds")}
    return LayerReport(
        index=flow.index,
        tensor=flow.tensor,
        node=flow.diagnostics.node,
        op_type=flow.diagnostics.op_type,
        shape=flow.diagnostics.shape,
        rule=flow.diagnostics.rule,
        map=_flat(flow.map[i]),
        diagnostics=shown,
        warnings=flow.diagnostics.warnings(i),
    )


def _flat(values: np.ndarray) -> np.ndarray:
    """A map as a picture, for display: [L] becomes one row, [D, H, W] is summed over its depth."""
    return values[None] if values.ndim == 1 else values.reshape(-1, *values.shape[-2:]).sum(axis=0)


def _report(outcome: Outcome, pictures: list[PictureReport], manifest: dict[str, Any]) -> Report:
    graph = outcome.model.loaded.graph
    return Report(
        title=f"Layer flows of {outcome.model.loaded.source.name}",
        pictures=pictures,
        method=manifest["method"],
        model={
            **manifest["model"],
            "producer": graph.producer or "not stated",
            "opset": ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in graph.original_opsets.items()),
        },
        versions=manifest["versions"],
        warnings=outcome.warnings,
    )


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "numpy", "onnx", "Pillow")
    found = {"naflow": nf.__version__, **{name.lower(): metadata.version(name) for name in names}}
    return {
        **found,
        "onnxruntime": _onnxruntime(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _onnxruntime() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem)[:60]
