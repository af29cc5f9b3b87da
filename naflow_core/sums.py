"""Sums over the values of each picture."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from naflow_core.model.layout import Layout

Array = Any
HIGHEST = jax.lax.Precision.HIGHEST


def over_channels(values: Array, layout: Layout) -> Array:
    """Sum over all axes but the pictures' and the spatial ones.

    As a matrix product: XLA makes a sum of products over leading channels ten times as slow on a CPU.
    """
    channels = tuple(axis for axis in range(1, values.ndim) if axis not in layout)
    places = [values.shape[axis] for axis in sorted(layout)]
    pictures, count = values.shape[0], math.prod(values.shape[axis] for axis in channels)
    ones, size = jnp.ones((pictures, 1, count), values.dtype), math.prod(places)
    if channels == tuple(range(1, 1 + len(channels))):
        found = jnp.matmul(ones, values.reshape(pictures, count, size), precision=HIGHEST)
    elif channels == tuple(range(values.ndim - len(channels), values.ndim)):
        flat = values.reshape(pictures, size, count)
        found = jnp.matmul(flat, ones.reshape(pictures, count, 1), precision=HIGHEST)
    else:
        return jnp.sum(values, axis=channels)
    return found.reshape(pictures, *places)


def over_all(values: Array) -> Array:
    """[N] Sum of all values of each picture."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def fraction(retained: Array) -> Array:
    """[N] Share of each picture's values that are true."""
    return jnp.mean(retained, axis=tuple(range(1, retained.ndim)), dtype=jnp.float32)
