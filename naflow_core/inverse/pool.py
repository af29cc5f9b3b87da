"""Inverse rule of max pooling: unpool to the position that won the forward pass."""

from __future__ import annotations

from typing import Any

from naflow_core.inverse.registry import Site, register
from naflow_core.ops.pool import PoolGeometry, max_pool_argmax, unpool_mean

Array = Any


@register("MaxPool", mixes=True)
def unpool_to_argmax(y: Array, site: Site) -> Array:
    geometry = PoolGeometry.of(site.x0.shape, **site.attributes)
    argmax = max_pool_argmax(site.x0, geometry)
    return unpool_mean(y, site.retained, argmax, geometry, site.x0.shape)
