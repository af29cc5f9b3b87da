"""`naflow bank create`: pictures to a reference bank."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import naflow_core as nf
from naflow_cli.compilation import use_compilation_cache
from naflow_cli.console import ERR, line, note, print_json, progress
from naflow_cli.inputs import ARRAY_SUFFIXES, read_inputs
from naflow_client.pictures import thumbnail

SUFFIXES = ARRAY_SUFFIXES | {
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif"
}  # fmt: skip
THUMBNAIL = 64


def create_bank(
    model: Path,
    pictures: Sequence[Path],
    out: Path,
    labels: Path | None,
    preprocess: str | None,
    output: str | None,
    batch_size: int,
    *,
    quiet: bool,
    json: bool,
) -> None:
    """Write the bank. What was at `out` before is replaced at the end, or stays.

    Raises:
        NaflowError, ClientError: model, pictures, labels or options are wrong.
    """
    if batch_size < 1:
        raise nf.OptionError(f"--batch-size {batch_size} must be at least 1")
    if out.is_dir():
        raise nf.OptionError(f"--out {out}: is a folder", hint="name a file, such as bank.npz")
    for path in (model, *pictures, *([labels] if labels else [])):
        if _same(path, out):
            raise nf.OptionError(f"--out {out}: is read and would be replaced", hint="name another file")
    # an earlier bank beside the pictures is none of them
    paths = [path for path in found_pictures(pictures) if not _same(path, out)]
    if not paths:
        raise nf.InputError(f"{pictures[0]}: no pictures in this folder", hint="name another folder")
    given = read_labels(labels, paths)
    use_compilation_cache()
    loaded = nf.load(model)
    rows: list[np.ndarray] = []
    names: list[str] = []
    own: list[str] = []
    small: list[NDArray[np.uint8]] = []
    settings: dict[str, Any] = {}
    said = ""
    with progress(quiet=quiet or json) as bars:
        task = bars.add_task("embedding", total=len(paths))
        for part, labelled in _groups(paths, given, batch_size):
            batch = read_inputs(loaded, part, preprocess)
            said, settings = batch.note or said, batch.preprocessing or settings
            rows.append(loaded.embed(batch.arrays, output=output, batch_size=batch_size))
            if rows[-1].shape[1:] != rows[0].shape[1:]:
                raise nf.InputError(
                    f"{part[0]}: gives an embedding of shape {list(rows[-1].shape[1:])}, those before "
                    f"{list(rows[0].shape[1:])}",
                    hint="fix the size in --preprocess",
                )
            names += [file.name for file in batch.files]
            small += [thumbnail(file.display, THUMBNAIL) for file in batch.files]
            own += labelled if len(labelled) == len(batch.files) else labelled * len(batch.files)
            bars.advance(task, len(part))
    bank = nf.Bank(
        embeddings=np.concatenate(rows),
        labels=own,
        model_sha256=loaded.sha256,
        output=output or (loaded.outputs[0].name if len(loaded.outputs) == 1 else ""),
        names=names,
        preprocess=settings,
        thumbnails=_stacked(small),
        source=out.name,
    )
    _write(bank, out)
    if said:
        note(f"naflow: {said}", quiet=quiet)
    facts: dict[str, Any] = {
        "bank": str(out),
        "embeddings": len(bank),
        "shape": list(bank.embeddings.shape[1:]),
        "labels": {label: own.count(label) for label in dict.fromkeys(own)},
        "model": {"file": loaded.loaded.source.name, "sha256": loaded.sha256},
        "output": bank.output,
        "preprocess": settings,
    }
    if json:
        print_json(facts)
    elif not quiet:
        line(ERR, f"{out}: {len(bank)} embeddings {facts['shape']}, {len(facts['labels'])} labels")


def found_pictures(given: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the sorted pictures in and below them.

    Raises:
        InputError: a folder has none.
    """
    found: list[Path] = []
    for path in given:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise nf.InputError(f"{path}: no pictures in this folder", hint="name another folder")
        found += inside
    return found


def read_labels(path: Path | None, pictures: Sequence[Path]) -> list[str]:
    """A label for each file: by line, by file name, or the name of its folder.

    Raises:
        TargetError: the file cannot be read, or a picture has no label.
    """
    if path is None:
        return [picture.absolute().parent.name for picture in pictures]
    lines = list(nf.Labels.read(path).names)
    pairs = [[part.strip() for part in text.rsplit(",", 1)] for text in lines]
    names = {picture.name for picture in pictures} | {str(picture) for picture in pictures}
    if all(len(pair) == 2 for pair in pairs) and any(pair[0] in names for pair in pairs):
        table = {pair[0]: pair[1] for pair in pairs}
        found = [table.get(str(picture), table.get(picture.name, "")) for picture in pictures]
        if "" in found:
            raise nf.TargetError(
                f"label file {path.name!r} has no label for {pictures[found.index('')].name!r}",
                hint="add a line NAME,LABEL",
            )
        return found
    if len(lines) != len(pictures):
        raise nf.TargetError(
            f"label file {path.name!r} has {len(lines)} lines, there are {len(pictures)} pictures",
            hint="one label per picture, or lines NAME,LABEL",
        )
    if "" in lines:
        raise nf.TargetError(f"label file {path.name!r}: line {lines.index('') + 1} is empty")
    return lines


def _groups(
    paths: Sequence[Path], labels: Sequence[str], size: int
) -> Iterator[tuple[list[Path], list[str]]]:
    """Files that are embedded together, with their labels.

    An array file, which may hold several pictures, comes alone; its label is that of all of them.
    """
    part: list[Path] = []
    own: list[str] = []
    for path, label in zip(paths, labels, strict=True):
        alone = path.suffix.lower() in ARRAY_SUFFIXES
        if part and (alone or len(part) == size):
            yield part, own
            part, own = [], []
        if alone:
            yield [path], [label]
        else:
            part, own = [*part, path], [*own, label]
    if part:
        yield part, own


def _stacked(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """All at one size, centred on black."""
    height, width = (max(p.shape[axis] for p in pictures) for axis in (0, 1))
    found = np.zeros((len(pictures), height, width, 3), np.uint8)
    for frame, picture in zip(found, pictures, strict=True):
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return found


def _same(path: Path, out: Path) -> bool:
    return path.exists() and out.exists() and path.samefile(out)


def _write(bank: nf.Bank, out: Path) -> None:
    scratch = out.with_name(f".{out.name}-{secrets.token_hex(6)}.part")
    try:
        bank.save(scratch)
        scratch.replace(out)
    except OSError as error:
        raise nf.OptionError(
            f"--out {out}: cannot be written: {error.strerror or error}", hint="name another file"
        ) from error
    finally:
        scratch.unlink(missing_ok=True)
