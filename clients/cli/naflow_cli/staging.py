"""Results appear in the user's folder complete, or not at all."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import naflow_core as nf
from naflow_cli.interruption import check_interrupted

MARK = "manifest.json"
OURS = re.compile(
    r"flows\.npz|point\.npz|manifest\.json|report\.html|flow(-\d{3,})?\.gif|point(-\d{3,})?\.png|overlays/(\d{3,}-[^/]*/)?\d{3,}-[^/]*\.png"
)


@contextmanager
def staged(folder: Path, reads: Iterable[Path] = ()) -> Iterator[Path]:
    """A hidden folder to write results into; they move to `folder` when the block ends well, else vanish.

    Results of an earlier run in `folder` are replaced, files of other names are left alone. If the move fails
    half way, what was there before is put back.

    Args:
        reads: files that the results are made from, which must not be replaced by them.

    Raises:
        OptionError: `folder` cannot be written to, or one of `reads` has the place of a result there. Found
            out at once, before the block runs.
    """
    _spare(folder, reads)
    missing = _missing_parents(folder)
    scratch = _scratch_path(folder)  # named before it is made: an interruption in between leaves nothing
    try:
        try:
            _make_scratch(folder, scratch)
        except OSError as error:
            raise nf.OptionError(
                f"--out {folder}: cannot be written: {error.strerror or error}",
                hint="name a folder that you may write to",
            ) from error
        results = scratch / "results"
        results.mkdir()
        yield results
        check_interrupted()
        try:
            _publish(results, folder, scratch / "earlier")
        except OSError as error:
            raise nf.OptionError(
                f"--out {folder}: {error.filename or 'a file'} cannot be replaced: {error.strerror or error}",
                hint="name another folder",
            ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for parent in missing:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _spare(folder: Path, reads: Iterable[Path]) -> None:
    for path in reads:
        try:
            name = path.resolve().relative_to(folder.resolve()).as_posix()
        except (OSError, RuntimeError, ValueError):  # elsewhere, or cannot be found: reading it will say so
            continue
        if OURS.fullmatch(name) and path.exists():
            raise nf.OptionError(
                f"--out {folder}: {path} is read and would be replaced by the results",
                hint="name another folder",
            )


def _missing_parents(folder: Path) -> list[Path]:
    """Folders above `folder` that do not exist yet, deepest first."""
    try:
        return [parent for parent in folder.parents if not parent.exists()]
    except OSError:  # may not be looked at: making the scratch folder will say so
        return []


def _scratch_path(folder: Path) -> Path:
    """Inside an existing folder, else beside the one to come: on the same file system either way."""
    own = f"{secrets.token_hex(6)}.part"
    return folder / f".naflow-{own}" if folder.is_dir() else folder.parent / f".{folder.name}-{own}"


def _make_scratch(folder: Path, scratch: Path) -> None:
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise NotADirectoryError(20, "it exists and is not a folder")
    scratch.parent.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(mode=0o700)


def _publish(results: Path, folder: Path, earlier: Path) -> None:
    if not folder.exists():
        results.rename(folder)
        return
    new = _files(results)
    again = (folder / MARK).exists()  # otherwise files of such names are not from an earlier run
    old = [name for name in _files(folder) if name in new or (again and OURS.fullmatch(name))]
    new.sort(key=lambda name: name == MARK)  # the manifest last: where it is, everything is
    moved: list[tuple[Path, Path]] = []
    try:
        for names, source, destination in ((old, folder, earlier), (new, results, folder)):
            for name in names:
                target = destination / name
                target.parent.mkdir(parents=True, exist_ok=True)
                (source / name).rename(target)
                moved.append((source / name, target))
    except BaseException:
        for before, after in reversed(moved):
            after.rename(before)
        raise
    finally:
        _drop_empty_folders(folder / "overlays")


def _files(folder: Path) -> list[str]:
    """Names of the files in a result folder, relative to it; of the folders in it only `overlays` counts."""
    top = [path for path in folder.iterdir() if not path.is_dir()]
    below = [path for path in folder.glob("overlays/**/*") if not path.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for path in (*top, *below))


def _drop_empty_folders(folder: Path) -> None:
    if folder.is_dir():
        for path in [*folder.iterdir(), folder]:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
