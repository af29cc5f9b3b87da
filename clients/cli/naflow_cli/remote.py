"""`naflow explain --server`: the same files, computed by a server."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

import naflow_core as nf
from naflow_cli.agreement import disagreements, embedding_differs
from naflow_cli.comparands import Comparands
from naflow_cli.console import note, print_json, progress, say
from naflow_cli.explain import read_comparison, read_labels
from naflow_cli.inputs import InputBatch, digest, read_inputs
from naflow_cli.outputs import Outcome, write_outputs
from naflow_cli.remote_targets import check_pairs, comparison_of, labels_of, remote_target
from naflow_cli.request import Request
from naflow_cli.staging import staged
from naflow_cli.versions import versions
from naflow_client import Client, Flow, LayerDiagnostics, ModelReport, Result, Tls
from naflow_client.presentation import PER_PICTURE, TOP
from naflow_core.model.graph import TensorSpec
from naflow_core.model.inputs import checked_input


@dataclass(frozen=True, slots=True)
class Remote:
    """Where the server is, and how to talk to it.

    Attributes:
        version: of the model; the newest when None.
        deadline: seconds for each batch of pictures; None for no limit.
    """

    address: str
    version: str | None
    tls: Tls | bool
    token_file: Path | None
    deadline: float | None

    @classmethod
    def from_options(
        cls,
        request: Request,
        address: str | None,
        version: str | None,
        token_file: Path | None,
        deadline: float | None,
        tls: bool,
        files: Mapping[str, Any],
    ) -> Remote:
        """From the command line, and from the manifest where that leaves something open; `files` are the
        fields of `Tls`.

        Raises:
            OptionError: the manifest's model is a file, and no name at the server is given.
        """
        chosen = Tls(**files) if any(files.values()) else tls
        recorded = request.server
        if recorded is None and request.model.suffix == ".onnx" and request.digests:
            raise nf.OptionError(
                f"the manifest was made from the file {request.model}, not by a server",
                hint="name the model at the server as MODEL, or leave out --server",
            )
        where = address or (recorded.address if recorded else "")
        return cls(
            where, version or (recorded.model_version if recorded else None), chosen, token_file, deadline
        )


class RemoteModel:
    """What a server's model takes."""

    def __init__(self, report: ModelReport) -> None:
        self.inputs = tuple(TensorSpec(item.name, item.dtype, item.shape) for item in report.inputs)

    def check_inputs(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs by name, checked against the declaration.

        Raises:
            InputError: names the input and what does not fit.
        """
        return {spec.name: checked_input(spec, x[spec.name]) for spec in self.inputs}


def explain_remotely(request: Request, remote: Remote, *, quiet: bool, json: bool) -> None:
    """Let a server explain the inputs, and write everything under `request.out`.

    Raises:
        NaflowError, ClientError: the server, model, inputs or options are wrong; nothing is left behind then.
    """
    with (
        staged(request.out, request.files) as folder,
        Client(
            remote.address, tls=remote.tls, token_file=remote.token_file, deadline=remote.deadline
        ) as client,
    ):
        labels = read_labels(request)
        target = nf.ClassTarget.parse(request.target, labels)
        report = client.inspect(
            str(request.model),
            version=remote.version,
            output=request.output,
            top_feature_map=request.top_feature_map,
            explained_input=request.explained_input,
        )
        request.check_digest(request.model, report.sha256)
        request.check_inputs()
        for path in request.comparison.files if request.comparison else ():
            if path.is_file():
                request.check_digest(path, digest(path))
        model = RemoteModel(report)
        compared, preprocess = read_comparison(model, report.sha256, request)
        batch = read_inputs(model, request.explained, preprocess, request.explained_input)
        if batch.note:
            note(f"naflow: {batch.note}", quiet=quiet)
        fitted = labels.fitted(_classes(report, len(labels.names))) if labels else None
        with progress(quiet=quiet or json) as bars:
            if compared is None:
                wanted = _target_class(target, fitted)
                results = _explain(client, report, request, batch, lambda *_: {"target_class": wanted}, bars)
            else:
                check_pairs(compared, len(batch.files))
                similar = remote_target(compared)
                results = _explain(
                    client, report, request, batch, lambda *part: {"target": similar(*part)}, bars
                )
            outcome = _outcome(request, remote, report, batch, fitted, compared, results)
            manifest = write_outputs(folder, outcome)
    if json:
        print_json(manifest)
    say(request.out, batch.note, manifest, quiet=quiet, json=json)


def _classes(report: ModelReport, otherwise: int) -> int:
    """How many classes the explained output has, as far as the server could tell."""
    shape = next((o.used_shape for o in report.outputs if o.name == report.explained_output), None)
    return math.prod(shape[1:]) if shape else otherwise


def _target_class(target: nf.ClassTarget, labels: nf.Labels | None) -> int | None:
    if target.wanted == "top":
        return None
    if isinstance(target.wanted, int):
        return target.wanted
    if labels is None:
        raise nf.TargetError(
            f"class name {target.wanted!r} needs the class names", hint="give --labels FILE or use class:K"
        )
    return labels.index(target.wanted)


def _explain(
    client: Client,
    report: ModelReport,
    request: Request,
    batch: InputBatch,
    target: Callable[[int, int], dict[str, Any]],
    bars: Progress,
) -> list[Result]:
    """One result per batch of pictures; `target` gives its options for those from one position to another."""
    declared = report.inputs[0].shape
    fixed = declared[0] if declared and isinstance(declared[0], int) else None
    size, count = fixed or request.batch_size, len(batch.files)
    task = bars.add_task("waiting for the server", total=None)
    results: list[Result] = []
    for begin in range(0, count, size):
        stream = client.explain(
            report.model,
            {name: array[begin : begin + size] for name, array in batch.arrays.items()},
            version=report.version,
            **target(begin, min(begin + size, count)),
            layers=request.wanted_layers(),
            output=request.output,
            top_feature_map=request.top_feature_map,
            explained_input=request.explained_input,
            top_k=TOP,
            reference_prediction=True,
            **request.method.to_dict(),
        )
        with stream:
            total = len(stream.header.layers)
            bars.update(task, total=total * math.ceil(count / size))
            flows = []
            for flow in stream:
                flows.append(flow)
                done = len(results) * total + len(flows)
                bars.update(task, completed=done, description=f"layer flows: {flow.tensor[-40:]}")
            results.append(stream.result(flows))
    bars.update(task, description="writing pictures")
    return results


def _outcome(
    request: Request,
    remote: Remote,
    report: ModelReport,
    batch: InputBatch,
    labels: nf.Labels | None,
    compared: Comparands | None,
    results: Sequence[Result],
) -> Outcome:
    header = results[0].header
    told = [facts for result in results for facts in result.facts()]
    pictures = [
        replace(facts, name=file.name, display=file.display)
        for facts, file in zip(told, batch.files, strict=True)
    ]
    names: Callable[[int], str] = labels.title if labels else "class {}".format
    top, method = report.top_feature_map, dict(header.method)
    differing = disagreements(pictures) if compared is None else []
    if compared is not None and request.comparison is not None:
        predictions = [prediction for result in results for prediction in result.header.predictions]
        for i, prediction in enumerate(predictions):
            if prediction.reference is not None:
                differing += embedding_differs(pictures[i].name, prediction.reference.largest_difference)
            shown = comparison_of(compared, i, prediction)
            pictures[i] = replace(pictures[i], comparison=shown, reference=None)
        names = labels_of(compared, results)
        top = request.top_feature_map or (report.head.top_feature_map if report.head else top)
        method["similarity"] = request.comparison.facts()
    lost = {item.tensor: item.error.message for result in results for item in result.failures}
    run = request.to_dict(header.sha256, batch.preprocessing)
    return Outcome(
        model={
            "file": header.model,
            "sha256": header.sha256,
            "top_feature_map": top,
        },
        origin={
            "producer": report.producer or "not stated",
            "opset": ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in report.opsets.items()),
            "server": remote.address,
            "version": header.version,
        },
        flows=_joined(results),
        pictures=tuple(pictures),
        label=names,
        method=method,
        versions=versions(computing=False),
        request={**run, "server": {"address": remote.address, "model_version": header.version}},
        warnings=(
            *([batch.note] if batch.note else []),
            *differing,
            *(f"layer {tensor} has no map: {why}" for tensor, why in lost.items()),
        ),
    )


def _joined(results: Sequence[Result]) -> tuple[Flow, ...]:
    """Flows of all pictures, for the layers that every batch has."""
    tables = [{flow.index: flow for flow in result.flows} for result in results]
    found = []
    for index in sorted(set.intersection(*(set(table) for table in tables))):
        parts = [table[index] for table in tables]
        first = parts[0]
        columns: dict[str, Any] = {
            key: np.concatenate([getattr(part.diagnostics, key) for part in parts]) for key in PER_PICTURE
        }
        diagnostics: LayerDiagnostics = replace(
            first.diagnostics, seconds=sum(part.diagnostics.seconds for part in parts), **columns
        )
        maps = np.concatenate([part.map for part in parts])
        found.append(Flow(index, first.tensor, maps, diagnostics))
    return tuple(found)
