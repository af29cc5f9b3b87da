"""`naflow serve`: settings together, then the server until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import naflow_core as nf
from naflow_cli.interruption import check_interrupted


def serve_models(config: Path | None, flags: dict[str, Any]) -> int:
    """Run the server; returns the exit status.

    Raises:
        OptionError: the settings cannot be used, or the server's own dependencies are missing.
    """
    try:
        from naflow_server.app import main
        from naflow_server.settings import SettingsError, read_settings
    except ModuleNotFoundError as error:
        raise nf.OptionError(
            f"the server needs {error.name}, which is not installed", hint="pip install 'naflow[server]'"
        ) from error
    try:
        settings = read_settings(config, flags)
        check_interrupted()  # a signal that came during the imports must not strike in the event loop
        return main(settings)
    except SettingsError as error:
        raise nf.OptionError(str(error)) from error
