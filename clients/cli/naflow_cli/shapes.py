"""`--input-shape`: sizes for inputs that the model leaves open."""

from __future__ import annotations

from collections.abc import Sequence

import naflow_core as nf
from naflow_core.model.graph import TensorSpec


def given_shapes(texts: Sequence[str], inputs: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Shapes by input name, from "1,3,224,224" (the first input) or "NAME=1,3,224,224" each.

    Raises:
        OptionError: not a shape, no such input, or a shape that the model's declaration has no room for.
    """
    shapes = {}
    for text in texts:
        name, given, shape = text.rpartition("=")
        specs = [spec for spec in inputs if spec.name == name] if given else list(inputs[:1])
        if not specs:
            raise nf.OptionError(
                f"--input-shape {text!r}: the model has no input {name!r}",
                hint=f"its inputs are {', '.join(repr(spec.name) for spec in inputs) or 'none'}",
            )
        shapes[specs[0].name] = _fitting(_parsed(shape, text), specs[0])
    return shapes


def _parsed(shape: str, text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in shape.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or max(sizes) > 1 << 16:
        raise nf.OptionError(
            f"--input-shape {text!r} is not a shape", hint="for example 1,3,224,224 or NAME=1,3,224,224"
        )
    return sizes


def _fitting(shape: tuple[int, ...], spec: TensorSpec) -> tuple[int, ...]:
    declared = spec.shape
    free = declared is None or (
        len(declared) == len(shape)
        and all(not isinstance(d, int) or d == n for d, n in zip(declared, shape, strict=True))
    )
    if not free:
        raise nf.OptionError(
            f"--input-shape {list(shape)} does not fit input {spec.name!r}, declared as {dims(declared)}"
        )
    return shape


def dims(shape: Sequence[int | str | None] | None) -> str:
    """A shape for people: "1 x 3 x ? x ?"."""
    return "any shape" if shape is None else " x ".join("?" if d is None else str(d) for d in shape)
