"""Reductions over axes, and ArgMax and ArgMin."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.ops import ranges
from naflow_core.ops.array import is_known, namespace, normalise_axes, normalise_axis
from naflow_core.ops.elementwise import absolute, square_root
from naflow_core.ops.registry import RangeRule, register

Axes = tuple[int, ...]


def _first_maximum(x: jax.Array, axes: Axes) -> jax.Array:
    """Boolean, shape of x: the first maximum (row-major) over the axes."""
    others = tuple(a for a in range(x.ndim) if a not in axes)
    order = others + axes
    moved = x.transpose(order)
    flat = moved.reshape(moved.shape[: len(others)] + (-1,))
    winner = jnp.argmax(flat, axis=-1, keepdims=True)
    mask = lax.broadcasted_iota(winner.dtype, flat.shape, flat.ndim - 1) == winner
    return mask.reshape(moved.shape).transpose(np.argsort(order))


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def max_over(x: jax.Array, axes: Axes, keepdims: bool) -> jax.Array:
    """Maximum over axes; where several are equal the derivative goes to the first, as in MaxPool."""
    return jnp.max(x, axis=axes, keepdims=keepdims)


@max_over.defjvp
def _max_over_jvp(axes: Axes, keepdims: bool, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    y_dot = jnp.sum(jnp.where(_first_maximum(x, axes), x_dot, 0.0), axis=axes, keepdims=keepdims)
    return max_over(x, axes, keepdims), y_dot


def _of_nothing(x: Any, axes: Axes, keepdims: bool, sign: int) -> Any:
    """The reduction over an axis without cells: what no value of the type lies below (sign 1: above)."""
    value: Any = sign * math.inf
    if x.dtype == np.bool_:
        value = sign > 0
    elif jnp.issubdtype(x.dtype, jnp.integer):
        value = jnp.iinfo(x.dtype).max if sign > 0 else jnp.iinfo(x.dtype).min
    lengths = enumerate(x.shape)
    shape = [1 if a in axes else n for a, n in lengths if keepdims or a not in axes]
    return namespace(x).full(shape, value, x.dtype)


def _maximum(x: Any, axes: Axes, keepdims: bool) -> Any:
    if 0 in x.shape:
        return _of_nothing(x, axes, keepdims, -1)
    floating = not is_known(x) and jnp.issubdtype(x.dtype, jnp.floating)
    return max_over(x, axes, keepdims) if floating else namespace(x).max(x, axis=axes, keepdims=keepdims)


def _minimum(x: Any, axes: Axes, keepdims: bool) -> Any:
    if 0 in x.shape:
        return _of_nothing(x, axes, keepdims, 1)
    floating = not is_known(x) and jnp.issubdtype(x.dtype, jnp.floating)
    return -max_over(-x, axes, keepdims) if floating else namespace(x).min(x, axis=axes, keepdims=keepdims)


def _mean(x: Any, axes: Axes, keepdims: bool) -> Any:
    return namespace(x).mean(x, axis=axes, keepdims=keepdims)


def _sum(x: Any, axes: Axes, keepdims: bool) -> Any:
    return namespace(x).sum(x, axis=axes, keepdims=keepdims)


def _product(x: Any, axes: Axes, keepdims: bool) -> Any:
    return namespace(x).prod(x, axis=axes, keepdims=keepdims)


def _l1(x: Any, axes: Axes, keepdims: bool) -> Any:
    return _sum(absolute(x), axes, keepdims)


def _l2(x: Any, axes: Axes, keepdims: bool) -> Any:
    return square_root(_sum(x * x, axes, keepdims))


def _sum_square(x: Any, axes: Axes, keepdims: bool) -> Any:
    return _sum(x * x, axes, keepdims)


def _log_sum(x: Any, axes: Axes, keepdims: bool) -> Any:
    return namespace(x).log(_sum(x, axes, keepdims))


def _log_sum_exp(x: Any, axes: Axes, keepdims: bool) -> Any:
    if 0 in x.shape:
        return _of_nothing(x, axes, keepdims, -1)
    xp = namespace(x)
    peak = xp.max(x, axis=axes, keepdims=True)
    peak = xp.where(xp.isfinite(peak), peak, xp.zeros_like(peak))
    peak = peak if is_known(x) else lax.stop_gradient(peak)
    y = xp.log(_sum(xp.exp(x - peak), axes, True)) + peak
    return y if keepdims else xp.squeeze(y, axis=axes)


def _add(
    op_type: str,
    function: Callable[[Any, Axes, bool], Any],
    value_range: RangeRule | None = None,
    *,
    since: int = 18,
) -> None:
    @register(op_type, since=since, static=(1,), value_range=value_range)
    def reduction(x: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        rank = np.ndim(x)
        if axes is None or np.size(axes) == 0:
            if noop_with_empty_axes:
                # Only the reduction is left out, not the function applied to each element.
                return function(x[..., None], (rank,), False).astype(x.dtype)
            axes = range(rank)
        return function(x, normalise_axes(axes, rank), bool(keepdims)).astype(x.dtype)

    reduction.__name__ = op_type


def _non_negative(inputs: Any, attributes: Any) -> tuple[float, float]:
    return 0.0, math.inf


_add("ReduceMean", _mean, ranges.keep)
_add("ReduceMax", _maximum, ranges.keep)
_add("ReduceMin", _minimum, ranges.keep)
_add("ReduceSum", _sum, since=13)
_add("ReduceProd", _product)
_add("ReduceL1", _l1, _non_negative)
_add("ReduceL2", _l2, _non_negative)
_add("ReduceSumSquare", _sum_square, _non_negative)
_add("ReduceLogSum", _log_sum)
_add("ReduceLogSumExp", _log_sum_exp)


def _position(name: str, x: Any, axis: int, keepdims: int, select_last_index: int) -> Any:
    xp = namespace(x)
    axis = normalise_axis(axis, np.ndim(x))
    found = getattr(xp, name)(
        xp.flip(x, axis) if select_last_index else x, axis=axis, keepdims=bool(keepdims)
    )
    if select_last_index:
        found = x.shape[axis] - 1 - found
    return found.astype(np.int64) if is_known(x) else found.astype(jnp.int32)


@register("ArgMax", since=13)
def arg_max(x: Any, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
    """Position of the maximum along one axis; the first of equal ones unless asked otherwise."""
    return _position("argmax", x, axis, keepdims, select_last_index)


@register("ArgMin", since=13)
def arg_min(x: Any, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
    """Position of the minimum along one axis; the first of equal ones unless asked otherwise."""
    return _position("argmin", x, axis, keepdims, select_last_index)
