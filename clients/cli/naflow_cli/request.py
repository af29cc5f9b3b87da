"""What is asked of `naflow explain`: from the command line, from a manifest, into a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import naflow_core as nf
from naflow_cli.comparison import Comparison, recorded_digest, recorded_path
from naflow_cli.inputs import digest

KINDS: dict[str, Any] = {
    "target": str,
    "layers": str,
    "output": str | None,
    "top_feature_map": str | None,
    "explained_input": str | None,
    "preset": str,
    "preprocess": dict | None,
    "batch_size": int,
}
GROUPS = ("blocks", "spine", "nodes")


@dataclass(frozen=True, slots=True)
class Server:
    """A server as a manifest names it, and the version of the model there."""

    address: str
    model_version: str


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that determines the maps.

    Attributes:
        layers: "blocks", "spine", "nodes", or tensor names separated by commas.
        digests: expected SHA-256 by path, when the request comes from a manifest.
        server: that the manifest's maps came from.
        comparison: what the pictures are compared with; None where a class is explained.
    """

    model: Path
    inputs: tuple[Path, ...]
    out: Path
    target: str
    layers: str
    output: str | None
    top_feature_map: str | None
    explained_input: str | None
    method: nf.Method
    preset: str
    preprocess: str | dict[str, Any] | None
    labels: Path | None
    batch_size: int
    digests: Mapping[str, str]
    server: Server | None = None
    comparison: Comparison | None = None

    @classmethod
    def from_options(
        cls,
        *,
        model: Path | None,
        inputs: Sequence[Path],
        preset: str,
        quality: str | None,
        changes: dict[str, Any],
        **options: Any,
    ) -> Request:
        """From the command line.

        Raises:
            OptionError: something is missing or impossible.
        """
        if model is None or not inputs:
            raise nf.OptionError("MODEL.onnx and at least one INPUT are needed", hint="or --manifest FILE")
        if options["batch_size"] < 1:
            raise nf.OptionError(f"--batch-size {options['batch_size']} must be at least 1")
        if not all(name.strip() for name in options["layers"].split(",")):
            raise nf.OptionError(
                f"--layers {options['layers']!r} has an empty name",
                hint="use blocks, spine, nodes, or tensor names separated by commas",
            )
        if changes["abandon"] is not None:
            changes = {**changes, "abandon": nf.Abandonment.parse(changes["abandon"])}
        method = nf.Method.preset(preset, quality=quality, **changes)
        if options["comparison"] is not None and options["labels"] is not None:
            raise nf.OptionError(
                "--labels names classes, which a similarity has none of", hint="leave it out"
            )
        return cls(model=model, inputs=tuple(inputs), method=method, preset=preset, digests={}, **options)

    @classmethod
    def from_manifest(cls, path: Path, model: Path | None, inputs: Sequence[Path], out: Path) -> Request:
        """What a manifest says, with the files in other places where `model` and `inputs` say so.

        Raises:
            OptionError: it cannot be read, is not a manifest of ours, or names another number of inputs.
        """
        try:
            # older manifests know nothing of an explained input
            run = {"explained_input": None, **json.loads(path.read_text(encoding="utf-8"))["run"]}
            recorded = run["inputs"]
            if not recorded:
                raise ValueError("no inputs")
            paths = tuple(inputs) or tuple(recorded_path(entry) for entry in recorded)
            if len(paths) != len(recorded):
                raise nf.OptionError(f"it was made from {len(recorded)} inputs, {len(paths)} are given")
            model = model or recorded_path(run["model"])
            labels = recorded_path(run["labels"]) if run["labels"] else None
            for key, kind in KINDS.items():
                if not isinstance(run[key], kind):
                    raise TypeError(f"{key} is {run[key]!r}")
            if run["batch_size"] < 1:
                raise ValueError(f"batch_size is {run['batch_size']}")
            digests = {
                str(given): recorded_digest(entry) for given, entry in zip(paths, recorded, strict=True)
            }
            if labels:
                digests[str(labels)] = recorded_digest(run["labels"])
            comparison = Comparison.from_dict(run.get("similarity"))
            if comparison is not None:
                compared = run["similarity"]
                for entry in (*compared["references"], *([compared["bank"]] if compared["bank"] else [])):
                    digests[str(Path(entry["path"]))] = recorded_digest(entry)
            return cls(
                model=model,
                inputs=paths,
                out=out,
                target=run["target"],
                layers=run["layers"],
                output=run["output"],
                top_feature_map=run["top_feature_map"],
                explained_input=run["explained_input"],
                method=nf.Method.from_dict(run["method"]),
                preset=run["preset"],
                preprocess=run["preprocess"],
                labels=labels,
                batch_size=run["batch_size"],
                digests={str(model): recorded_digest(run["model"]), **digests},
                server=_server(run.get("server")),
                comparison=comparison,
            )
        except OSError as error:
            raise nf.OptionError(f"manifest {path}: cannot be read: {error.strerror or error}") from error
        except nf.NaflowError as error:
            raise nf.OptionError(f"manifest {path}: {error.message}", hint=error.hint) from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise nf.OptionError(
                f"manifest {path} is not one that `naflow explain` wrote: {type(error).__name__}: {error}",
                hint="name a manifest.json from the --out folder of an earlier run",
            ) from error

    def check_inputs(self) -> None:
        """Refuse inputs that are not those of the manifest.

        Raises:
            OptionError: the SHA-256 of one differs.
        """
        for path in self.inputs:
            if path.is_file():
                self.check_digest(path, digest(path))

    def check_digest(self, path: Path, sha256: str) -> None:
        """Refuse a file that is not the one the manifest was made with.

        Raises:
            OptionError: its SHA-256 differs.
        """
        expected = self.digests.get(str(path), sha256)
        if expected != sha256:
            raise nf.OptionError(
                f"{path}: not the file that the manifest names: its SHA-256 begins with {sha256[:8]}, "
                f"the manifest's with {expected[:8]}",
                hint="give the original file, or run without --manifest",
            )

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read; `model` may be a name on a server."""
        labels = () if self.labels is None else (self.labels,)
        compared = self.comparison.files if self.comparison else ()
        return (self.model, *self.inputs, *labels, *compared)

    @property
    def explained(self) -> tuple[Path, ...]:
        """The files whose maps are wanted."""
        return self.comparison.explained(self.inputs) if self.comparison else self.inputs

    def wanted_layers(self) -> str | list[str]:
        """`layers` as `Model.explain` takes it."""
        return self.layers if self.layers in GROUPS else [name.strip() for name in self.layers.split(",")]

    def to_dict(self, model_sha256: str, preprocessing: dict[str, Any] | None) -> dict[str, Any]:
        """What a manifest needs to make the same maps again."""
        return {
            "model": {"path": str(self.model), "sha256": model_sha256},
            "inputs": [_entry(path) for path in self.inputs],
            "target": self.target,
            "layers": self.layers,
            "output": self.output,
            "top_feature_map": self.top_feature_map,
            "explained_input": self.explained_input,
            "preset": self.preset,
            "method": self.method.to_dict(),
            "preprocess": preprocessing,
            "labels": _entry(self.labels) if self.labels else None,
            "batch_size": self.batch_size,
            "similarity": self.comparison.to_dict() if self.comparison else None,
        }


def _server(entry: Any) -> Server | None:
    if entry is None:
        return None
    if not isinstance(entry["address"], str) or not isinstance(entry["model_version"], str):
        raise TypeError(f"server is {entry!r}")
    return Server(entry["address"], entry["model_version"])


def _entry(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": digest(path)}
