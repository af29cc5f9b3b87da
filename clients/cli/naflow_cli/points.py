"""`--point`: where the reference carries the similarity with one place of the input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import naflow_core as nf
from naflow_cli.inputs import InputBatch, InputFile, read_inputs
from naflow_cli.request import Request
from naflow_client.render import tile
from naflow_client.render.overlays import png
from naflow_client.report import LayerReport, PictureReport


@dataclass(frozen=True, slots=True)
class Points:
    """Maps over the references, one for each pair.

    Attributes:
        pixel: (x, y) of the input tensor.
        place: (row, column) of the tensor that it lies in.
        tensor: top feature map for similarities.
        maps: [N, H, W] float32, signed.
        inputs, references: the pairs.
    """

    pixel: tuple[int, int]
    place: tuple[int, int]
    tensor: str
    maps: NDArray[np.float32]
    inputs: tuple[InputFile, ...]
    references: tuple[InputFile, ...]

    def write(self, folder: Path) -> None:
        """point.npz, and point.png for each reference."""
        with (folder / "point.npz").open("wb") as file:
            arrays: dict[str, Any] = {self.tensor: self.maps[0] if len(self.maps) == 1 else self.maps}
            np.savez(file, allow_pickle=False, **arrays)
        for i, (values, reference) in enumerate(zip(self.maps, self.references, strict=True)):
            pixels, _ = tile(reference.display, values)
            (folder / (f"point-{i:03d}.png" if i else "point.png")).write_bytes(png(pixels))

    def reports(self) -> list[PictureReport]:
        """For the report: each reference with its map."""
        x, y = self.pixel
        return [
            PictureReport(
                name=reference.name,
                picture=reference.display,
                prediction=[],
                target=f"what answers to pixel {x},{y} of {own.name}",
                layers=[LayerReport(0, self.tensor, "", "", (1, *values.shape), "point to point", values)],
            )
            for own, reference, values in zip(self.inputs, self.references, self.maps, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """For the manifest; `terms` add up to the similarity over all points where the head is linear."""
        return {
            "pixel": list(self.pixel),
            "place": list(self.place),
            "tensor": self.tensor,
            "terms": [float(values.sum()) for values in self.maps],
        }


def parse_point(text: str) -> tuple[int, int]:
    """From "X,Y".

    Raises:
        OptionError: it is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts):
        raise nf.OptionError(f"--point {text!r} is not understood", hint="give a pixel, such as 120,64")
    return int(parts[0]), int(parts[1])


def find_points(model: nf.Model, request: Request, preprocess: str | dict[str, Any] | None) -> Points | None:
    """The maps that the request asks for, if it does.

    Raises:
        InputError, OptionError, TargetError: the point or the references do not fit.
    """
    options = request.comparison
    if options is None or options.point is None:
        return None
    own = read_inputs(model, request.inputs, preprocess)
    other = read_inputs(model, options.references, preprocess)
    place, tensor = _place(model, request, own, options.point)
    maps = nf.point_to_point(
        model,
        _only(own),
        _only(other),
        place,
        metric=options.metric,
        output=request.output,
        top_feature_map=request.top_feature_map,
    )
    return Points(options.point, place, tensor, maps, own.files, other.files)


def _only(batch: InputBatch) -> np.ndarray:
    """The one input."""
    if len(batch.arrays) != 1:
        raise nf.OptionError("--point needs a model with one input", hint="leave it out")
    return next(iter(batch.arrays.values()))


def _place(
    model: nf.Model, request: Request, batch: InputBatch, pixel: tuple[int, int]
) -> tuple[tuple[int, int], str]:
    """(row, column) under a pixel, and of which tensor."""
    plan = model.plan(_only(batch), output=request.output, top_feature_map=request.top_feature_map)
    name = plan.head.output if plan.head.is_feature_map else plan.top
    source, sizes = _sizes(plan, plan.source), _sizes(plan, name)
    if len(sizes) != 2 or len(source) != 2:
        raise nf.OptionError(
            f"--point needs two spatial axes, {name!r} has {len(sizes)}", hint="leave it out"
        )
    x, y = pixel
    if x >= source[1] or y >= source[0]:
        raise nf.OptionError(
            f"--point {x},{y} lies outside the {source[1]} x {source[0]} pixels that the model sees",
            hint="count from 0, after preprocessing",
        )
    return (y * sizes[0] // source[0], x * sizes[1] // source[1]), name


def _sizes(plan: Any, name: str) -> list[int]:
    """Of the spatial axes."""
    return [plan.program.shapes[name][axis] for axis in sorted(plan.layouts.get(name, ()))]
