"""Quantisation, carried in float32: integers as float values, with a straight-through derivative."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from onnx import TensorProto

from naflow_core.errors import Refusal
from naflow_core.ops.array import is_known, namespace, normalise_axis
from naflow_core.ops.registry import register

_LIMITS = {
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _quantise(x: jax.Array, scale: jax.Array, zero_point: jax.Array, limits: tuple[int, int]) -> jax.Array:
    return jnp.clip(jnp.round(x / scale) + zero_point, *limits)


@_quantise.defjvp
def _quantise_jvp(limits: tuple[int, int], primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    x, scale, zero_point = primals
    exact = x / scale + zero_point
    inside = (exact > limits[0]) & (exact < limits[1])
    return _quantise(x, scale, zero_point, limits), jnp.where(inside, tangents[0] / scale, 0.0)


def _spread(values: Any, shape: tuple[int, ...], axis: int, block_size: int, name: str) -> np.ndarray:
    """Scale or zero point in a form that broadcasts to x: one value, one per slice, or one per block."""
    array = np.asarray(values).astype(np.float32)
    if array.size == 1 and not block_size:
        return array.reshape(())
    axis = normalise_axis(axis, len(shape))
    if block_size:
        array = np.repeat(array, block_size, axis=axis)
        cut: list[slice] = [slice(None)] * array.ndim
        cut[axis] = slice(shape[axis])
        array = array[tuple(cut)]
        if array.shape != shape:
            raise Refusal(f"{name} does not give one value per block of {block_size} for shape {shape}")
        return array
    if array.shape != (shape[axis],):
        raise Refusal(f"{name} of shape {array.shape} does not fit axis {axis} of shape {shape}")
    return array.reshape([-1 if a == axis else 1 for a in range(len(shape))])


def _limits(zero_point: Any, output_dtype: int) -> tuple[int, int]:
    if zero_point is not None:
        name = np.asarray(zero_point).dtype.name
    else:
        name = TensorProto.DataType.Name(output_dtype).lower() if output_dtype else "uint8"
    if name not in _LIMITS:
        raise Refusal(f"quantising to {name} is not implemented")
    return _LIMITS[name]


@register("QuantizeLinear", since=10, static=(1, 2))
def quantize_linear(
    x: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Any:
    """round(x / scale) + zero_point (halves to even), kept within the integer type's limits; float32.

    The derivative is 1 / scale strictly within the limits and 0 beyond, as that of Clip.
    """
    limits = _limits(zero_point, output_dtype)
    shape = tuple(np.shape(x))
    factor = _spread(scale, shape, axis, block_size, "scale")
    zero = _spread(
        0 if zero_point is None else zero_point,
        shape,
        axis,
        block_size if zero_point is not None else 0,
        "zero point",
    )
    if is_known(x):
        return np.clip(np.round(x.astype(np.float32) / factor) + zero, *limits).astype(np.float32)
    return _quantise(x.astype(jnp.float32), jnp.asarray(factor), jnp.asarray(zero), limits)


@register("DequantizeLinear", since=10, static=(1, 2))
def dequantize_linear(
    x: Any, scale: Any, zero_point: Any = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Any:
    """(x - zero_point) scale for x of an integer type, or of float32 holding integers; float32."""
    shape = tuple(np.shape(x))
    factor = _spread(scale, shape, axis, block_size, "scale")
    y = x.astype(np.float32)
    if zero_point is not None:
        y = y - _spread(zero_point, shape, axis, block_size, "zero point")
    return y * factor


@register("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(x: Any) -> tuple[Any, Any, Any]:
    """x as integers from 0 to 255, and the scale and zero point that its own range asks for; all float32.

    Scale and zero point count as constants: the derivative of the integers by x is 1 / scale.
    """
    xp = namespace(x)
    held = x if is_known(x) else lax.stop_gradient(x)
    low, high = xp.minimum(held.min(), np.float32(0)), xp.maximum(held.max(), np.float32(0))
    scale = (high - low) / np.float32(255)
    safe = xp.where(scale == 0, xp.ones_like(scale), scale)
    zero_point = xp.clip(xp.round(-low / safe), 0, 255).astype(np.float32)
    if is_known(x):
        whole = np.clip(np.round(x / safe) + zero_point, 0, 255).astype(np.float32)
        return whole, np.asarray(safe, np.float32), np.asarray(zero_point, np.float32)
    # nothing lies outside the range, only on its ends, where the derivative is that of the inside
    whole = jnp.clip(jnp.round(held / safe) + zero_point, 0.0, 255.0)
    return whole + (x - held) / safe, safe, zero_point
