"""Finished pictures of an evaluation on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from naflow_core.errors import InputError, OptionError

SETTINGS = "evaluation.json"
PICTURES = "pictures.jsonl"


class WorkFolder:
    """One line of JSON per finished picture, beside the settings that it was made with.

    A line is written at once and flushed to the disk. What an interruption cut off in the middle is dropped
    when the folder is opened again.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Open or make a folder.

        Args:
            settings: whatever the results depend on, as JSON values.
            resume: go on with what is there.

        Raises:
            OptionError: there are results already and `resume` is not set, or they are of other settings, or
                the folder cannot be written.
            InputError: a file in it is damaged.
        """
        self.path = path
        self.finished: dict[str, dict[str, Any]] = {}
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._open(dict(settings), resume)
        except OSError as error:
            raise OptionError(
                f"{path}: cannot be used as work folder: {error.strerror or error}",
                hint="name a folder that you may write to",
            ) from error

    def add(self, digest: str, entry: Mapping[str, Any]) -> None:
        """Write down a finished picture.

        Raises:
            OptionError: the disk refuses.
        """
        line = json.dumps({"digest": digest, **entry}, allow_nan=False, separators=(",", ":")) + "\n"
        try:
            with (self.path / PICTURES).open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OptionError(
                f"{self.path / PICTURES}: cannot be written: {error.strerror or error}",
                hint="free the disk and go on with --resume",
            ) from error
        self.finished[digest] = dict(entry)

    def _open(self, settings: dict[str, Any], resume: bool) -> None:
        known, lines = self.path / SETTINGS, self.path / PICTURES
        if known.exists():
            if not resume:
                raise OptionError(
                    f"{self.path}: holds an evaluation already", hint="add --resume, or name another folder"
                )
            self._compare(known, settings)
        elif lines.exists():
            raise InputError(f"{self.path}: {PICTURES} without {SETTINGS}", hint="name another folder")
        else:
            scratch = known.with_suffix(".part")
            scratch.write_text(json.dumps(settings, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            scratch.replace(known)
        if lines.exists():
            self._read(lines)

    def _compare(self, path: Path, settings: dict[str, Any]) -> None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}", hint="name another folder") from error
        if not isinstance(found, dict):
            raise InputError(f"{path}: not the settings of an evaluation", hint="name another folder")
        plain = json.loads(json.dumps(settings))
        wrong = [key for key in sorted({*found, *plain}) if found.get(key) != plain.get(key)]
        if wrong:
            raise OptionError(
                f"{self.path}: was made with other settings: {', '.join(wrong)} differ",
                hint="give the same ones, or name another folder",
            )

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                entry = json.loads(line)
                self.finished[entry.pop("digest")] = entry
            except (ValueError, KeyError, AttributeError) as error:
                raise InputError(
                    f"{path}: line {number} is damaged", hint="remove the line and use --resume again"
                ) from error
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
