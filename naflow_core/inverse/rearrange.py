"""Inverse rules of nodes that only move, copy or drop values.

Such a node is linear with a Jacobian whose rows, or whose columns, are orthogonal and of one length s: then
the exact pseudo-inverse is the transposed Jacobian divided by s^2. For a plain rearrangement s = 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from naflow_core.inverse.registry import Site, register
from naflow_core.ops.pool import PoolGeometry

Array = Any


@register("Identity", "Dropout", "Cast", kind="passthrough", applies=lambda site: site.position == 0)
def passthrough(y: Array, _site: Site) -> Array:
    return y


def _first(site: Site) -> bool:
    return site.position == 0


def _zero_padding(site: Site) -> bool:
    """Padding with a constant copies each value once; other modes copy border values several times."""
    return site.position == 0 and site.attributes.get("mode", "constant") == "constant"


@register("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", applies=_first, name="rearrangement")
@register("DepthToSpace", "SpaceToDepth", applies=_first, name="rearrangement")
@register("Pad", applies=_zero_padding, name="rearrangement")
@register("Concat", name="rearrangement")
def rearrangement(y: Array, site: Site) -> Array:
    return site.transpose(y)


def _tiles_the_input(site: Site) -> bool:
    """Windows neither overlap nor reach into the padding, and each covers real values only."""
    geometry = PoolGeometry.of(site.x0.shape, **site.attributes)
    return (
        geometry.kernel == geometry.strides
        and set(geometry.dilations) == {1}
        and not any(geometry.pads_lo)
        and not any(geometry.pads_hi)
    )


@register("AveragePool", applies=_tiles_the_input, name="replication", mixes=True)
@register("GlobalAveragePool", name="replication", mixes=True)
@register("ReduceMean", applies=_first, name="replication", mixes=True)
def replication(y: Array, site: Site) -> Array:
    averaged = np.prod(site.x0.shape) / np.prod(site.y0.shape)
    if site.instruction.operator.op_type == "AveragePool":  # a remainder at the border is in no window
        averaged = float(np.prod(PoolGeometry.of(site.x0.shape, **site.attributes).kernel))
    return site.transpose(y) * averaged
