"""Inverse rules of nodes that only move, copy or drop values.

Such a node is linear with a Jacobian whose rows, or whose columns, are orthogonal and of one length s: then
the exact pseudo-inverse is the transposed Jacobian divided by s^2. For a plain rearrangement s = 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from naflow_core.inverse.guard import divide
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


@register(
    "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", applies=_first, name="rearrangement"
)
@register("DepthToSpace", "SpaceToDepth", applies=_first, name="rearrangement")
@register("MaxUnpool", "TopK", "Compress", "ReverseSequence", applies=_first, name="rearrangement")
@register("Trilu", "CenterCropPad", applies=_first, name="rearrangement")
@register("Pad", applies=_zero_padding, name="rearrangement")
@register("Concat", name="rearrangement")
def rearrangement(y: Array, site: Site) -> Array:
    return site.transpose(y)


def _replaces(site: Site) -> bool:
    """Elements are replaced (of data) or put somewhere (of updates), or added with reduction "add"."""
    return site.position in (0, 2) and site.attributes.get("reduction", "none") in ("none", "add")


@register("ScatterND", "ScatterElements", applies=_replaces, name="scattered")
def scattered(y: Array, site: Site) -> Array:
    # what comes from the other operand is an offset; where an element is read, it is read with slope 1
    image = jax.jvp(site.forward, (site.x0,), (site.x0,))[1]
    return site.transpose(y - (site.y0 - image))


def _without_overlap(site: Site) -> bool:
    geometry = PoolGeometry.of(site.x0.shape, **site.attributes)
    return all(reach <= stride for reach, stride in zip(geometry.reach, geometry.strides, strict=True))


@register("AveragePool", applies=_without_overlap, name="replication", mixes=True)
@register("GlobalAveragePool", name="replication", mixes=True)
@register("ReduceMean", applies=_first, name="replication", mixes=True)
def replication(y: Array, site: Site) -> Array:
    # Means over disjoint sets: J J^T is diagonal, J^T divided by it the pseudo-inverse. Windows at the border
    # may hold fewer values, hence one length per window.
    return site.transpose(divide(y, site.forward(site.transpose(jnp.ones_like(y)))))


def _whole_multiple(site: Site) -> bool:
    """Nearest-neighbour resizing that repeats every value equally often."""
    factors = [divmod(m, n) for n, m in zip(site.x0.shape, site.y0.shape, strict=True)]
    return (
        site.position == 0
        and site.attributes.get("mode", "nearest") == "nearest"
        and all(factor > 0 and rest == 0 for factor, rest in factors)
    )


@register("Gather", "GatherElements", "GatherND", applies=_first, name="mean-of-copies", coupled=True)
@register("Expand", "Tile", applies=_first, name="mean-of-copies", coupled=True)
@register("Resize", applies=_whole_multiple, name="mean-of-copies", mixes=True)
def mean_of_copies(y: Array, site: Site) -> Array:
    # Every row of J picks one value: of its retained copies, their mean fits best.
    kept = site.retained.astype(y.dtype)
    return divide(site.transpose(kept * y), site.transpose(kept))
