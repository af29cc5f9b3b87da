"""From files on the command line to what the model takes."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import naflow_core as nf
from naflow_client import Preprocessing, load_picture
from naflow_client.pictures import array_picture
from naflow_core.model.graph import TensorSpec

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
# What NumPy raises on damaged files.
_DAMAGE = (
    ValueError, EOFError, OverflowError, SyntaxError, NotImplementedError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class InputFile:
    """One picture on its way through: what to call it, and what to draw the maps over."""

    name: str
    display: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class InputBatch:
    """All inputs together.

    Attributes:
        arrays: by graph input, pictures on axis 0.
        files: one per picture.
        preprocessing: settings that were used, None if every input was an array.
        note: what was assumed, "" if nothing.
    """

    arrays: dict[str, np.ndarray]
    files: tuple[InputFile, ...]
    preprocessing: dict[str, Any] | None
    note: str


class Takes(Protocol):
    """What is asked of a model here; `nf.Model` is one."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    def check_inputs(self, x: Any) -> dict[str, np.ndarray]: ...


def read_inputs(
    model: Takes,
    paths: Sequence[Path],
    preprocess: str | dict[str, Any] | None,
    explained: str | None = None,
) -> InputBatch:
    """Read pictures and arrays; of a model with several inputs, `explained` names the one that is shown (the
    first when None).

    Raises:
        InputError, PictureError, PreprocessingError: the file, and what does not fit.
    """
    if not model.inputs:
        raise nf.InputError("the model takes no input", hint="there is nothing that a map could show")
    pictures = [path for path in paths if path.suffix.lower() not in ARRAY_SUFFIXES]
    recipe, assumed = recipe_for(model, preprocess) if pictures else (None, "")
    parts: list[dict[str, np.ndarray]] = []
    files: list[InputFile] = []
    spec = next((spec for spec in model.inputs if spec.name == explained), model.inputs[0])
    for path in paths:
        if path.suffix.lower() in ARRAY_SUFFIXES:
            arrays = _read_arrays(model, path)
            count = len(arrays[spec.name])
            for i in range(count):
                name = path.name if count == 1 else f"{path.name}[{i}]"
                files.append(InputFile(name, array_picture(arrays[spec.name][i])))
        else:
            assert recipe is not None
            arrays, display = _read_picture(model, path, recipe)
            files.append(InputFile(path.name, display))
        parts.append(arrays)
    joined = {}
    for spec in model.inputs:
        shapes = {part[spec.name].shape[1:] for part in parts}
        if len(shapes) > 1:
            listed = ", ".join(str(list(shape)) for shape in sorted(shapes))
            raise nf.InputError(
                f"the inputs have different sizes: {listed}",
                hint="explain them one by one, or fix size in --preprocess",
            )
        joined[spec.name] = np.concatenate([part[spec.name] for part in parts])
    return InputBatch(joined, tuple(files), recipe.to_dict() if recipe else None, assumed)


def recipe_for(model: Takes, preprocess: str | dict[str, Any] | None) -> tuple[Preprocessing, str]:
    """The preprocessing of pictures, and what was assumed about it, "" if nothing.

    Raises:
        PreprocessingError: there is none of that name, or the file is wrong.
    """
    if preprocess is not None:
        return Preprocessing.load(preprocess), ""
    name = "raw" if model.inputs and model.inputs[0].dtype == "uint8" else "imagenet"
    note = f"no --preprocess given: assuming {name!r}; a wrong choice gives wrong predictions and maps"
    return Preprocessing.named(name), note


def _read_picture(
    model: Takes, path: Path, recipe: Preprocessing
) -> tuple[dict[str, np.ndarray], NDArray[np.uint8]]:
    if len(model.inputs) != 1:
        names = ", ".join(spec.name for spec in model.inputs)
        raise nf.InputError(
            f"the model has several inputs ({names})", hint="give an .npz with one array per input"
        )
    spec = model.inputs[0]
    if spec.shape is None:
        raise nf.InputError(f"input {spec.name!r} declares no shape", hint="give the input as .npy")
    dtype = np.uint8 if spec.dtype == "uint8" else np.float32
    picture = load_picture(path)
    if min(picture.size) < 2:
        raise nf.InputError(
            f"{path}: {picture.width} x {picture.height} pixels show nothing that could be explained",
            hint="give a picture of at least 2 x 2 pixels, or the tensor itself as .npy",
        )
    prepared = recipe.apply(picture, spec.shape, dtype)
    return {spec.name: prepared.array}, prepared.display


def _read_arrays(model: Takes, path: Path) -> dict[str, np.ndarray]:
    names = [spec.name for spec in model.inputs]
    content = load_array(path)
    if isinstance(content, np.ndarray):
        arrays = {names[0]: content}
    elif set(names) <= set(content):
        arrays = {name: content[name] for name in names}
    elif len(names) == 1 and len(content) == 1:
        arrays = {names[0]: next(iter(content.values()))}
    else:
        raise nf.InputError(
            f"{path}: holds {', '.join(sorted(content)) or 'nothing'}, the model takes {', '.join(names)}"
        )
    missing = [name for name in names if name not in arrays]
    if missing:
        raise nf.InputError(
            f"{path}: no array for input {missing[0]!r}", hint="give an .npz with one array per input"
        )
    for spec in model.inputs:
        if spec.shape is not None and arrays[spec.name].ndim == len(spec.shape) - 1:
            arrays[spec.name] = arrays[spec.name][None]
    try:
        return model.check_inputs(arrays)
    except nf.InputError as error:
        raise nf.InputError(f"{path.name}: {error.message}", hint=error.hint) from error


def load_array(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The content of a .npy or .npz file.

    Raises:
        InputError: it cannot be read or is none.
    """
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            arrays = dict(content)
    except OSError as error:
        raise nf.InputError(
            f"{path}: cannot be read: {error.strerror or error}", hint="check the path"
        ) from error
    except MemoryError as error:
        raise nf.InputError(
            f"{path}: needs more memory than there is: {error}", hint="give fewer pictures in a file"
        ) from error
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise nf.InputError(f"{path}: not a NumPy file: {reason}", hint="write it with numpy.save") from error
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise nf.InputError(f"{path}: {name!r} in it is not an array", hint="write it with numpy.savez")
    return arrays


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
