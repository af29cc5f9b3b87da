"""Operators of ONNX Runtime's own domain that are not written as standard ones while loading."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.errors import Refusal
from naflow_core.ops.activation import sigmoid
from naflow_core.ops.array import namespace
from naflow_core.ops.linear import matmul
from naflow_core.ops.registry import register

DOMAIN = "com.microsoft"
_LEAST_GELU = (-0.17005, math.inf)


@register("Gelu", domain=DOMAIN, pointwise=True, value_range=_LEAST_GELU, foldable=False)
def gelu(x: Any) -> jax.Array:
    """x times the normal distribution function."""
    return jax.nn.gelu(jnp.asarray(x), approximate=False)


@register("FastGelu", domain=DOMAIN, pointwise=True, value_range=_LEAST_GELU, foldable=False)
def fast_gelu(x: Any) -> jax.Array:
    """The tanh approximation of Gelu."""
    return jax.nn.gelu(jnp.asarray(x), approximate=True)


@register("QuickGelu", domain=DOMAIN, pointwise=True)
def quick_gelu(x: Any, *, alpha: float = 1.702) -> Any:
    """x sigmoid(alpha x)."""
    return x * sigmoid(x * alpha)


@register("FusedMatMul", domain=DOMAIN)
def fused_matmul(
    a: Any,
    b: Any,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Any:
    """alpha times the matrix product of a and b, either transposed on its last two axes first."""
    if transBatchA or transBatchB:
        raise Refusal("transposed batch axes are not implemented")
    left = namespace(a).swapaxes(a, -1, -2) if transA and np.ndim(a) > 1 else a
    right = namespace(b).swapaxes(b, -1, -2) if transB and np.ndim(b) > 1 else b
    return (matmul(left, right) * alpha).astype(a.dtype)
