"""Dense convolutions are solved with their channels on the last axis.

That is how they are computed (see `naflow_core.ops.conv`). A solver whose unknowns lie the same way spares
each iteration the four changes of layout around the convolution and its adjoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from naflow_core.inverse.linearised import LinearisedInverse, invert_linearised
from naflow_core.solve import View

Array = Any


def invert_channels_last(
    function: Callable[[Array], Array],
    x0: Array,
    y: Array,
    rows: Array,
    *,
    view: View | None,
    **options: Any,
) -> LinearisedInverse:
    """`invert_linearised` of the same arguments, channels on axis 1 as ever, with another layout inside.

    Args:
        options: its other arguments; every picture is one system.
    """

    def inside(x: Array) -> Array:
        return _last(function(_first(x)))

    seen = None if view is None else lambda x: view(_first(x))
    found, offset = invert_linearised(inside, _last(x0), _last(y), _last(rows), view=seen, **options)
    return LinearisedInverse(found._replace(x=_first(found.x)), _first(offset))


def _last(values: Array) -> Array:
    return jnp.moveaxis(values, 1, -1)


def _first(values: Array) -> Array:
    return jnp.moveaxis(values, -1, 1)
