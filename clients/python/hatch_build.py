"""Puts the generated stubs of the wire, package `naflow.v1`, into what is built.

They live beside the .proto files of the repository; a source distribution carries them next to this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StubsHook(BuildHookInterface):
    """Finds the stubs where this build runs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version
        root = Path(self.root)
        places = (root / "naflow", root.parents[1] / "proto" / "gen" / "python" / "naflow")
        found = next((place for place in places if (place / "v1").is_dir()), None)
        if found is None:
            raise FileNotFoundError("the stubs of naflow.v1 are missing: run python proto/generate.py")
        build_data["force_include"][str(found)] = "naflow"
