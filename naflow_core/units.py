"""Units: powers of two, in which values keep every digit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = Any

MANTISSA_BITS, BIAS = 23, 127
MOST_EXPONENT = 126
"""Up to which powers of two and their reciprocals are normal numbers of float32."""


def power_of_two_above(values: Array, most: int = MOST_EXPONENT) -> Array:
    """The least power of two above each of some positive, finite values.

    From their bits: `frexp` and `ldexp` become some two hundred operations, which every program would be
    compiled with.

    Args:
        values: numbers within float32's range.
        most: exponents beyond this one, to either side, become it; at most `MOST_EXPONENT`.

    Returns:
        float32, shape of `values`.
    """
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    exponent = jnp.clip((bits >> MANTISSA_BITS) - (BIAS - 1), -most, most)
    return jax.lax.bitcast_convert_type((exponent + BIAS) << MANTISSA_BITS, jnp.float32)
