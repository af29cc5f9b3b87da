"""Entry point of the `naflow` command: the commands' options, and how failures leave the process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from naflow_cli.bank import bank_app
from naflow_cli.bench import bench
from naflow_cli.ending import ended, fail
from naflow_cli.evaluate import evaluate
from naflow_cli.exclusions import nothing_beside_manifest, only_with_server
from naflow_cli.interruption import end_at_signals, heed_signals

app = typer.Typer(
    name="naflow",
    help="Layer-by-layer attention flows for CNNs, straight from an ONNX file.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(bank_app, name="bank")
app.command()(bench)
app.command()(evaluate)

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="ONNX file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Output = Annotated[str | None, typer.Option(help="Graph output to explain; needed when there are several.")]
Top = Annotated[
    str | None, typer.Option(help="Name of the top feature map; found by analysis when left out.")
]
Source = Annotated[
    str | None,
    typer.Option(
        "--explained-input", help="Of several inputs the one that the maps lead to; found by analysis."
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]N,C,H,W",
        help="Shape of an input (the first without NAME) where the model leaves it open; may be repeated.",
    ),
]
Given = Annotated[Path | None, typer.Option(help="Picture, .npy or .npz; seeded noise when left out.")]


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        import naflow_core

        sys.stdout.write(f"naflow {naflow_core.__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.BadParameter("no command given; try `naflow --help`")


@app.command()
def inspect(
    model: ModelPath,
    json: Json = False,
    output: Output = None,
    top_feature_map: Top = None,
    explained_input: Source = None,
    input_shape: InputShape = None,
) -> None:
    """Show what will happen to a model: spine, segments, inverse rules, and what is not supported.

    Nothing is computed. Exit status 1 if the model cannot be explained.
    """
    from naflow_cli.inspect import inspect_model

    names = (output, top_feature_map, explained_input)
    raise typer.Exit(inspect_model(model, json, *names, input_shape or []))


@app.command()
def verify(
    model: ModelPath,
    input: Given = None,  # noqa: A002
    tolerance: Annotated[float, typer.Option(help="Largest allowed max|a-b|/max|b| of any tensor.")] = 1e-4,
    preprocess: Annotated[
        str | None, typer.Option(help="For a picture: imagenet, unit, raw or FILE.json.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    input_shape: InputShape = None,
    json: Json = False,
) -> None:
    """Compare our forward pass with onnxruntime at every tensor. Exit status 1 if they differ."""
    from naflow_cli.verify import verify_model

    raise typer.Exit(verify_model(model, input, tolerance, preprocess, seed, input_shape or [], json))


@app.command()
def explain(
    context: typer.Context,
    model: Annotated[Path | None, typer.Argument(metavar="MODEL.onnx", help="ONNX file.")] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT...", help="Pictures, or .npy/.npz already preprocessed."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for flows.npz, manifest.json, pictures, report.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Run again as this manifest.json says; MODEL and INPUT may be left out."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="top, class:281 or class:NAME (with --labels; of a bank or way, its label)."),
    ] = "top",
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="Picture, or .npy/.npz of pictures or embeddings, to compare with; may be repeated."
        ),
    ] = None,
    supports: Annotated[
        Path | None, typer.Option(help="Few-shot: folder with a folder of pictures for each way.")
    ] = None,
    contrast: Annotated[
        bool, typer.Option("--contrast", help="With --supports: take off the runner-up's similarity.")
    ] = False,
    sides: Annotated[
        str | None,
        typer.Option(help="Pairs of inputs and references: explain the query, the gallery or both."),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y", help="Also show what answers to this pixel of the inputs in the references."
        ),
    ] = None,
    bank: Annotated[Path | None, typer.Option(help="Reference bank (.npz) to compare with.")] = None,
    server_bank: Annotated[
        str | None, typer.Option(help="With --server: name of a bank that the server keeps.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="cosine (default), dot, euclidean or image-to-class.")
    ] = None,
    normalise: Annotated[str | None, typer.Option(help="Channel weights: minmax (default) or none.")] = None,
    coefficients: Annotated[str | None, typer.Option(help="gradient (default) or contribution.")] = None,
    neighbours: Annotated[
        int | None, typer.Option(help="How many of the bank's nearest vote, default 20.")
    ] = None,
    search: Annotated[str | None, typer.Option(help="In the bank, by jax (default) or faiss.")] = None,
    layers: Annotated[
        str, typer.Option(help="blocks, spine, nodes, or tensor names separated by commas.")
    ] = "blocks",
    output: Output = None,
    top_feature_map: Top = None,
    explained_input: Source = None,
    preset: Annotated[str, typer.Option(help="default, net, positive, paper or published-code.")] = "default",
    inverse: Annotated[str | None, typer.Option(help="least-squares or activation.")] = None,
    rows: Annotated[str | None, typer.Option(help="Equations kept: retained, active or all.")] = None,
    weighting: Annotated[str | None, typer.Option(help="Of the equations: scaled or plain.")] = None,
    abandon: Annotated[
        str | None, typer.Option(help="zero-gradient, [soft-|balanced-|graded-]mass:RHO or mass-each:RHO.")
    ] = None,
    feasible: Annotated[
        bool | None, typer.Option("--feasible/--no-feasible", help="Keep preimages in their op's range.")
    ] = None,
    anchor: Annotated[str | None, typer.Option(help="origin, activation, signed or relative.")] = None,
    evidence: Annotated[str | None, typer.Option(help="Of the channels: positive or net.")] = None,
    damping: Annotated[float | None, typer.Option(help="Tikhonov parameter, >= 0.")] = None,
    quality: Annotated[str | None, typer.Option(help="A tolerance: draft, standard or exact.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Relative residual at which a solve stops.")] = None,
    max_iterations: Annotated[int | None, typer.Option(help="Cap for each solve.")] = None,
    map_change: Annotated[
        float | None, typer.Option(help="Movement of the map below which a solve may stop earlier.")
    ] = None,
    preprocess: Annotated[str | None, typer.Option(help="imagenet, unit, raw or FILE.json.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Text file with one class name per line.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures that go through the model together.")] = 1,
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Let this server compute; MODEL is a name there.")
    ] = None,
    model_version: Annotated[
        str | None, typer.Option(help="Version of the server's model; the newest when left out.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the server's bearer token.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt; trust the usual certificates.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="Encrypt; trust the certificates in this file.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Own certificate, for mutual TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    tls_server_name: Annotated[
        str | None, typer.Option(help="Name to expect in the server's certificate.")
    ] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds for each batch of pictures.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
    json: Json = False,
) -> None:
    """Explain pictures: write layer flows, overlays, an animation and a report under --out."""
    from naflow_cli.comparison import Comparison
    from naflow_cli.explain import explain_inputs
    from naflow_cli.points import parse_point
    from naflow_cli.request import Request

    changes = {
        "inverse": inverse,
        "rows": rows,
        "weighting": weighting,
        "abandon": abandon,
        "feasible": feasible,
        "anchor": anchor,
        "evidence": evidence,
        "damping": damping,
        "tolerance": tolerance,
        "max_iterations": max_iterations,
        "map_change": map_change,
    }
    if out is None:
        raise typer.BadParameter("--out is missing; name a folder for the results")
    if manifest is not None:
        nothing_beside_manifest(context)
        request = Request.from_manifest(manifest, model, inputs or [], out)
    else:
        choices = {
            "metric": metric,
            "normalise": normalise,
            "coefficients": coefficients,
            "neighbours": neighbours,
        }
        sources = {
            "reference": reference or [],
            "supports": supports,
            "bank": bank,
            "server_bank": server_bank,
        }
        request = Request.from_options(
            comparison=Comparison.from_options(
                sources,
                choices,
                contrast=contrast,
                sides=sides,
                point=parse_point(point) if point is not None else None,
                search=search,
            ),
            model=model,
            inputs=inputs or [],
            out=out,
            target=target,
            layers=layers,
            output=output,
            top_feature_map=top_feature_map,
            explained_input=explained_input,
            preset=preset,
            quality=quality,
            changes=changes,
            preprocess=preprocess,
            labels=labels,
            batch_size=batch_size,
        )
    if server is None and (request.server is None or model is not None):
        only_with_server(context)
        if request.comparison is not None and request.comparison.server_bank:
            raise typer.BadParameter("--server-bank is for --server; a bank in a file is --bank")
        explain_inputs(request, quiet=quiet, json=json)
        return
    from naflow_cli.remote import Remote, explain_remotely

    if search is not None:
        raise typer.BadParameter("--search is for banks that are searched here; a server has its own setting")
    if request.comparison is not None and request.comparison.point:
        raise typer.BadParameter("--point is computed in this process; leave --server out")
    files = {
        "ca": tls_ca,
        "certificate": tls_certificate,
        "key": tls_key,
        "server_name": tls_server_name,
    }
    remote = Remote.from_options(request, server, model_version, token_file, deadline, tls, files)
    explain_remotely(request, remote, quiet=quiet, json=json)


@app.command()
def serve(
    model_repository: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with NAME/VERSION/model.onnx.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not set.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8001 if not set.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of the Prometheus metrics.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Ask clients for certificates signed by these (PEM).")
    ] = None,
    tokens_file: Annotated[Path | None, typer.Option(help="Bearer tokens, one a line.")] = None,
) -> None:
    """Serve explanations over gRPC until SIGTERM. Flags win over environment, environment over --config."""
    from naflow_cli.serve import serve_models

    flags = {
        "repository.path": model_repository,
        "server.host": host,
        "server.port": port,
        "server.metrics_port": metrics_port,
        "security.tls_certificate": tls_certificate,
        "security.tls_key": tls_key,
        "security.client_ca": client_ca,
        "security.tokens_file": tokens_file,
    }
    raise typer.Exit(serve_models(config, flags))


def run(arguments: list[str] | None = None) -> None:
    """Run the command line; never lets a traceback out.

    Exit status: 0 success, 1 failed check, 2 bad usage or bad input, 130 interrupted.
    """
    _keep_libraries_quiet()
    _open_missing_streams()
    heed_signals()  # so that half-written results are cleared away
    try:
        status = ended(lambda: app(arguments, prog_name="naflow", standalone_mode=False))
    except KeyboardInterrupt:  # while a failure was being told
        status = fail("interrupted", 130)
    if arguments is None:
        end_at_signals()
    sys.exit(status)


def _keep_libraries_quiet() -> None:
    """Native libraries log to stderr while they load; only errors are for users."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _open_missing_streams() -> None:
    """A stream that was closed before the start is None here; what goes to it is dropped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
            setattr(sys, name, nowhere)


if __name__ == "__main__":
    run()
