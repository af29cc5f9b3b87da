"""Inverse rules. `register` adds one; see `naflow_core.inverse.registry`."""

from naflow_core.inverse import activation, affine, pool, rearrange
from naflow_core.inverse.registry import LEAST_SQUARES, REGISTRY, Rule, Site, register

__all__ = [
    "LEAST_SQUARES",
    "REGISTRY",
    "Rule",
    "Site",
    "activation",
    "affine",
    "pool",
    "rearrange",
    "register",
]
