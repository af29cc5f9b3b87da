"""What lies in the repository folder: `<name>/config.pbtxt` and `<name>/<version>/model.onnx`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from naflow_server.engine.repository import textformat
from naflow_server.engine.types import Code, EngineError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
VERSION = re.compile(r"[1-9][0-9]{0,17}")
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
CONFIG = "config.pbtxt"
LARGEST_CONFIG = 1 << 20
RUNTIMES = {"platform": "onnxruntime_onnx", "backend": "onnxruntime"}

Fingerprint = tuple[tuple[str, int, int, int], ...]


class LayoutError(Exception):
    """A model folder that cannot be used, with the reason."""


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are offered: the `count` highest, the named ones, or all."""

    kind: Literal["latest", "specific", "all"] = "latest"
    count: int = 1
    versions: tuple[str, ...] = ()

    def chosen(self, there: Sequence[str]) -> tuple[str, ...]:
        """The versions to offer out of those that are there, lowest first."""
        ordered = sorted(there, key=int)
        if self.kind == "latest":
            return tuple(ordered[-self.count :])
        return tuple(v for v in ordered if self.kind == "all" or v in self.versions)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What is read from config.pbtxt.

    Attributes:
        batch_limit: max_batch_size where it is at least 1: so many pictures at once.
        policy: version_policy.
        filename: default_model_filename.
    """

    batch_limit: int | None = None
    policy: VersionPolicy = VersionPolicy()
    filename: str = "model.onnx"


@dataclass(frozen=True, slots=True)
class VersionFolder:
    """One version on disk. `fingerprint` changes with any of its files, or with config.pbtxt."""

    version: str
    file: Path
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model on disk: the versions that its policy offers, lowest first, or the reason for there being
    none."""

    name: str
    config: ModelConfig
    versions: tuple[VersionFolder, ...]
    reason: str = ""

    @property
    def look(self) -> tuple[Fingerprint, ...]:
        """Changes with any file of an offered version."""
        return tuple(version.fingerprint for version in self.versions)


def check_name(name: str) -> str:
    """A model name that stays in the repository folder.

    Raises:
        EngineError: INVALID_ARGUMENT.
    """
    if not NAME.fullmatch(name) or ".." in name:
        shown = name if len(name) <= 64 else f"{name[:64]}..."
        raise EngineError(
            Code.INVALID_ARGUMENT,
            f"model name {shown!r} is not allowed",
            hint="letters, digits, '_', '-' and '.', at most 128, not starting with '.' or '-'",
            field="model",
            reason="name_invalid",
        )
    return name


def check_version(version: str) -> str:
    """A version as folders are named: a positive number without leading zeros.

    Raises:
        EngineError: INVALID_ARGUMENT.
    """
    if not VERSION.fullmatch(version):
        shown = version if len(version) <= 64 else f"{version[:64]}..."
        raise EngineError(
            Code.INVALID_ARGUMENT,
            f"version {shown!r} is not allowed",
            hint="a positive number",
            field="version",
            reason="version_invalid",
        )
    return version


def scan(root: Path) -> dict[str, ModelFolder]:
    """Every model of the repository by name; folders whose names are not allowed are passed over.

    Raises:
        LayoutError: the repository itself cannot be read.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError as error:
        raise LayoutError(f"model repository {str(root)!r} cannot be read: {error.strerror}") from error
    found = (scan_model(root, name) for name in names if NAME.fullmatch(name) and ".." not in name)
    return {folder.name: folder for folder in found if folder is not None}


def scan_model(root: Path, name: str) -> ModelFolder | None:
    """One model, or None where there is no such folder."""
    folder = root / check_name(name)
    if not folder.is_dir():
        return None
    config = ModelConfig()
    try:
        _check_inside(folder, root)
        _check_inside(folder / CONFIG, root)
        config = read_config(folder)
        there = {p.name: p for p in folder.iterdir() if VERSION.fullmatch(p.name) and p.is_dir()}
        chosen = config.policy.chosen(list(there))
        versions = tuple(_version(root, folder, there[v], config) for v in chosen)
    except LayoutError as error:
        return ModelFolder(name, config, (), str(error))
    except OSError as error:
        return ModelFolder(name, config, (), f"folder {name!r} cannot be read: {error.strerror}")
    if not versions:
        reason = f"folder {name!r} has none of the versions that its policy asks for" if there else ""
        return ModelFolder(name, config, (), reason or f"folder {name!r} has no version folder such as '1'")
    return ModelFolder(name, config, versions)


def _check_inside(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise LayoutError(f"{path.relative_to(root)} leads out of the repository")


def _version(root: Path, folder: Path, path: Path, config: ModelConfig) -> VersionFolder:
    file = path / config.filename
    _check_inside(path, root)
    if file.is_dir():  # a model with external data may be a folder of that name
        file = file / "model.onnx"
    _check_inside(file, root)
    return VersionFolder(path.name, file, _fingerprint([folder / CONFIG, *sorted(path.rglob("*"))], folder))


def _fingerprint(files: Sequence[Path], folder: Path) -> Fingerprint:
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError:  # gone between two looks, or a link to nowhere
            continue
        found.append((str(file.relative_to(folder)), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)


def read_config(folder: Path) -> ModelConfig:
    """config.pbtxt of a model folder; the defaults where there is none.

    Raises:
        LayoutError: it cannot be read, or contradicts the folder.
    """
    path = folder / CONFIG
    where = f"{folder.name}/{CONFIG}"
    try:
        if not path.exists():
            return ModelConfig()
        if not path.is_file():
            raise LayoutError(f"{where} is not a file")
        if path.stat().st_size > LARGEST_CONFIG:
            raise LayoutError(f"{where} is larger than {LARGEST_CONFIG >> 20} MiB")
        fields = textformat.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LayoutError(f"{where} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise LayoutError(f"{where} is not UTF-8 text") from None
    except textformat.TextFormatError as error:
        raise LayoutError(f"{where}, {error}") from None
    name = fields.get("name", [""])[-1] or folder.name
    if name != folder.name:
        raise LayoutError(f"{where} says name {_shown(name)}, the folder is {folder.name!r}")
    for field, ours in RUNTIMES.items():
        other = fields.get(field, [""])[-1]
        if other not in ("", ours):
            raise LayoutError(f"{where} says {field} {_shown(other)}, only {ours!r} is served here")
    limit = _count(given := fields.get("max_batch_size", [0])[-1], 0)
    if limit is None:
        raise LayoutError(f"{where}: max_batch_size {_shown(given)} must be a number from 0")
    filename = fields.get("default_model_filename", [""])[-1] or "model.onnx"
    if not isinstance(filename, str) or not FILE.fullmatch(filename):
        raise LayoutError(f"{where}: default_model_filename {_shown(filename)} must be a plain file name")
    return ModelConfig(limit or None, _policy(fields, where), filename)


def _count(value: textformat.Value, least: int) -> int | None:
    return value if type(value) is int and value >= least else None  # bool is an int, too


def _shown(value: textformat.Value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _policy(fields: textformat.Message, where: str) -> VersionPolicy:
    given = fields.get("version_policy", [{}])[-1]
    kinds = given if isinstance(given, dict) else {}
    kind = next(iter(kinds), "latest")
    options = kinds.get(kind, [{}])[-1]
    if not isinstance(given, dict) or not isinstance(options, dict) or len(kinds) > 1:
        raise LayoutError(f"{where}: version_policy is not understood")
    if kind == "all":
        return VersionPolicy("all")
    if kind == "specific":
        versions = options.get("versions", [])
        if versions and all(_count(v, 1) for v in versions):
            return VersionPolicy("specific", versions=tuple(str(v) for v in versions))
        raise LayoutError(f"{where}: version_policy specific needs versions")
    if kind == "latest":
        count = _count(options.get("num_versions", [1])[-1], 1)
        if count is not None:
            return VersionPolicy("latest", count)
        raise LayoutError(f"{where}: version_policy latest needs num_versions of at least 1")
    raise LayoutError(f"{where}: version_policy {kind!r} does not exist: latest, specific or all")
