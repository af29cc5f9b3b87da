"""What pictures are compared with: the options, from the command line and from a manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import naflow_core as nf
from naflow_cli.banking import found_pictures
from naflow_cli.inputs import digest
from naflow_core.pairs import Sides

CHOICES = ("metric", "normalise", "coefficients", "neighbours")
NEIGHBOURS = 20
SOURCES = ("reference", "supports", "bank", "server_bank")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The options of a similarity: with `references`, with supports (`references` that have `ways`), with
    a `bank`, or with a `server_bank`.

    Attributes:
        references: pictures, or .npy/.npz files of pictures or embeddings.
        bank: a reference bank.
        neighbours: how many of a bank vote.
        ways: few-shot: the way of each reference.
        contrast: few-shot: take off the similarity with the runner-up.
        sides: pairs of inputs and references, in order, and which of the two are explained.
        server_bank: name of a bank that the server keeps.
        point: pixel (x, y) of the inputs' tensors, to show what answers to it in the references.
        search: what finds the nearest in `bank`; not in manifests, for the answer is the same.
    """

    references: tuple[Path, ...]
    bank: Path | None
    metric: str = "cosine"
    normalise: str = "minmax"
    coefficients: str = "gradient"
    neighbours: int = NEIGHBOURS
    ways: tuple[str, ...] = ()
    contrast: bool = False
    sides: str | None = None
    server_bank: str | None = None
    point: tuple[int, int] | None = None
    search: str = "jax"

    @classmethod
    def from_options(
        cls,
        sources: Mapping[str, Any],
        choices: Mapping[str, Any],
        *,
        contrast: bool = False,
        sides: str | None = None,
        point: tuple[int, int] | None = None,
        search: str | None = None,
    ) -> Comparison | None:
        """From the command line; None where a class is explained.

        Args:
            sources: by the names in SOURCES, what to compare with; empty or None where not given.
            choices: by the names in CHOICES; None where not given.

        Raises:
            OptionError: options that exclude or miss each other.
            InputError: a folder has no pictures.
        """
        given = {name: value for name, value in choices.items() if value is not None}
        found = [name for name in SOURCES if sources[name]]
        if not found:
            idle = [*given, *(["contrast"] if contrast else []), *(["sides"] if sides else [])]
            idle += [*(["point"] if point else []), *(["search"] if search else [])]
            if idle:
                raise nf.OptionError(
                    f"--{idle[0]} has no effect on class scores", hint="give --reference or --bank"
                )
            return None
        source = found[0]
        if len(found) > 1:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in found[:2])
            raise nf.OptionError(f"{names} exclude each other", hint="leave one out")
        if "neighbours" in given and "bank" not in source:
            raise nf.OptionError(f"--neighbours has no effect with --{source}", hint="leave it out")
        if search and source != "bank":
            owner = "the server has its own" if source == "server_bank" else "give --bank"
            raise nf.OptionError("--search needs a bank in a file", hint=owner)
        if contrast and source != "supports":
            raise nf.OptionError("--contrast needs ways to choose from", hint="give --supports")
        if (sides or point) and source != "reference":
            name = "sides" if sides else "point"
            raise nf.OptionError(f"--{name} needs pairs of pictures", hint="give --reference")
        if sides is not None and sides not in get_args(Sides):
            raise nf.OptionError(f"--sides {sides!r} does not exist", hint="use query, gallery or both")
        references, ways = tuple(sources["reference"]), ()
        if source == "supports":
            if not sources["supports"].is_dir():
                raise nf.OptionError(
                    f"--supports {sources['supports']}: is not a folder", hint="with a folder for each way"
                )
            references = tuple(found_pictures([sources["supports"]]))
            ways = tuple(path.absolute().parent.name for path in references)
        return cls(
            references,
            sources["bank"],
            **given,
            ways=ways,
            contrast=contrast,
            sides=sides or ("query" if point else None),
            point=point,
            server_bank=sources["server_bank"],
            search=search or "jax",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Comparison | None:
        """From a manifest's "run"; None where a class is explained."""
        if values is None:
            return None
        bank = values["bank"]
        choices = {name: values[name] for name in CHOICES}
        # what later versions have added may be missing
        choices |= {"contrast": values.get("contrast", False), "sides": values.get("sides")}
        choices["server_bank"] = values.get("server_bank")
        kinds = {"neighbours": int, "contrast": bool, "sides": str | None, "server_bank": str | None}
        for name, value in choices.items():
            if not isinstance(value, kinds.get(name, str)):
                raise TypeError(f"{name} is {value!r}")
        paths = tuple(recorded_path(entry) for entry in values["references"])
        if not (paths or bank or choices["server_bank"]):
            raise ValueError("nothing to compare with")
        if choices["sides"] not in (None, *get_args(Sides)):
            raise ValueError(f"sides is {choices['sides']!r}")
        ways = tuple(str(way) for way in values.get("ways", ()))
        point = None
        if values.get("point"):
            x, y = map(int, values["point"])
            if min(x, y) < 0:
                raise ValueError(f"point is {values['point']!r}")
            point = (x, y)
        return cls(paths, recorded_path(bank) if bank else None, ways=ways, point=point, **choices)

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read."""
        return (*self.references, *([self.bank] if self.bank else []))

    @property
    def with_bank(self) -> bool:
        """Whether neighbours vote."""
        return self.bank is not None or self.server_bank is not None

    def explained(self, inputs: Sequence[Path]) -> tuple[Path, ...]:
        """Whose maps are wanted."""
        return {
            None: tuple(inputs),
            "query": tuple(inputs),
            "gallery": self.references,
            "both": (*inputs, *self.references),
        }[self.sides]

    def compared(self, inputs: Sequence[Path]) -> tuple[Path, ...]:
        """What those are compared with; in pairs, the other side."""
        return {
            None: self.references,
            "query": self.references,
            "gallery": tuple(inputs),
            "both": (*self.references, *inputs),
        }[self.sides]

    def facts(self) -> dict[str, Any]:
        """What changes the maps, for reports."""
        names = CHOICES if self.with_bank else CHOICES[:-1]
        found = {name: getattr(self, name) for name in names}
        if self.ways:
            found["contrast"] = self.contrast
        if self.sides is not None:
            found["sides"] = self.sides
        return found

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "references": [_entry(path) for path in self.references],
            "bank": _entry(self.bank) if self.bank else None,
            **{name: getattr(self, name) for name in CHOICES},
            "ways": list(self.ways),
            "contrast": self.contrast,
            "sides": self.sides,
            "server_bank": self.server_bank,
            "point": list(self.point) if self.point else None,
        }


def recorded_path(entry: Mapping[str, Any]) -> Path:
    """Of a file that a manifest names.

    Raises:
        ValueError: nothing can be called that.
    """
    path = Path(entry["path"])
    if b"\0" in os.fsencode(path):
        raise ValueError(f"path is {entry['path']!r}")
    return path


def recorded_digest(entry: Mapping[str, Any]) -> str:
    """Of a file that a manifest names.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(entry["sha256"], str):
        raise TypeError(f"sha256 of {entry['path']!r} is {entry['sha256']!r}")
    return entry["sha256"]


def _entry(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": digest(path)}
