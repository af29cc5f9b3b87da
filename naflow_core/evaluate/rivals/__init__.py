"""What flows are measured against: controls, and the methods people would use instead.

`register` adds one; `find` looks one up by name; see `naflow_core.evaluate.rivals.registry`.
"""

from naflow_core.evaluate.rivals import (
    controls,
    factors,
    flows,
    gradient_cams,
    input_gradients,
    perturbation,
)
from naflow_core.evaluate.rivals.flows import variant
from naflow_core.evaluate.rivals.registry import REGISTRY, Rival, find, register

__all__ = [
    "REGISTRY",
    "Rival",
    "controls",
    "factors",
    "find",
    "flows",
    "gradient_cams",
    "input_gradients",
    "perturbation",
    "register",
    "variant",
]
