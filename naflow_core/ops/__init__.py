"""Forward operators. `register` adds one; see `naflow_core.ops.registry`."""

from naflow_core.ops.registry import REGISTRY, Operator, register

__all__ = ["REGISTRY", "Operator", "register"]
