"""What pictures are compared with: options, files, and the target that is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import naflow_core as nf
from naflow_cli.inputs import ARRAY_SUFFIXES, digest, load_array, read_inputs
from naflow_client import Preprocessing
from naflow_client.pictures import thumbnail
from naflow_client.report import Compared

CHOICES = ("metric", "normalise", "coefficients", "neighbours")
NEIGHBOURS = 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """The options of a similarity; either `references` or `bank` is given.

    Attributes:
        references: pictures, or .npy/.npz files of pictures or embeddings.
        bank: a reference bank.
        neighbours: how many of the bank vote.
    """

    references: tuple[Path, ...]
    bank: Path | None
    metric: str = "cosine"
    normalise: str = "minmax"
    coefficients: str = "gradient"
    neighbours: int = NEIGHBOURS

    @classmethod
    def from_options(
        cls, references: Sequence[Path], bank: Path | None, choices: Mapping[str, Any]
    ) -> Comparison | None:
        """From the command line; None where a class is explained.

        Raises:
            OptionError: options that exclude or miss each other.
        """
        given = {name: value for name, value in choices.items() if value is not None}
        if not references and bank is None:
            if given:
                raise nf.OptionError(
                    f"--{next(iter(given))} has no effect on class scores", hint="give --reference or --bank"
                )
            return None
        if references and bank is not None:
            raise nf.OptionError("--reference and --bank exclude each other", hint="leave one out")
        if references and "neighbours" in given:
            raise nf.OptionError("--neighbours has no effect with --reference", hint="leave it out")
        return cls(tuple(references), bank, **given)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Comparison | None:
        """From a manifest's "run"; None where a class is explained."""
        if values is None:
            return None
        bank = values["bank"]
        choices = {name: values[name] for name in CHOICES}
        for name, value in choices.items():
            if not isinstance(value, int if name == "neighbours" else str):
                raise TypeError(f"{name} is {value!r}")
        paths = tuple(Path(entry["path"]) for entry in values["references"])
        return cls(paths, Path(bank["path"]) if bank else None, **choices)

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read."""
        return (*self.references, *([self.bank] if self.bank else []))

    def facts(self) -> dict[str, Any]:
        """What changes the maps, for reports."""
        names = CHOICES if self.bank else CHOICES[:-1]
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "references": [_entry(path) for path in self.references],
            "bank": _entry(self.bank) if self.bank else None,
            **{name: getattr(self, name) for name in CHOICES},
        }


@dataclass(frozen=True, slots=True)
class Comparands:
    """What the pictures are compared with, read and ready.

    Attributes:
        target: for `Model.explain`.
        names: of the references; of the bank's pictures.
        pictures: small ones by number, as far as there are any.
    """

    target: nf.SimilarityTarget | nf.BankTarget
    names: tuple[str, ...]
    pictures: Mapping[int, NDArray[np.uint8]]

    def shown(self, neighbours: Sequence[nf.Neighbour]) -> list[Compared]:
        """The neighbours of one picture for the report."""
        return [
            Compared(n.label, n.name, n.similarity, n.used, self.pictures.get(n.index)) for n in neighbours
        ]


def bank_settings(bank: nf.Bank, given: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """How pictures become tensors: as those of the bank did.

    Raises:
        OptionError: `given` says otherwise.
    """
    if not bank.preprocess:
        return given
    own = dict(bank.preprocess)
    if given is not None and Preprocessing.load(given).to_dict() != own:
        raise nf.OptionError(
            f"--preprocess differs from how bank {bank.source!r} was made",
            hint="leave it out, the bank knows; or make the bank again",
        )
    return own


def with_bank(bank: nf.Bank, options: Comparison, label: str | None) -> Comparands:
    """The comparison with a bank; `label` is the one to explain, the voted one when None."""
    target = nf.BankTarget(
        bank, options.neighbours, label, options.metric, options.normalise, options.coefficients
    )
    pictures: dict[int, NDArray[np.uint8]] = {}
    if bank.thumbnails is not None:
        pictures = dict(enumerate(bank.thumbnails))
    return Comparands(target, tuple(bank.names), pictures)


def with_references(
    model: nf.Model,
    options: Comparison,
    preprocess: str | dict[str, Any] | None,
    output: str | None,
    size: int,
) -> Comparands:
    """The comparison with reference files.

    Raises:
        InputError, TargetError, PictureError: the file, and what does not fit.
    """
    rows: list[np.ndarray] = []
    names: list[str] = []
    pictures: dict[int, NDArray[np.uint8]] = {}
    for path in options.references:
        embeddings, displays = _embedded(model, path, preprocess, output, size)
        rows.append(embeddings)
        for i, display in enumerate(displays):
            if display is not None:
                pictures[len(names)] = thumbnail(display)
            names.append(path.name if len(displays) == 1 else f"{path.name}[{i}]")
    if len({part.shape[1:] for part in rows}) > 1:
        raise nf.TargetError("the references have embeddings of different shapes", hint="give one size")
    target = nf.SimilarityTarget(
        np.concatenate(rows), options.metric, options.normalise, options.coefficients, names=names
    )
    return Comparands(target, tuple(names), pictures)


def _embedded(
    model: nf.Model, path: Path, preprocess: str | dict[str, Any] | None, output: str | None, size: int
) -> tuple[np.ndarray, list[NDArray[np.uint8] | None]]:
    """Embeddings of one file, and what its pictures look like."""
    if path.suffix.lower() in ARRAY_SUFFIXES:
        content = load_array(path)
        if isinstance(content, np.ndarray) and not _is_input(model, content):
            array = content[None] if content.ndim == 1 else content
            return array, [None] * len(array)
    batch = read_inputs(model, [path], preprocess)
    embeddings = model.embed(batch.arrays, output=output, batch_size=size)
    return embeddings, [file.display for file in batch.files]


def _is_input(model: nf.Model, array: np.ndarray) -> bool:
    """Whether an array is one or more pictures as the model takes them."""
    for candidate in (array, array[None]):
        try:
            model.check_inputs(candidate)
        except nf.InputError:
            continue
        return True
    return False


def _entry(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": digest(path)}
