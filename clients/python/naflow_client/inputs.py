"""From what a caller has (arrays, picture files, pictures) to the tensors of a request."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from naflow_client.errors import PictureError, PreprocessingError, RequestError
from naflow_client.models import ModelReport
from naflow_client.pictures import array_picture, load_picture
from naflow_client.preprocess import Prepared, Preprocessing

Picture = str | os.PathLike[str] | Image.Image
Input = NDArray[Any] | Mapping[str, NDArray[Any]] | Picture | Sequence[Picture]
Recipe = str | os.PathLike[str] | Mapping[str, Any] | Preprocessing | None

_DTYPES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """What is known here of the references that pictures are compared with.

    Attributes:
        names: by their number; empty where the server names them (ways, labels of a bank).
        pictures: small ones by their number, uint8 RGB [h, w, 3], as far as there are any.
        paired: reference i belongs to picture i alone.
    """

    names: tuple[str, ...] = ()
    pictures: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)
    paired: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What is sent, and what the maps are drawn over later.

    Attributes:
        arrays: [N, ...] by input name; "" stands for the only input of a model.
        pictures: one per picture where pictures were given, else empty.
        names: of the pictures' files; "" where there is none.
        compared: what they are compared with; None where a class is explained.
        explained: the input that the maps lead to; the first when None.
    """

    arrays: Mapping[str, NDArray[Any]]
    pictures: tuple[Prepared, ...] = ()
    names: tuple[str, ...] = ()
    compared: Compared | None = None
    explained: str | None = None

    def compared_with(self, references: Compared) -> Inputs:
        """The same, for a similarity."""
        return replace(self, compared=references)

    def name(self, position: int) -> str:
        """A name for the picture at `position` of the batch."""
        given = self.names[position] if position < len(self.names) else ""
        return given or f"picture {position}"

    def display(self, position: int) -> NDArray[np.uint8]:
        """uint8 RGB [H, W, 3]: the picture, or its tensor made visible."""
        if self.pictures:
            return self.pictures[position].display
        first = next(iter(self.arrays.values()))
        return array_picture(self.arrays.get(self.explained or "", first)[position])


def holds_pictures(x: Input) -> bool:
    """Whether the model has to be asked what it takes before `x` can be sent."""
    return not isinstance(x, np.ndarray | Mapping)


def from_arrays(x: Input, explained: str | None = None) -> Inputs:
    """Tensors that are ready as they are; the maps lead to the one named `explained`, or to the first.

    Raises:
        RequestError: no tensors, or of different numbers of pictures.
    """
    arrays = {"": x} if isinstance(x, np.ndarray) else x
    if not isinstance(arrays, Mapping) or not all(isinstance(a, np.ndarray) for a in arrays.values()):
        raise RequestError("the input is no array", "give an array, a mapping of arrays, or pictures")
    counts = {len(a) if a.ndim else 0 for a in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise RequestError(
            "every input needs the same number of pictures on its first axis, at least one", field="inputs"
        )
    return Inputs(dict(arrays), explained=explained)


def from_pictures(x: Input, preprocess: Recipe, report: ModelReport) -> Inputs:
    """Pictures, made into what the model takes.

    Raises:
        PictureError, PreprocessingError: a picture or the recipe does not fit.
    """
    given = x if isinstance(x, Sequence) and not isinstance(x, str) else [x]
    if not given or not all(isinstance(item, str | os.PathLike | Image.Image) for item in given):
        raise RequestError("the input is neither pictures nor arrays", "give file names, or one array")
    if preprocess is None:
        raise PreprocessingError(
            "a picture is given without preprocessing", 'say preprocess="imagenet", "unit", "raw" or a file'
        )
    if len(report.inputs) != 1 or report.inputs[0].shape is None:
        raise PictureError(
            f"model {report.model!r} does not declare a single input with a shape", "give arrays instead"
        )
    declared, recipe = report.inputs[0], Preprocessing.load(preprocess)
    shape = declared.shape
    assert shape is not None
    dtype = _DTYPES.get(declared.dtype, declared.dtype)
    loaded = [item if isinstance(item, Image.Image) else load_picture(item) for item in given]  # type: ignore[arg-type]
    prepared = [recipe.apply(picture, shape, dtype) for picture in loaded]
    names = [Path(str(picture.info.get("source", ""))).name for picture in loaded]
    sizes = {item.array.shape for item in prepared}
    if len(sizes) > 1:
        raise PictureError("the pictures come out in different sizes", 'fix "size" in the preprocessing')
    return Inputs(
        {declared.name: np.concatenate([item.array for item in prepared])}, tuple(prepared), tuple(names)
    )
