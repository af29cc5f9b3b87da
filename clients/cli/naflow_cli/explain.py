"""`naflow explain`: read, explain, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from rich.progress import Progress

import naflow_core as nf
from naflow_cli.agreement import disagreements, embedding_disagreements, reference_prediction
from naflow_cli.comparands import Comparands, bank_settings, core_target, read_comparands
from naflow_cli.compilation import use_compilation_cache
from naflow_cli.console import note, print_json, progress, say
from naflow_cli.inputs import InputBatch, Takes, digest, read_inputs
from naflow_cli.outputs import Outcome, write_outputs
from naflow_cli.points import find_points
from naflow_cli.request import Request
from naflow_cli.staging import staged
from naflow_cli.versions import versions
from naflow_client.presentation import TOP, Pictured
from naflow_client.report import Comparison


def explain_inputs(request: Request, *, quiet: bool, json: bool) -> None:
    """Explain the inputs and write everything under `request.out`.

    Raises:
        NaflowError, ClientError: model, inputs or options are wrong; nothing is left behind then.
    """
    with staged(request.out, request.files) as folder:
        use_compilation_cache()
        labels = read_labels(request)
        target = nf.ClassTarget.parse(request.target, labels)
        model = nf.load(request.model)
        request.check_digest(request.model, model.sha256)
        request.check_inputs()
        for path in request.comparison.files if request.comparison else ():
            if path.is_file():
                request.check_digest(path, digest(path))
        compared, preprocess = read_comparison(model, model.sha256, request)
        batch = read_inputs(model, request.explained, preprocess, request.explained_input)
        if batch.note:
            note(f"naflow: {batch.note}", quiet=quiet)
        with progress(quiet=quiet or json) as bars:
            outcome = _explain(request, model, batch, compared or target, labels, bars)
            outcome = replace(outcome, points=find_points(model, request, preprocess))
            manifest = write_outputs(folder, outcome)
    if json:
        print_json(manifest)
    say(request.out, batch.note, manifest, quiet=quiet, json=json)


def read_labels(request: Request) -> nf.Labels | None:
    """The class names, if the request has any.

    Raises:
        TargetError: the file cannot be read.
    """
    if request.labels is None:
        return None
    labels = nf.Labels.read(request.labels)
    request.check_digest(request.labels, digest(request.labels))
    return labels


def read_comparison(
    model: Takes, sha256: str, request: Request
) -> tuple[Comparands | None, str | dict[str, Any] | None]:
    """What to compare with (None where a class is explained), and how pictures become tensors.

    Args:
        sha256: of the model.

    Raises:
        NaflowError, ClientError: a file or option does not fit.
    """
    options = request.comparison
    if options is None:
        return None, request.preprocess
    label = None if request.target == "top" else request.target.partition(":")[2]
    if label is not None and not options.with_bank and not options.ways:
        raise nf.OptionError(f"--target {request.target} has no effect with --reference", hint="leave it out")
    found = read_comparands(model, sha256, options, request.inputs, request.preprocess, label)
    return found, bank_settings(found.bank, request.preprocess)


def _explain(
    request: Request,
    model: nf.Model,
    batch: InputBatch,
    target: nf.ClassTarget | Comparands,
    labels: nf.Labels | None,
    bars: Progress,
) -> Outcome:
    task = bars.add_task("forward pass", total=None)
    explanation = model.explain(
        batch.arrays,
        core_target(model, target, request.output) if isinstance(target, Comparands) else target,
        method=request.method,
        layers=request.wanted_layers(),
        output=request.output,
        top_feature_map=request.top_feature_map,
        explained_input=request.explained_input,
        batch_size=request.batch_size,
    )
    prediction = explanation.prediction
    fitted = labels.fitted(prediction.scores.shape[1]) if labels else None
    bars.update(task, description="layer flows", total=len(explanation.layers))
    flows = []
    for flow in explanation:
        flows.append(flow)
        bars.update(task, completed=len(flows), description=f"layer flows: {flow.tensor[-40:]}")
    bars.update(task, description="checking against onnxruntime", total=None)
    reference = model.reference_scores(batch.arrays, prediction.output)
    bars.update(task, description="writing pictures")
    warnings = [batch.note] if batch.note else []
    pictures = _pictured(batch, prediction, reference, target)
    differing = disagreements(pictures)
    if prediction.similarity is not None:
        names = [file.name for file in batch.files]
        differing = embedding_disagreements(names, prediction.similarity.embedding, reference)
    source, graph = model.loaded.source, model.loaded.graph
    return Outcome(
        model={"file": source.name, "sha256": source.sha256, "top_feature_map": explanation.plan.top},
        origin={
            "producer": graph.producer or "not stated",
            "opset": ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in graph.original_opsets.items()),
        },
        flows=tuple(sorted(flows, key=lambda flow: flow.index)),
        pictures=pictures,
        label=fitted.title if fitted else _named(prediction),
        method={
            **request.method.to_dict(),
            **({"similarity": request.comparison.facts()} if request.comparison else {}),
        },
        versions=versions(),
        request=request.to_dict(model.sha256, batch.preprocessing),
        warnings=(*warnings, *differing),
    )


def _named(prediction: nf.Prediction) -> Callable[[int], str]:
    if prediction.similarity is None:
        return "class {}".format
    return prediction.similarity.candidates.__getitem__


def _pictured(
    batch: InputBatch, prediction: nf.Prediction, reference: np.ndarray, target: nf.ClassTarget | Comparands
) -> tuple[Pictured, ...]:
    similarity = prediction.similarity

    def comparison(i: int) -> Comparison | None:
        if similarity is None or not isinstance(target, Comparands):
            return None
        channels = similarity.top_channels(i, TOP)
        shown = target.shown(i, similarity.neighbours[i])
        return Comparison(similarity.metric, float(similarity.score[i]), channels, shown)

    best = [tuple(prediction.best(i, TOP)) for i in range(len(batch.files))]
    return tuple(
        Pictured(
            name=file.name,
            display=file.display,
            output=prediction.output,
            best=best[i],
            target=int(prediction.target[i]),
            logit=float(prediction.target_score[i]),
            squashed_by=prediction.squashed_by,
            reference=None
            if similarity is not None
            else reference_prediction(best[i], prediction.scores[i], reference[i]),
            comparison=comparison(i),
        )
        for i, file in enumerate(batch.files)
    )
