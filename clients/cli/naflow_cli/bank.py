"""`naflow bank`: reference banks in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bank_app = typer.Typer(help="Reference banks: labelled embeddings to compare pictures with.")


@bank_app.command()
def create(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="ONNX file.")],
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE...", help="Pictures, or folders of pictures.")
    ],
    out: Annotated[Path, typer.Option(help="The bank to write (.npz).")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Text file with one label per picture, or NAME,LABEL lines; the names of the pictures' "
            "folders when left out."
        ),
    ] = None,
    preprocess: Annotated[str | None, typer.Option(help="imagenet, unit, raw or FILE.json.")] = None,
    output: Annotated[str | None, typer.Option(help="Graph output that is the embedding.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures that go through the model together.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Embed pictures and write them with their labels."""
    from naflow_cli.banking import create_bank

    create_bank(model, pictures, out, labels, preprocess, output, batch_size, quiet=quiet, json=json)
