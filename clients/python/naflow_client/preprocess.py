"""From a picture to the tensor that a model takes, and to the crop that a person looks at.

The geometry of every recipe is one box in the source picture that is resampled to one size, so
nothing larger than the model's input is ever made, and the picture shown with a map covers exactly
what the model saw. Resampling is Pillow's bilinear filter with half-pixel centres; it averages when
it shrinks (antialiasing) and is the same on every run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from naflow_client._geometry import Box, central_box, covering, crop_box, display, scaled
from naflow_client._settings import Channels, Crop, Layout, checked, known_keys
from naflow_client.errors import PictureError, PreprocessingError
from naflow_client.pictures import MAX_PIXELS, load_picture

__all__ = ["MAX_PIXELS", "NAMES", "Prepared", "Preprocessing", "load_picture"]

NAMES = ("imagenet", "unit", "raw")

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_DEVIATION = (58.395, 57.12, 57.375)

Dim = int | str | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One picture made ready.

    Attributes:
        array: [1, C, H, W] or [1, H, W, C], what the model takes.
        shown: uint8 RGB [H, W, 3], the pixels the model saw, before scaling of values.
        display: uint8 RGB [h, w, 3], the same part of the picture in its own proportions, longer side
            256 to 640 pixels, for people to look at.
        box: (left, top, right, bottom) of that part in pixels of the source picture.
        layout: "NCHW" or "NHWC", the order of `array`.
    """

    array: NDArray[Any]
    shown: NDArray[np.uint8]
    display: NDArray[np.uint8]
    box: Box
    layout: Layout


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """A recipe. `None` means "what the model declares"; see the package's README for the table of keys.

    Attributes:
        channels: "RGB", "BGR" or "L" (grey, ITU-R 601 weights); None takes RGB, or L for one channel.
        resize_shorter: length in pixels that the shorter side is resized to.
        resize_ratio: the same relative to the size: the picture is resized until it covers `ratio * size`.
        crop_fraction: share of the largest central window of the model's proportions that is cut out
            and resized to the size; for a square model a square of that share of the shorter side.
        crop: "center" cuts the size out of the resized picture, "none" keeps all of it.
        size: (height, width) in pixels.
        subtract: what is subtracted from pixels of 0..255, one number or one per channel, in the order
            of `channels`.
        divide: what the difference is divided by.
        dtype: name of the array's dtype.
        layout: "NCHW" or "NHWC".

    Raises:
        PreprocessingError: on an impossible value or combination, naming the setting.
    """

    channels: Channels | None = None
    resize_shorter: int | None = None
    resize_ratio: float | None = None
    crop_fraction: float | None = None
    crop: Crop = "none"
    size: tuple[int, int] | None = None
    subtract: tuple[float, ...] | float = 0.0
    divide: tuple[float, ...] | float = 1.0
    dtype: str | None = None
    layout: Layout | None = None

    def __post_init__(self) -> None:
        for key, value in checked({item.name: getattr(self, item.name) for item in fields(self)}).items():
            object.__setattr__(self, key, value)

    @classmethod
    def named(cls, name: str) -> Preprocessing:
        """One of `NAMES`.

        `imagenet`: RGB, shorter side resized to 256/224 of the size, centre crop, ImageNet mean and
        standard deviation. `unit`: whole picture resized, 0..1. `raw`: whole picture resized, 0..255.

        Raises:
            PreprocessingError: for any other name.
        """
        if name == "imagenet":
            return cls(
                channels="RGB",
                resize_ratio=256 / 224,
                crop="center",
                subtract=_IMAGENET_MEAN,
                divide=_IMAGENET_DEVIATION,
            )
        if name == "unit":
            return cls(divide=255.0)
        if name == "raw":
            return cls()
        raise PreprocessingError(
            f"preprocessing {name!r} does not exist", f"use one of {', '.join(NAMES)}, or a .json file"
        )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], *, where: str = "preprocessing") -> Preprocessing:
        """Build from the keys of a preprocessing file. `where` is named in errors.

        Raises:
            PreprocessingError: on an unknown key (with the known ones) or an impossible value.
        """
        try:
            return cls(**known_keys(settings, tuple(item.name for item in fields(cls))))
        except PreprocessingError as error:
            raise PreprocessingError(f"{where}: {error.message}", error.hint) from error

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Preprocessing:
        """Read a preprocessing file: one JSON object.

        Raises:
            PreprocessingError: naming the file: missing, not JSON, not an object, or bad settings.
        """
        name = os.fspath(path)
        try:
            settings = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PreprocessingError(
                f"{name}: cannot be read: {error.strerror or error}",
                f"use one of {', '.join(NAMES)}, or the path of a .json file",
            ) from error
        except (ValueError, RecursionError) as error:
            raise PreprocessingError(f"{name}: not JSON: {error}", "see the README for the format") from error
        if not isinstance(settings, dict):
            raise PreprocessingError(
                f"{name}: holds a JSON {type(settings).__name__}, not an object",
                'write { "size": 224, ... }',
            )
        return cls.from_dict(settings, where=name)

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any] | Preprocessing) -> Preprocessing:
        """A name, a file, a dict of settings, or an existing recipe.

        Raises:
            PreprocessingError: as `named`, `from_file` and `from_dict` do.
        """
        if isinstance(source, Preprocessing):
            return source
        if isinstance(source, Mapping):
            return cls.from_dict(source)
        if isinstance(source, str) and not source.endswith(".json") and os.sep not in source:
            return cls.named(source)
        return cls.from_file(source)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; `from_dict` gives the same recipe back."""
        settings = {item.name: getattr(self, item.name) for item in fields(self)}
        return {key: list(item) if isinstance(item, tuple) else item for key, item in settings.items()}

    def with_size(self, height: int, width: int) -> Preprocessing:
        """The same recipe for a fixed size."""
        return replace(self, size=(height, width))

    def apply(
        self, image: Image.Image, input_shape: Sequence[Dim], dtype: DTypeLike | None = None
    ) -> Prepared:
        """Make one picture ready for one model input.

        Args:
            image: from `load_picture`; any other mode is converted to RGB.
            input_shape: what the model declares, [N, C, H, W] or [N, H, W, C]; a dimension that is None,
                a name, or not positive is free. The batch axis is not checked: the result has 1.
            dtype: what the model declares, default float32.

        Raises:
            PictureError: the picture (named by `info["source"]`) and the model do not fit: other number
                of axes or channels, a size that is not known, a crop larger than the picture, values
                outside the range of an integer dtype.
        """
        name = str(image.info.get("source", "picture"))
        shape = _Declared.read(input_shape, self.channels, self.layout, name)
        box, (height, width) = self._geometry(image.size[1], image.size[0], shape, name)
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        if self.crop_fraction is None:
            seen = rgb.resize((width, height), Image.Resampling.BILINEAR, box=box)
        else:
            # Cut first: unlike a crop after resizing, nothing outside the window may blend into its edge.
            left, top, right, bottom = (int(item) for item in box)
            seen = rgb.crop((left, top, right, bottom)).resize((width, height), Image.Resampling.BILINEAR)
        return Prepared(
            array=self._values(seen, shape, dtype, name),
            shown=np.array(seen, dtype=np.uint8),
            display=display(rgb, box),
            box=box,
            layout=shape.layout,
        )

    def _geometry(self, height: int, width: int, shape: _Declared, name: str) -> tuple[Box, tuple[int, int]]:
        """The box in the source picture, and the (height, width) it is resampled to."""
        whole = (0.0, 0.0, float(width), float(height))
        if self.resize_shorter is not None and self.crop == "none":
            size = scaled(height, width, self.resize_shorter)
            _check_size(size, shape, name)
            return whole, size
        wanted = shape.size(self.size, name)
        _check_size(wanted, shape, name)
        if self.crop_fraction is not None:
            return central_box(height, width, wanted, self.crop_fraction), wanted
        if self.resize_shorter is not None:
            resized = scaled(height, width, self.resize_shorter)
        elif self.resize_ratio is not None:
            resized = covering(height, width, wanted, self.resize_ratio)
        elif self.crop == "center":
            resized = (height, width)
        else:
            return whole, wanted
        return crop_box((height, width), resized, wanted, name), wanted

    def _values(
        self, seen: Image.Image, shape: _Declared, dtype: DTypeLike | None, name: str
    ) -> NDArray[Any]:
        """Scale the pixel values and put the axes in the model's order."""
        target = _array_dtype(self.dtype, dtype, name)
        pixels = np.asarray(seen.convert("L") if shape.channels == "L" else seen, dtype=np.float64)
        pixels = pixels.reshape(pixels.shape[0], pixels.shape[1], -1)
        if shape.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        count = pixels.shape[2]
        subtract = _per_channel(self.subtract, count, "subtract", name)
        divide = _per_channel(self.divide, count, "divide", name)
        values = (pixels - subtract) / divide
        if target.kind in "ui":
            limits = np.iinfo(target)
            whole = np.rint(values)
            if whole.min() < limits.min or whole.max() > limits.max or np.abs(values - whole).max() > 1e-6:
                raise PictureError(
                    f"{name}: values {values.min():g} to {values.max():g} are not whole numbers that fit "
                    f"the model's {target}",
                    "check subtract and divide; a uint8 model usually takes the recipe `raw`",
                )
            values = whole
        if shape.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[np.newaxis], dtype=target)


@dataclass(frozen=True, slots=True)
class _Declared:
    """A model input as far as its declared shape tells."""

    layout: Layout
    channels: Channels
    height: int | None
    width: int | None

    @classmethod
    def read(
        cls, input_shape: Sequence[Dim], channels: Channels | None, layout: Layout | None, name: str
    ) -> _Declared:
        dims = [item if isinstance(item, int) and item > 0 else None for item in input_shape]
        written = "[" + ", ".join("?" if item is None else str(item) for item in input_shape) + "]"
        if len(dims) != 4:
            raise PictureError(
                f"{name}: a picture needs a model input of 4 axes, this one declares {written}",
                "pass the preprocessed tensor as .npy",
            )
        wanted = (1,) if channels == "L" else (3,) if channels else (3, 1)
        if layout is None:
            layout = _guess_layout(dims, wanted, written, name)
        order = (1, 2, 3) if layout == "NCHW" else (3, 1, 2)
        count, height, width = (dims[axis] for axis in order)
        if count is not None and count not in wanted:
            raise PictureError(
                f"{name}: the model input {written} ({layout}) takes {count} channels, "
                f"{channels or 'a picture'} has {' or '.join(map(str, wanted))}",
                "set channels to RGB, BGR or L, or pass the preprocessed tensor as .npy",
            )
        return cls(layout, channels or ("L" if count == 1 else "RGB"), height, width)

    def size(self, given: tuple[int, int] | None, name: str) -> tuple[int, int]:
        """The (height, width) to make."""
        if given is not None:
            return given
        if self.height is None or self.width is None:
            raise PictureError(
                f"{name}: the model does not declare the height and width it takes",
                'give "size" in a preprocessing file',
            )
        return self.height, self.width


def _guess_layout(dims: Sequence[int | None], wanted: Sequence[int], written: str, name: str) -> Layout:
    """Read the layout off the axis that can be the channels."""
    for count in wanted:
        first, last = dims[1] == count, dims[3] == count
        if first != last:
            return "NCHW" if first else "NHWC"
    if dims[1] is None and dims[2] is not None and dims[3] is not None:
        return "NCHW"
    if dims[3] is None and dims[1] is not None and dims[2] is not None:
        return "NHWC"
    if dims[1] not in wanted and dims[1] is not None and dims[3] is not None:
        raise PictureError(
            f"{name}: the model input {written} has no axis of {' or '.join(map(str, wanted))} channels",
            "set channels to RGB, BGR or L, or pass the preprocessed tensor as .npy",
        )
    raise PictureError(
        f"{name}: the model input {written} does not tell which axis holds the channels",
        'give "layout": "NCHW" or "NHWC" in a preprocessing file',
    )


def _check_size(size: tuple[int, int], shape: _Declared, name: str) -> None:
    """Compare with the declared size, and keep absurd sizes out of memory."""
    if size[0] * size[1] > MAX_PIXELS:
        raise PictureError(
            f"{name}: resized to {size[1]} x {size[0]} it would have more than {MAX_PIXELS} pixels",
            "give a smaller size, or crop",
        )
    if (shape.height or size[0]) != size[0] or (shape.width or size[1]) != size[1]:
        declared = f"{shape.height or '?'} x {shape.width or '?'}"
        raise PictureError(
            f"{name}: preprocessing gives {size[0]} x {size[1]} (height x width), the model takes {declared}",
            'leave "size" out to take the model\'s, or set "crop": "center"',
        )


def _per_channel(value: tuple[float, ...] | float, count: int, key: str, name: str) -> NDArray[np.float64]:
    if isinstance(value, tuple) and len(value) not in (1, count):
        raise PictureError(
            f"{name}: {key} has {len(value)} numbers, the model takes {count} channels",
            f"give one number, or {count}",
        )
    return np.asarray(value, dtype=np.float64)


def _array_dtype(own: str | None, declared: DTypeLike | None, name: str) -> np.dtype[Any]:
    """The dtype to make; the recipe and the model must not contradict each other."""
    model = None if declared is None else np.dtype(declared)
    target = np.dtype(own) if own else model or np.dtype(np.float32)
    if model is not None and target != model:
        raise PictureError(
            f"{name}: preprocessing gives {target}, the model takes {model}", 'leave "dtype" out'
        )
    if target.kind not in "fui":
        raise PictureError(
            f"{name}: the model takes {target}, a picture cannot be turned into that",
            "pass the preprocessed tensor as .npy",
        )
    return target
