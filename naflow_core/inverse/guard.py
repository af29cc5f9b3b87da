"""Divisions and domains that cannot give nan or inf."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

Array = Any
TINY = 1e-12
LARGEST = 1e30
"""Inverses stay within this, so that their sums and differences stay finite in float32."""


def bounded(values: Array) -> Array:
    """Values kept within -LARGEST and LARGEST; nan stays nan."""
    return jnp.clip(values, -LARGEST, LARGEST)


def divide(numerator: Array, denominator: Array) -> Array:
    """Quotient; 0 where the denominator is (almost) 0, which abandons the neuron."""
    safe = jnp.abs(denominator) > TINY
    return jnp.where(safe, numerator / jnp.where(safe, denominator, 1.0), 0.0)
