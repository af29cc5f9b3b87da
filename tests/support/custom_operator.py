"""A user's own module: an operator in a domain of their own, and how to invert it.

Nothing here touches naflow_core; importing the module is enough.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import naflow_core as nf

DOMAIN = "com.example"


@nf.ops.register("SignedSquare", domain=DOMAIN, since=1, pointwise=True)
def signed_square(x: Any, *, gain: float = 1.0) -> Any:
    """gain * x * |x|: known values come as numpy arrays, others as JAX arrays."""
    xp = np if isinstance(x, np.ndarray) else jnp
    return gain * x * xp.abs(x)


@nf.inverse.register("SignedSquare", domain=DOMAIN, name="signed-root")
def signed_root(y: Any, site: nf.inverse.Site) -> Any:
    scaled = y / site.attributes.get("gain", 1.0)
    return jnp.sign(scaled) * jnp.sqrt(jnp.abs(scaled))
