"""The scripts of `benchmarks/` and of examples as modules, for tests that use them or run them small."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str, folder: Path = FOLDER) -> ModuleType:
    """A script of a folder by its name. They import each other, so it is on the path while they load."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
