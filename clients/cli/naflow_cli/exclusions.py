"""Options of `naflow explain` that have no effect beside others, and are refused there."""

from __future__ import annotations

import typer

REMOTE_OPTIONS = (
    "model_version",
    "token_file",
    "tls",
    "tls_ca",
    "tls_certificate",
    "tls_key",
    "tls_server_name",
    "deadline",
)


def only_with_server(context: typer.Context) -> None:
    """Refuse options for access to a server where there is none.

    Raises:
        BadParameter: names the first.
    """
    for name in REMOTE_OPTIONS:
        if context.params.get(name):
            raise typer.BadParameter(f"--{name.replace('_', '-')} has no effect without --server")


def nothing_beside_manifest(context: typer.Context) -> None:
    """Refuse what a manifest settles: every option that changes the maps.

    Raises:
        BadParameter: names the first.
    """
    free = {"model", "inputs", "out", "manifest", "quiet", "json", "server", *REMOTE_OPTIONS}
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in free and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(
                f"--{name.replace('_', '-')} and --manifest exclude each other: the manifest settles it"
            )
