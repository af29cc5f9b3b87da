"""What a caller gives as input: checked against the declaration, and as programs take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from naflow_core.errors import InputError
from naflow_core.model.graph import TensorSpec


def input_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """The NumPy type of an input that is no floating-point number.

    Raises:
        InputError: there is none that could be computed with, such as for text.
    """
    try:
        return np.dtype(spec.dtype)
    except TypeError as error:
        raise InputError(
            f"input {spec.name!r} takes {spec.dtype}, which cannot be computed with",
            hint="export the model without the part that reads it",
        ) from error


def checked_input(spec: TensorSpec, value: Any) -> np.ndarray:
    """One input as an array of the declared type.

    Raises:
        InputError: wrong rank, size or type, or values that are not finite.
    """
    array = np.asarray(value)
    declared = None if spec.shape is None else ["?" if d is None else d for d in spec.shape]
    floating = spec.dtype in {"float", "float16", "double", "bfloat16"}
    if floating and array.dtype.kind != "f":
        raise InputError(
            f"input {spec.name!r} has type {array.dtype}, the model takes float32",
            hint="convert with .astype('float32') after preprocessing",
        )
    if not floating and array.dtype != input_dtype(spec):
        raise InputError(f"input {spec.name!r} has type {array.dtype}, the model takes {spec.dtype}")
    fits = declared is None or (
        array.ndim == len(declared)
        and all(
            not isinstance(d, int) or axis == 0 or d == n
            for axis, (d, n) in enumerate(zip(declared, array.shape, strict=True))
        )
    )
    if not fits or array.ndim == 0:
        raise InputError(f"input {spec.name!r} has shape {list(array.shape)}, the model takes {declared}")
    if array.size == 0:
        raise InputError(f"input {spec.name!r} is empty: shape {list(array.shape)}")
    if floating:
        with np.errstate(over="ignore"):  # float64 that float32 cannot hold is told below
            array = np.ascontiguousarray(array, np.float32)
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise InputError(f"input {spec.name!r} has {bad} values that are nan or infinite")
    return array


def checked_inputs(
    specs: Sequence[TensorSpec], x: np.ndarray | Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """All inputs by name; `x` alone is the only one.

    Raises:
        InputError: names the input and what does not fit.
    """
    if not specs:
        raise InputError("the model takes no input", hint="there is nothing that a map could show")
    if not isinstance(x, Mapping):
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise InputError(f"the model has {len(specs)} inputs: {names}", hint="give a mapping by name")
        x = {specs[0].name: x}
    unknown = set(x) - {spec.name for spec in specs}
    missing = [spec.name for spec in specs if spec.name not in x]
    if unknown or missing:
        raise InputError(
            f"inputs do not match: missing {', '.join(missing) or 'none'}, "
            f"unknown {', '.join(unknown) or 'none'}"
        )
    return {spec.name: checked_input(spec, x[spec.name]) for spec in specs}


def pictures_of(inputs: Mapping[str, np.ndarray]) -> int:
    """How many pictures there are on axis 0.

    Raises:
        InputError: the inputs do not agree.
    """
    count = {value.shape[0] for value in inputs.values()}
    if len(count) != 1:
        raise InputError("all inputs must have the same number of pictures on axis 0")
    return count.pop()


def device_value(array: np.ndarray) -> Any:
    """An input as the program takes it: integers of 8 and 16 bits in float32, wider ones in int32."""
    if array.dtype.kind in "iu":
        return jnp.asarray(array.astype(np.float32 if array.dtype.itemsize < 4 else np.int32))
    return jnp.asarray(array)
