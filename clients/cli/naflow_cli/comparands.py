"""What pictures are compared with, read and ready: for the core here, or for a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import naflow_core as nf
from naflow_cli.comparison import Comparison
from naflow_cli.inputs import ARRAY_SUFFIXES, Takes, load_array, read_inputs
from naflow_client import Preprocessing
from naflow_client.pictures import thumbnail
from naflow_client.report import Compared


class NeighbourLike(Protocol):
    """Something that a picture was compared with, as the core or a server tells it."""

    @property
    def index(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def similarity(self) -> float: ...
    @property
    def used(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Comparands:
    """What the pictures are compared with.

    Attributes:
        options: how.
        label: of the way or of the bank's embeddings that is explained; the predicted one when None.
        parts: of each reference file: embeddings [M, C, ...], or pictures [M, ...] by input name.
        bank: the reference bank, if it is a file.
        names: of the references, or of the bank's pictures.
        pictures: small ones by number of reference, way or row of the bank, as far as there are any.
    """

    options: Comparison
    label: str | None = None
    parts: tuple[NDArray[Any] | dict[str, NDArray[Any]], ...] = ()
    bank: nf.Bank | None = None
    names: tuple[str, ...] = ()
    pictures: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)

    def shown(self, position: int, neighbours: Iterable[NeighbourLike]) -> list[Compared]:
        """The neighbours of the picture at `position` for the report."""
        return [self._shown(position if self.options.sides else n.index, n) for n in neighbours]

    def _shown(self, number: int, found: NeighbourLike) -> Compared:
        own = self.names[number] if number < len(self.names) else ""
        numbered = not self.options.ways and not self.options.with_bank  # the name is all that it is called
        label, name = (own, "") if numbered else (found.label, own)
        return Compared(label, name, found.similarity, found.used, self.pictures.get(number))


def read_comparands(
    model: Takes,
    sha256: str,
    options: Comparison,
    inputs: Sequence[Path],
    preprocess: str | dict[str, Any] | None,
    label: str | None,
) -> Comparands:
    """Read what the pictures are compared with.

    Args:
        sha256: of the model.
        inputs: the pictures to explain; in pairs, the other side of the references.
        label: see `Comparands`.

    Raises:
        InputError, TargetError, PictureError: the file, and what does not fit.
    """
    if options.bank is not None:
        bank = nf.Bank.read(options.bank)
        bank.check_model(sha256)
        small = dict(enumerate(bank.thumbnails)) if bank.thumbnails is not None else {}
        return Comparands(options, label, bank=bank, names=tuple(bank.names), pictures=small)
    parts: list[NDArray[Any] | dict[str, NDArray[Any]]] = []
    names: list[str] = []
    pictures: dict[int, NDArray[np.uint8]] = {}
    counts = []
    for path in options.compared(inputs):
        part, displays = _read(model, path, preprocess)
        parts.append(part)
        counts.append(len(displays))
        for i, display in enumerate(displays):
            if display is not None:
                pictures[len(names)] = thumbnail(display)
            names.append(path.name if len(displays) == 1 else f"{path.name}[{i}]")
    own = sum(counts[: len(options.references)])
    if options.sides == "both" and own != len(names) - own:
        raise nf.TargetError(
            f"{own} references do not pair with {len(names) - own} pictures", hint="give one for each picture"
        )
    if options.ways:
        if len(names) != len(options.ways):
            raise nf.TargetError("a file of --supports holds several", hint="give one support in each file")
        ways = list(dict.fromkeys(options.ways))
        first = {number: pictures.get(options.ways.index(way)) for number, way in enumerate(ways)}
        pictures = {number: picture for number, picture in first.items() if picture is not None}
        names = []
    return Comparands(options, label, tuple(parts), names=tuple(names), pictures=pictures)


def bank_settings(bank: nf.Bank | None, given: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """How pictures become tensors: as those of the bank did, if there is one that knows.

    Raises:
        OptionError: `given` says otherwise.
    """
    if bank is None or not bank.preprocess:
        return given
    own = dict(bank.preprocess)
    if given is not None and Preprocessing.load(given).to_dict() != own:
        raise nf.OptionError(
            f"--preprocess differs from how bank {bank.source!r} was made",
            hint="leave it out, the bank knows; or make the bank again",
        )
    return own


def core_target(
    model: nf.Model, comparands: Comparands, output: str | None
) -> nf.SimilarityTarget | nf.PrototypeTarget | nf.BankTarget:
    """For `Model.explain`. References that are pictures are embedded one by one, as a server does it.

    Raises:
        InputError, TargetError: what does not fit.
    """
    options = comparands.options
    how = (options.metric, options.normalise, options.coefficients)
    if comparands.bank is not None:
        return nf.BankTarget(
            comparands.bank, options.neighbours, comparands.label, *how, search=options.search
        )
    rows = [
        model.embed(part, output=output, batch_size=1) if isinstance(part, dict) else part
        for part in comparands.parts
    ]
    if len({part.shape[1:] for part in rows}) > 1:
        raise nf.TargetError("the references have embeddings of different shapes", hint="give one size")
    embeddings = np.concatenate(rows)
    if options.ways:
        return nf.PrototypeTarget(embeddings, options.ways, comparands.label, *how, contrast=options.contrast)
    paired = options.sides is not None
    return nf.SimilarityTarget(embeddings, *how, names=comparands.names, paired=paired)


def _read(
    model: Takes, path: Path, preprocess: str | dict[str, Any] | None
) -> tuple[NDArray[Any] | dict[str, NDArray[Any]], list[NDArray[np.uint8] | None]]:
    """One file, and what its pictures look like."""
    if path.suffix.lower() in ARRAY_SUFFIXES:
        content = load_array(path)
        if isinstance(content, np.ndarray) and not _is_input(model, content):
            array = content[None] if content.ndim == 1 else content
            return array, [None] * len(array)
    batch = read_inputs(model, [path], preprocess)
    return batch.arrays, [file.display for file in batch.files]


def _is_input(model: Takes, array: NDArray[Any]) -> bool:
    """Whether an array is one or more pictures as the model takes them."""
    if len(model.inputs) != 1:
        return False
    for candidate in (array, array[None]):
        try:
            model.check_inputs({model.inputs[0].name: candidate})
        except nf.InputError:
            continue
        return True
    return False
