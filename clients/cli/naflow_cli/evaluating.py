"""`naflow evaluate`: how far maps show what the model used, with controls beside them."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import naflow_core as nf
from naflow_cli.banking import found_pictures
from naflow_cli.compilation import use_compilation_cache
from naflow_cli.console import ERR, OUT, line, note, print_json, progress
from naflow_cli.evaluation_page import render_page
from naflow_cli.interruption import check_interrupted
from naflow_cli.plots import number_text
from naflow_cli.truth import class_numbers, read_truth
from naflow_cli.versions import versions
from naflow_cli.views import Views, read_views
from naflow_core.evaluate import FLOW, METHODS, METRICS, Evaluation, Subject, rivals

RESULT, REPORT = "result.json", "report.html"
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Request:
    """The command line's options, as given; see `naflow evaluate --help`."""

    model: Path
    images: Path
    boxes: Path | None
    labels: Path | None
    methods: str
    metrics: str
    layers: str
    limit: int | None
    seed: int
    against: str | None
    probed: int
    out: Path | None
    resume: bool
    stability: bool
    twin: Path | None
    twin_preprocess: str | None
    preprocess: str | None
    output: str | None
    top_feature_map: str | None


def evaluate_model(request: Request, *, quiet: bool, json: bool) -> None:
    """Run the evaluation, print its table or JSON, and write the files under --out.

    Raises:
        NaflowError, ClientError: model, pictures or options are wrong.
    """
    _check(request)
    use_compilation_cache()
    model = nf.load(request.model)
    labels = None if request.labels is None else nf.Labels.read(request.labels)
    twin = None if request.twin is None else nf.load(request.twin)
    views = _views(request, model, labels, twin)
    for text in views.notes:
        note(f"naflow: {text}", quiet=quiet)
    boxes = any(picture.boxes for picture in views.pictures)
    evaluation = Evaluation(
        model,
        views.pictures,
        methods=chosen(request.methods, METHODS, rivals.REGISTRY.names()),
        metrics=_metrics(request, boxes=boxes),
        layers=_layers(request.layers),
        seed=request.seed,
        against=request.against,
        probed=request.probed,
        output=request.output,
        top_feature_map=request.top_feature_map,
        twin=twin,
        folder=request.out,
        resume=request.resume,
    )
    _run(evaluation, request, quiet=quiet or json)
    facts = {
        **evaluation.result(),
        "model": {"file": model.loaded.source.name, "sha256": model.sha256},
        "preprocess": views.preprocessing,
        "versions": versions(),
        "notes": list(views.notes),
    }
    if request.out is not None:
        count = evaluation.subject.classes
        names = {} if labels is None else dict(enumerate(map(labels.fitted(count).title, range(count))))
        page = render_page(facts, evaluation.examples(), views.displays, names)
        text = json_format.dumps(facts, indent=2, allow_nan=False) + "\n"
        _write(request.out / REPORT, page.encode("utf-8", "replace"))
        _write(request.out / RESULT, text.encode())
    if json:
        print_json(facts)
        return
    _show(facts)
    if request.out is not None and not quiet:
        line(ERR, f"report: {request.out / REPORT}")


def chosen(text: str, usual: Sequence[str], every: Sequence[str]) -> tuple[str, ...]:
    """Names separated by commas; "default" and "all" stand for the lists of these."""
    found: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        found += usual if name == "default" else every if name == "all" else [name] if name else []
    return tuple(dict.fromkeys(found))


def _check(request: Request) -> None:
    if request.limit is not None and request.limit < 1:
        raise nf.OptionError(f"--limit {request.limit} must be at least 1")
    if request.probed < 0:
        raise nf.OptionError(f"--probed {request.probed} must not be negative")
    if request.seed < 0:
        raise nf.OptionError(f"--seed {request.seed} must not be negative")
    if request.resume and request.out is None:
        raise nf.OptionError("--resume needs --out", hint="name the folder of the interrupted evaluation")
    if request.twin is not None and not request.stability:
        raise nf.OptionError("--twin has no effect without --stability", hint="add it")
    if request.twin_preprocess is not None and request.twin is None:
        raise nf.OptionError("--twin-preprocess has no effect without --twin", hint="leave it out")
    if not request.images.exists():
        raise nf.InputError(f"--images {request.images}: does not exist", hint="name a folder of pictures")


def _views(request: Request, model: nf.Model, labels: nf.Labels | None, twin: nf.Model | None) -> Views:
    paths = found_pictures([request.images])[: request.limit]
    truth = {} if request.boxes is None else read_truth(request.boxes)
    views = read_views(
        model,
        paths,
        truth,
        request.preprocess,
        stability=request.stability,
        twin=twin,
        twin_preprocess=request.twin_preprocess,
    )
    if not any(entry.classes for entry in views.truth.values()):
        return views
    fitted = None
    if labels is not None:
        shape = views.pictures[0].x.shape[1:]
        subject = Subject(model, output=request.output, top_feature_map=request.top_feature_map, shape=shape)
        fitted = labels.fitted(subject.classes)
    named = (
        replace(picture, classes=class_numbers(views.truth[picture.name], fitted, picture.name))
        for picture in views.pictures
    )
    return replace(views, pictures=tuple(named))


def _metrics(request: Request, *, boxes: bool) -> tuple[str, ...]:
    usual = [m.name for m in METRICS if m.default and (boxes or not m.boxes)]
    every = [m.name for m in METRICS if not m.stability and (boxes or not m.boxes)]
    found = chosen(request.metrics, usual, every)
    for name in found:
        if METRICS[name].boxes and not boxes:
            raise nf.OptionError(f"measure {name!r} needs boxes", hint="give --boxes FILE")
        if METRICS[name].stability and not request.stability:
            raise nf.OptionError(f"measure {name!r} is one of stability", hint="add --stability")
    if not request.stability:
        return found
    twin = request.twin is not None
    return (*found, *(m.name for m in METRICS if m.stability and (twin or "twin" not in m.name)))


def _layers(text: str) -> str | tuple[str, ...]:
    if text in ("auto", "blocks", "spine"):
        return text
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _run(evaluation: Evaluation, request: Request, *, quiet: bool) -> None:
    try:
        with progress(quiet=quiet) as bars:
            task = bars.add_task("evaluating", total=evaluation.total)
            for done, row in enumerate(evaluation.run(), 1):
                check_interrupted()
                bars.update(task, completed=done, description=f"{row.picture[-24:]} {row.method}")
    except KeyboardInterrupt:
        if request.out is not None:
            line(ERR, f"naflow: finished pictures are kept in {request.out}; go on with --resume")
        raise


def _write(path: Path, data: bytes) -> None:
    """The file as a whole, or what was there before."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    except OSError as error:
        raise nf.OptionError(
            f"{path}: cannot be written: {error.strerror or error}", hint="name another --out"
        ) from error
    finally:
        scratch.unlink(missing_ok=True)


def _show(facts: Mapping[str, Any]) -> None:
    """A table for each layer, and first one for their mean."""
    methods = [m["name"] for m in facts["methods"]]
    layers = [FLOW, *(layer["tensor"] for layer in facts["layers"])]
    winners = {(w["metric"], w["layer"]): w["method"] for w in facts["best"]}
    cells = {(e["metric"], e["layer"], e["method"]): e for e in facts["results"]}
    for layer in layers:
        title = f"{layer}: the mean over the layers" if layer == FLOW else layer
        table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        table.add_column("better", no_wrap=True)
        for name in methods:
            table.add_column(name, justify="right", overflow="fold")
        for metric in facts["metrics"]:
            own = [cells.get((metric["name"], layer, name)) for name in methods]
            if any(own):
                mark = "*" if metric["faithfulness"] else ""
                best = winners.get((metric["name"], layer))
                values = [_cell(entry, best) for entry in own]
                table.add_row(f"{metric['name']}{mark}", metric["better"], *values)
        OUT.print(table)
        OUT.print()
    line(OUT, f"* measure of faithfulness; ~ no different from {facts['against']} (p >= {SIGNIFICANT})")
    for w in facts["controls_that_win"]:
        line(OUT, f"the control {w['method']} wins {w['metric']} at {w['layer']}", "yellow")


def _cell(entry: Mapping[str, Any] | None, best: str | None) -> Text:
    if entry is None:
        return Text("")
    gap = entry["difference"]
    alike = "~" if gap is not None and gap["p"] >= SIGNIFICANT else ""
    return Text(alike + number_text(entry["mean"]), style="bold" if entry["method"] == best else "")
