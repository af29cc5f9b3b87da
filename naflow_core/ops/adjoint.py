"""Linear maps with a hand-written adjoint.

JAX would derive the adjoint itself, but inside loops XLA's CPU compiler misses its fast kernels for
the derived form; the explicit one keeps `J^T u` as cheap as `J v` everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero, linear_call

LinearMap = Callable[[Any, Any], Any]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def apply_linear(forward: LinearMap, adjoint: LinearMap, residual: Any, x: jax.Array) -> jax.Array:
    """`forward(residual, x)`, whose transpose with respect to `x` is `adjoint(residual, u)`.

    `forward` must be linear in `x` and may use `residual` (a pytree) in any way; neither function may
    close over traced values. Derivatives with respect to `residual` go through `forward` as JAX finds
    them. Works under jit, jvp, vjp, linearize and linear_transpose; not under vmap.
    """
    y: jax.Array = linear_call(forward, adjoint, residual, x)
    return y


@partial(apply_linear.defjvp, symbolic_zeros=True)
def _apply_linear_jvp(
    forward: LinearMap, adjoint: LinearMap, primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[Any, Any]:
    residual, x = primals
    residual_dot, x_dot = tangents
    y = apply_linear(forward, adjoint, residual, x)
    y_dot = None
    if not _is_zero(x_dot):
        y_dot = apply_linear(forward, adjoint, residual, x_dot)
    if not all(_is_zero(leaf) for leaf in jax.tree.leaves(residual_dot, is_leaf=_is_symbolic)):
        dense = jax.tree.map(_instantiate, residual_dot, is_leaf=_is_symbolic)
        _, from_residual = jax.jvp(lambda r: forward(r, x), (residual,), (dense,))
        y_dot = from_residual if y_dot is None else y_dot + from_residual
    return y, jnp.zeros_like(y) if y_dot is None else y_dot


@jax.custom_jvp
def as_known(computed: jax.Array, known: jax.Array) -> jax.Array:
    """The value that is known, with the derivative of the one that would be computed."""
    del computed
    return known


@as_known.defjvp
def _as_known_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    return as_known(*primals), tangents[0]


def _is_symbolic(leaf: Any) -> bool:
    return isinstance(leaf, SymbolicZero)


def _is_zero(leaf: Any) -> bool:
    return _is_symbolic(leaf) or leaf.dtype == jax.dtypes.float0


def _instantiate(leaf: Any) -> Any:
    if not _is_symbolic(leaf):
        return leaf
    zeros = np.zeros if leaf.dtype == jax.dtypes.float0 else jnp.zeros
    return zeros(leaf.shape, leaf.dtype)
