"""Forward operators. `register` adds one; see `naflow_core.ops.registry`."""

from naflow_core.ops import (
    activation,
    constant,
    conv,
    elementwise,
    linear,
    norm,
    pool,
    quant,
    reduce,
    resize,
    shape,
)
from naflow_core.ops.registry import REGISTRY, Operator, register

__all__ = [
    "REGISTRY",
    "Operator",
    "activation",
    "constant",
    "conv",
    "elementwise",
    "linear",
    "norm",
    "pool",
    "quant",
    "reduce",
    "register",
    "resize",
    "shape",
]
