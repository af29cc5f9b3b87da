"""`naflow evaluate`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="ONNX file.")],
    images: Annotated[Path, typer.Option(metavar="DIR", help="Pictures: a folder, or one file.")],
    boxes: Annotated[
        Path | None, typer.Option(help="JSON or CSV with the pictures' object boxes and classes.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Text file with one class name per line.")] = None,
    methods: Annotated[
        str, typer.Option(help="Names separated by commas; default and all stand for lists.")
    ] = "default",
    metrics: Annotated[
        str, typer.Option(help="Names separated by commas; default and all stand for lists.")
    ] = "default",
    layers: Annotated[
        str,
        typer.Option(help="auto (shallow, middle, deep), blocks, spine, or tensor names with commas."),
    ] = "auto",
    limit: Annotated[int | None, typer.Option(help="Use the first N pictures only.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    against: Annotated[
        str | None, typer.Option(help="Method the others are tested against; naflow when left out.")
    ] = None,
    probed: Annotated[int, typer.Option(help="Pictures for the measures that compute maps again.")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="Folder for result.json, report.html and finished pictures.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    stability: Annotated[
        bool, typer.Option("--stability", help="Also compare maps under small changes.")
    ] = False,
    twin: Annotated[
        Path | None, typer.Option(help="With --stability: another file of the same network.")
    ] = None,
    twin_preprocess: Annotated[
        str | None, typer.Option(help="As --preprocess, for the twin where it takes other numbers.")
    ] = None,
    preprocess: Annotated[str | None, typer.Option(help="imagenet, unit, raw or FILE.json.")] = None,
    output: Annotated[
        str | None, typer.Option(help="Graph output to explain; needed when there are several.")
    ] = None,
    top_feature_map: Annotated[
        str | None, typer.Option(help="Name of the top feature map; found by analysis when left out.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Measure how far maps show what the model used, with controls and other methods beside them."""
    from naflow_cli.evaluating import Request, evaluate_model

    request = Request(
        model=model,
        images=images,
        boxes=boxes,
        labels=labels,
        methods=methods,
        metrics=metrics,
        layers=layers,
        limit=limit,
        seed=seed,
        against=against,
        probed=probed,
        out=out,
        resume=resume,
        stability=stability,
        twin=twin,
        twin_preprocess=twin_preprocess,
        preprocess=preprocess,
        output=output,
        top_feature_map=top_feature_map,
    )
    evaluate_model(request, quiet=quiet, json=json)
