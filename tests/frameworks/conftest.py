"""Exported files: from a folder that is named, else from the exporters that are installed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from frameworks.catalogue import EXPORTED, EXPORTERS


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder that holds an exporter's files; skips the test where it cannot be had."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            given = os.environ.get(EXPORTED)
            if given:
                if not Path(given, name).is_dir():
                    pytest.skip(f"{EXPORTED} has no folder {name}")
                made[name] = Path(given, name)
            else:
                lacking = EXPORTERS[name].lacking()
                if lacking:
                    pytest.skip(f"{lacking} is not installed; docs/frameworks tells how to run these tests")
                out = tmp_path_factory.mktemp(name)
                EXPORTERS[name].export(out)
                made[name] = out
        return made[name]

    return folder
