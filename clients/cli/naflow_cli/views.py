"""Pictures for an evaluation: tensors, the truth in the part that the model sees, and displays."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import naflow_core as nf
from naflow_cli.inputs import ARRAY_SUFFIXES, read_inputs, recipe_for
from naflow_cli.truth import Box, Truth
from naflow_client import Preprocessing, load_picture
from naflow_client.preprocess import Prepared
from naflow_core.evaluate import Picture
from naflow_core.evaluate.metrics.stability import JPEG, TWIN
from naflow_core.model.graph import TensorSpec

QUALITY = 75


@dataclass(frozen=True, slots=True)
class Taker:
    """An input that takes pictures, and how they are made ready for it."""

    recipe: Preprocessing
    spec: TensorSpec

    def prepare(self, image: Image.Image) -> Prepared:
        """One picture, made ready.

        Raises:
            InputError, PictureError: picture and input do not fit.
        """
        if self.spec.shape is None:
            raise nf.InputError(
                f"input {self.spec.name!r} declares no shape", hint="give the pictures as .npy"
            )
        dtype = np.uint8 if self.spec.dtype == "uint8" else np.float32
        return self.recipe.apply(image, self.spec.shape, dtype)


@dataclass(frozen=True, slots=True)
class Views:
    """All pictures together.

    Attributes:
        pictures: for the evaluation, without their classes.
        displays: uint8 RGB [h, w, 3] by name, what to draw maps over.
        truth: what is known, by name.
        preprocessing: settings that were used, None if every input was an array.
        notes: what was assumed or left out.
    """

    pictures: tuple[Picture, ...]
    displays: Mapping[str, NDArray[np.uint8]]
    truth: Mapping[str, Truth]
    preprocessing: dict[str, Any] | None
    notes: tuple[str, ...]


def read_views(
    model: nf.Model,
    paths: Sequence[Path],
    truth: Mapping[str, Truth],
    preprocess: str | None,
    *,
    stability: bool,
    twin: nf.Model | None = None,
    twin_preprocess: str | None = None,
) -> Views:
    """Read everything.

    Args:
        truth: by file name; may be empty.
        stability: also read every picture file as it looks after JPEG of quality 75.
        twin: also read them as this model takes them.
        twin_preprocess: how; when None as for `model`, but pixels as they are where the twin takes integers.

    Raises:
        NaflowError, ClientError: names the file, and what does not fit.
    """
    _check_model(model)
    files = [path for path in paths if path.suffix.lower() not in ARRAY_SUFFIXES]
    recipe, note = recipe_for(model, preprocess) if files else (None, "")
    takers: dict[str, Taker] = {}
    if stability and recipe is not None:
        takers[JPEG] = Taker(recipe, model.inputs[0])
        if twin is not None:
            takers[TWIN] = _twin_taker(recipe, twin, twin_preprocess)
    notes = [note] if note else []
    pictures: list[Picture] = []
    displays: dict[str, NDArray[np.uint8]] = {}
    found: dict[str, Truth] = {}
    for path in paths:
        known = truth.get(path.name, Truth())
        if path.suffix.lower() in ARRAY_SUFFIXES:
            batch = read_inputs(model, [path], None)
            name = model.inputs[0].name
            height, width = _size(model, batch.arrays[name].shape)
            boxes = tuple(_share(box, (0, 0, width, height)) for box in known.boxes)
            for i, file in enumerate(batch.files):
                pictures.append(Picture(file.name, batch.arrays[name][i : i + 1], boxes=boxes))
                found[file.name] = known
                displays[file.name] = file.display
            continue
        assert recipe is not None
        picture, display = _read(model, path, recipe, known, takers)
        found[picture.name] = known
        if len(picture.boxes) < len(known.boxes):
            notes.append(f"{path.name}: a box lies outside the part that the model sees and is left out")
        pictures.append(picture)
        displays[picture.name] = display
    if truth and not any(path.name in truth for path in paths):
        raise nf.InputError(
            f"--boxes names none of the pictures, {paths[0].name!r} for one", hint="use their file names"
        )
    return Views(tuple(pictures), displays, found, recipe.to_dict() if recipe else None, tuple(notes))


def _check_model(model: nf.Model) -> None:
    if len(model.inputs) != 1:
        names = ", ".join(spec.name for spec in model.inputs)
        raise nf.InputError(f"the model has several inputs ({names})", hint="evaluate takes models with one")
    spec = model.inputs[0]
    if spec.dtype != "float":
        raise nf.InputError(
            f"input {spec.name!r} takes {spec.dtype}, evaluate changes pictures little by little",
            hint="export the model with float32 input",
        )


def _twin_taker(recipe: Preprocessing, twin: nf.Model, preprocess: str | None) -> Taker:
    if len(twin.inputs) != 1:
        raise nf.InputError(f"the twin has {len(twin.inputs)} inputs", hint="it must take pictures alone")
    spec = twin.inputs[0]
    if preprocess is not None:
        return Taker(Preprocessing.load(preprocess), spec)
    if spec.dtype == "uint8":
        return Taker(replace(recipe, subtract=0.0, divide=1.0, dtype=None, layout=None), spec)
    return Taker(replace(recipe, layout=None), spec)


def _read(
    model: nf.Model,
    path: Path,
    recipe: Preprocessing,
    known: Truth,
    takers: Mapping[str, Taker],
) -> tuple[Picture, NDArray[np.uint8]]:
    image = load_picture(path)
    prepared = Taker(recipe, model.inputs[0]).prepare(image)
    boxes = tuple(
        share
        for box in known.boxes
        if (share := _share(box, prepared.box))[0] < share[2] and share[1] < share[3]
    )
    variants = {
        name: taker.prepare(_recompressed(image) if name == JPEG else image).array
        for name, taker in takers.items()
    }
    return Picture(path.name, prepared.array, boxes=boxes, variants=variants), prepared.display


def _recompressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    found = Image.open(stream, formats=["JPEG"]).convert("RGB")
    found.info["source"] = image.info.get("source", "picture")
    return found


def _share(box: Box, view: Sequence[float]) -> Box:
    """A box in pixels as shares of the part that the model sees, cut off at its border."""
    left, top, right, bottom = view
    x = [min(max((value - left) / (right - left), 0.0), 1.0) for value in box[::2]]
    y = [min(max((value - top) / (bottom - top), 0.0), 1.0) for value in box[1::2]]
    return x[0], y[0], x[1], y[1]


def _size(model: nf.Model, shape: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of an array: channels are the axis of at most four."""
    if len(shape) != 4:
        raise nf.InputError(
            f"input {model.inputs[0].name!r} takes {list(shape)}, evaluation needs pictures with 4 axes"
        )
    return (shape[2], shape[3]) if shape[1] <= 4 else (shape[1], shape[2])
