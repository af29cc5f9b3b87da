"""`naflow bench`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="ONNX file.")],
    input: Annotated[  # noqa: A002
        Path | None, typer.Option(help="Picture, .npy or .npz; seeded noise when left out.")
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="For a picture: imagenet, unit, raw or FILE.json.")
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]N,C,H,W",
            help="Shape of the noise (the first input without NAME) where the model leaves it open.",
        ),
    ] = None,
    presets: Annotated[
        str, typer.Option(help="What to compare, separated by commas.")
    ] = "default,paper,published-code",
    layers: Annotated[str, typer.Option(help="spine, blocks, nodes, or tensor names with commas.")] = "spine",
    output: Annotated[
        str | None, typer.Option(help="Graph output to explain; needed when there are several.")
    ] = None,
    top_feature_map: Annotated[
        str | None, typer.Option(help="Name of the top feature map; found by analysis when left out.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds; the medians are shown.")] = 5,
    segments: Annotated[bool, typer.Option("--segments", help="Also show the split by segment.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Also measure the first explanation in new processes.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Time explanations beside a forward pass in onnxruntime and a forward and backward pass in JAX."""
    from naflow_cli.timing import Request, time_model

    time_model(
        Request(
            model=model,
            input=input,
            preprocess=preprocess,
            input_shape=tuple(input_shape or ()),
            presets=tuple(dict.fromkeys(presets.split(","))),
            layers=layers,
            output=output,
            top_feature_map=top_feature_map,
            repeats=repeats,
            fresh=fresh,
            seed=seed,
        ),
        segments=segments,
        json=json,
    )
