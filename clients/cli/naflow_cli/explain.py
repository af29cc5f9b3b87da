"""`naflow explain`: read, explain, write."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import naflow_core as nf
import numpy as np
from naflow_cli.compilation import use_compilation_cache
from naflow_cli.console import ERR, note, print_json, progress
from naflow_cli.inputs import InputBatch, read_inputs
from naflow_cli.outputs import Outcome, write_outputs
from rich.text import Text

DISAGREEMENT = 1e-3


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that determines the maps.

    Attributes:
        digests: expected SHA-256 by path, when the request comes from a manifest.
    """

    model: Path
    inputs: tuple[Path, ...]
    out: Path
    target: str
    layers: str
    output: str | None
    top_feature_map: str | None
    method: nf.Method
    preset: str
    preprocess: str | dict[str, Any] | None
    labels: Path | None
    batch_size: int
    digests: Mapping[str, str]

    @classmethod
    def from_options(
        cls,
        *,
        model: Path | None,
        inputs: Sequence[Path],
        out: Path | None,
        manifest: Path | None,
        preset: str,
        changes: dict[str, Any],
        **options: Any,
    ) -> Request:
        """From the command line, or from a manifest with MODEL, INPUT and --out taken from the command line.

        Raises:
            OptionError: something is missing or impossible.
        """
        if out is None:
            raise nf.OptionError("--out is missing", hint="name a folder for the results")
        if manifest is not None:
            return cls._from_manifest(manifest, model, inputs, out)
        if model is None or not inputs:
            raise nf.OptionError("MODEL.onnx and at least one INPUT are needed")
        if options["batch_size"] < 1:
            raise nf.OptionError(f"--batch-size {options['batch_size']} must be at least 1")
        if changes["abandon"] is not None:
            changes = {**changes, "abandon": nf.Abandonment.parse(changes["abandon"])}
        method = nf.Method.preset(preset, **changes)
        return cls(model=model, inputs=tuple(inputs), out=out, method=method, preset=preset, digests={}, **options)

    @classmethod
    def _from_manifest(cls, path: Path, model: Path | None, inputs: Sequence[Path], out: Path) -> Request:
        try:
            run = jsonlib.loads(path.read_text(encoding="utf-8"))["run"]
            files = [Path(entry["path"]) for entry in run["inputs"]]
            paths = tuple(inputs) or tuple(dict.fromkeys(files))
            digests = {str(given): entry["sha256"] for given, entry in zip(
                paths, {e["path"]: e for e in run["inputs"]}.values(), strict=True)}
            model = model or Path(run["model"]["path"])
            return cls(
                model=model,
                inputs=paths,
                out=out,
                target=run["target"],
                layers=run["layers"],
                output=run["output"],
                top_feature_map=run["top_feature_map"],
                method=nf.Method.from_dict(run["method"]),
                preset=run["preset"],
                preprocess=run["preprocess"],
                labels=Path(run["labels"]) if run["labels"] else None,
                batch_size=run["batch_size"],
                digests={str(model): run["model"]["sha256"], **digests},
            )
        except OSError as error:
            raise nf.OptionError(f"manifest {path}: {error.strerror or error}") from error
        except nf.NaflowError as error:
            raise nf.OptionError(f"manifest {path}: {error.message}", hint=error.hint) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise nf.OptionError(
                f"manifest {path} is not one that `naflow explain` wrote: {type(error).__name__}: {error}"
            ) from error

    def check_digest(self, path: Path, sha256: str) -> None:
        """Raises OptionError if a file is not the one the manifest was made with."""
        expected = self.digests.get(str(path), sha256)
        if expected != sha256:
            raise nf.OptionError(f"{path}: not the file that the manifest names (SHA-256 differs)")

    def to_dict(self, model_sha256: str, batch: InputBatch) -> dict[str, Any]:
        """What a manifest needs to make the same maps again."""
        return {
            "model": {"path": str(self.model), "sha256": model_sha256},
            "inputs": [{"path": str(file.path), "sha256": file.sha256} for file in batch.files],
            "target": self.target,
            "layers": self.layers,
            "output": self.output,
            "top_feature_map": self.top_feature_map,
            "preset": self.preset,
            "method": self.method.to_dict(),
            "preprocess": batch.preprocessing,
            "labels": str(self.labels) if self.labels else None,
            "batch_size": self.batch_size,
        }


def explain_inputs(request: Request, *, quiet: bool, json: bool) -> None:
    """Explain the inputs and write everything under `request.out`."""
    use_compilation_cache()
    labels = nf.Labels.read(request.labels) if request.labels else None
    target = nf.ClassTarget.parse(request.target, labels)
    model = nf.load(request.model)
    request.check_digest(request.model, model.sha256)
    batch = read_inputs(model, request.inputs, request.preprocess)
    for file in batch.files:
        request.check_digest(file.path, file.sha256)
    if batch.note:
        note(f"naflow: {batch.note}", quiet=quiet)
    layers = request.layers if request.layers in ("blocks", "spine", "nodes") else request.layers.split(",")
    with progress(quiet=quiet) as bars:
        task = bars.add_task("forward pass", total=None)
        explanation = model.explain(
            batch.arrays,
            target,
            method=request.method,
            layers=layers,
            output=request.output,
            top_feature_map=request.top_feature_map,
            batch_size=request.batch_size,
        )
        bars.update(task, description="layer flows", total=len(explanation.layers))
        flows = []
        for flow in explanation:
            flows.append(flow)
            bars.update(task, completed=len(flows), description=f"layer flows: {flow.tensor[-40:]}")
        result = nf.Result(tuple(sorted(flows, key=lambda flow: flow.index)), explanation.prediction)
        bars.update(task, description="checking against onnxruntime", total=None)
        reference = model.reference_scores(batch.arrays, result.prediction.output)
        bars.update(task, description="writing pictures")
        fitted = labels.fitted(result.prediction.scores.shape[1]) if labels else None
        warnings = [batch.note] if batch.note else []
        warnings += _disagreements(batch, result.prediction.scores, reference)
        outcome = Outcome(
            request=request.to_dict(model.sha256, batch),
            model=model,
            result=result,
            reference=reference,
            batch=batch,
            labels=fitted,
            method=request.method,
            top_feature_map=explanation.plan.top,
            warnings=tuple(warnings),
        )
        manifest = write_outputs(request.out, outcome)
    _say(request, outcome, manifest, quiet=quiet, json=json)


def _disagreements(batch: InputBatch, ours: np.ndarray, reference: np.ndarray) -> list[str]:
    """Pictures for which our forward pass and onnxruntime do not say the same."""
    found = []
    for file, a, b in zip(batch.files, ours, reference, strict=True):
        scale = float(np.abs(b).max()) or 1.0
        gap = float(np.abs(a - b).max()) / scale
        if gap > DISAGREEMENT or a.argmax() != b.argmax():
            found.append(
                f"{file.name}: our scores differ from onnxruntime's by {gap:.1e} (relative); "
                "run `naflow verify` to see where"
            )
    return found


def _say(request: Request, outcome: Outcome, manifest: dict[str, Any], *, quiet: bool, json: bool) -> None:
    if json:
        print_json(manifest)
    for text in manifest["warnings"]:
        if text != outcome.batch.note:
            note(f"naflow: {text}", quiet=quiet)
    if quiet or json:
        return
    for picture in manifest["pictures"]:
        best = picture["prediction"]["naflow"][0]
        explained = picture["target"]
        ERR.print(
            Text(
                f"{picture['input']}: predicted {best['label']} ({best['score']:.4g}), "
                f"explained {explained['label']} over {len(manifest['layers'])} layers"
            )
        )
    ERR.print(Text(f"report: {request.out / 'report.html'}"))
