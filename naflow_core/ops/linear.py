"""Matrix products."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops.array import broadcast_shapes, check_growth, is_known, namespace
from naflow_core.ops.registry import register


@register("MatMul")
def matmul(a: Any, b: Any) -> Any:
    """Matrix product over the last two axes, the others broadcast."""
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        raise Refusal("a scalar has no matrix product")
    if a.shape[-1] != b.shape[-2 if np.ndim(b) > 1 else 0]:
        raise Refusal(f"shapes {tuple(a.shape)} and {tuple(b.shape)} have no matrix product")
    rows = a.shape[-2:-1]
    columns = b.shape[-1:] if np.ndim(b) > 1 else ()
    check_growth((*broadcast_shapes(a.shape[:-2], b.shape[:-2]), *rows, *columns), a.dtype)
    if is_known(a, b):
        return np.matmul(a, b)
    return jnp.matmul(jnp.asarray(a), jnp.asarray(b), precision=lax.Precision.HIGHEST)


@register("Gemm", since=7)
def gemm(
    a: Any, b: Any, c: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Any:
    """alpha a b + beta c for matrices a and b, either transposed first; c broadcasts to the result."""
    if np.ndim(a) != 2 or np.ndim(b) != 2:
        raise Refusal(f"Gemm needs matrices, got shapes {tuple(np.shape(a))} and {tuple(np.shape(b))}")
    y = _product(a, b, 0 if transA else 1, 1 if transB else 0)
    y = y if alpha == 1.0 else (y * alpha).astype(y.dtype)
    if c is None:
        return y
    c = c.reshape((1,) * (2 - np.ndim(c)) + np.shape(c))
    return y + (c if beta == 1.0 else (c * beta).astype(c.dtype))


def _product(a: Any, b: Any, of_a: int, of_b: int) -> Any:
    """Matrix product that sums over the given axes. Nothing is transposed for it: for one picture XLA would
    take twenty times as long to write a classifier's weights out in another order as to multiply by them."""
    if is_known(a, b) or a.shape[of_a] != b.shape[of_b]:  # which `matmul` refuses
        return matmul(a if of_a else a.T, b.T if of_b else b)
    check_growth((a.shape[1 - of_a], b.shape[1 - of_b]), a.dtype)
    summed = (((of_a,), (of_b,)), ((), ()))
    return lax.dot_general(jnp.asarray(a), jnp.asarray(b), summed, precision=lax.Precision.HIGHEST)


@register("Einsum", since=12)
def einsum(*operands: Any, equation: str) -> Any:
    """Sum of products over the letters of an equation such as "bij,bjk->bik"."""
    compact = equation.replace(" ", "")
    shapes = [jax.ShapeDtypeStruct(np.shape(a), np.float32) for a in operands]
    result = jax.eval_shape(lambda *a: jnp.einsum(compact, *a), *shapes)
    check_growth(result.shape, operands[0].dtype)
    if is_known(*operands):
        return np.asarray(np.einsum(compact, *operands), operands[0].dtype)
    return jnp.einsum(compact, *(jnp.asarray(a) for a in operands), precision=lax.Precision.HIGHEST)


@register("Det", since=11)
def determinant(x: Any) -> Any:
    """Determinant of the square matrices on the last two axes."""
    if np.ndim(x) < 2 or x.shape[-1] != x.shape[-2]:
        raise Refusal(f"a tensor of shape {tuple(np.shape(x))} holds no square matrices")
    return namespace(x).asarray(namespace(x).linalg.det(x), x.dtype)
