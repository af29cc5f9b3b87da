"""Picking, placing and ordering single elements: indices as data, running sums, triangles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops import ranges
from naflow_core.ops.array import (
    check_growth,
    integers,
    is_known,
    namespace,
    normalise_axes,
    normalise_axis,
    scalar,
)
from naflow_core.ops.elementwise import is_floating
from naflow_core.ops.registry import register
from naflow_core.ops.shape import cut, pad


def _wrapped(indices: Any, length: int) -> Any:
    """Negative positions counted from the end."""
    return namespace(indices).where(indices < 0, indices + length, indices)


# Picking -------------------------------------------------------------------------------------------


@register("GatherND", since=12, value_range=ranges.keep)
def gather_nd(x: Any, indices: Any, *, batch_dims: int = 0) -> Any:
    """Slices of x at positions given by the last axis of the indices, after `batch_dims` common axes."""
    known = is_known(x, indices)
    x, indices = (x, indices) if known else (jnp.asarray(x), jnp.asarray(indices))
    depth = indices.shape[-1]
    if batch_dims + depth > x.ndim or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise Refusal(f"indices of shape {indices.shape} do not fit a tensor of shape {x.shape}")
    check_growth((*indices.shape[:-1], *x.shape[batch_dims + depth :]), x.dtype)
    rank = indices.ndim - 1
    own = [
        np.arange(x.shape[axis]).reshape([-1 if a == axis else 1 for a in range(rank)])
        for axis in range(batch_dims)
    ]
    picked = [_wrapped(indices[..., i], x.shape[batch_dims + i]) for i in range(depth)]
    return x[tuple(own + picked)]


@register("Compress", since=9, static=(1,), value_range=ranges.keep)
def compress(x: Any, condition: Any, *, axis: int | None = None) -> Any:
    """Slices of x along an axis (elements of the flattened x without one) where the condition holds."""
    flat = x.reshape(-1) if axis is None else x
    position = 0 if axis is None else normalise_axis(axis, flat.ndim)
    kept = np.flatnonzero(np.asarray(condition)[: flat.shape[position]])
    return namespace(flat).take(flat, kept, axis=position)


@register("ReverseSequence", since=10, static=(1,), value_range=ranges.keep)
def reverse_sequence(x: Any, lengths: Any, *, batch_axis: int = 1, time_axis: int = 0) -> Any:
    """Along the time axis, the first `lengths[i]` elements of batch entry i in reverse order."""
    if {batch_axis, time_axis} != {0, 1}:
        raise Refusal(f"batch_axis {batch_axis} and time_axis {time_axis} are not 0 and 1")
    steps, ends = np.arange(x.shape[time_axis]), np.asarray(integers(lengths))[:, None]
    order = np.where(steps < ends, ends - 1 - steps, steps)
    order = (order if batch_axis == 0 else order.T).reshape(x.shape[:2] + (1,) * (x.ndim - 2))
    return namespace(x).take_along_axis(x, order, axis=time_axis)


@register("NonZero", since=9, static=(0,))
def non_zero(x: Any) -> np.ndarray:
    """Positions of the elements that are not 0, [rank, count]: only where x is a constant."""
    found = np.nonzero(np.atleast_1d(np.asarray(x)))
    positions: np.ndarray = np.stack(found).astype(np.int64)
    return positions


@register("Unique", since=11, static=(0,))
def unique(x: Any, *, axis: int | None = None, sorted: int = 1) -> tuple[np.ndarray, ...]:  # noqa: A002
    """Different values (or slices) of a constant, first positions, which one each is, and how many."""
    values, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first, kind="stable")
        values = np.take(values, order, axis=0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], np.argsort(order)[inverse]
    return values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


@register("TopK", since=11, static=(1,), value_range=ranges.keep)
def top_k(x: Any, k: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Any, Any]:  # noqa: A002
    """The k largest (or smallest) values along one axis, best first, and their positions.

    Of equal values the one with the lower position comes first.
    """
    axis, count = normalise_axis(axis, np.ndim(x)), int(scalar(k, "k"))
    if not 0 <= count <= x.shape[axis]:
        raise Refusal(f"k = {count} lies outside an axis of length {x.shape[axis]}")
    if is_known(x):
        ranked = (x if x.dtype.kind == "f" else x.astype(np.int64)) * (-1 if largest else 1)
        order = np.take(np.argsort(ranked, axis=axis, kind="stable"), np.arange(count), axis=axis)
        return np.take_along_axis(x, order, axis), order.astype(np.int64)
    last = jnp.moveaxis(x, axis, -1)
    _, best = lax.top_k(lax.stop_gradient(last if largest else -last), count)
    values = jnp.take_along_axis(last, best, axis=-1)
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(best, -1, axis).astype(jnp.int32)


# Placing -------------------------------------------------------------------------------------------

_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _place(data: Any, where: tuple[Any, ...], updates: Any, reduction: str) -> Any:
    """The data with the updates put (or added, ...) at positions given axis by axis."""
    if reduction != "none" and reduction not in _NUMPY:
        raise Refusal(f"reduction {reduction!r} is not one of none, {', '.join(_NUMPY)}")
    if is_known(data, updates, *where):
        result = np.array(data)
        if reduction == "none":
            result[where] = updates
        else:
            _NUMPY[reduction](result, where, updates)
        return result
    data, updates = jnp.asarray(data), jnp.asarray(updates)
    updates = updates.astype(data.dtype)
    if reduction == "none":
        return data.at[where].set(updates)
    if reduction == "add":
        return data.at[where].add(updates)
    update = {"mul": "multiply", "max": "max", "min": "min"}[reduction]
    held = lax.stop_gradient(data)
    result = getattr(held.at[where], update)(lax.stop_gradient(updates))
    return _with_slopes(data, where, updates, result, reduction) if is_floating(data) else result


def _with_slopes(
    data: jax.Array, where: tuple[Any, ...], updates: jax.Array, result: jax.Array, reduction: str
) -> jax.Array:
    """The result, a constant so far, made to depend on data and updates by its partial derivatives there.

    JAX has none for these reductions. Where several operands of a maximum are equal, the data win, then all
    updates share; a factor of 0 gets no derivative.
    """
    held, given = lax.stop_gradient(data), lax.stop_gradient(updates)
    seen = result[where]
    if reduction == "mul":
        by_data = jnp.ones_like(held).at[where].multiply(given)
        by_updates = jnp.where(given == 0, 0.0, seen / jnp.where(given == 0, 1.0, given))
    else:
        wins = held == result
        by_data = wins.astype(data.dtype)
        hits = ((given == seen) & ~wins[where]).astype(data.dtype)
        shared = jnp.zeros_like(held).at[where].add(hits)
        by_updates = hits / jnp.maximum(shared[where], 1.0)
    return (
        result + by_data * (data - held) + jnp.zeros_like(held).at[where].add(by_updates * (updates - given))
    )


@register("ScatterElements", since=11, value_range=None)
def scatter_elements(data: Any, indices: Any, updates: Any, *, axis: int = 0, reduction: str = "none") -> Any:
    """The data with single elements replaced: position along `axis` from the indices, elsewhere their own."""
    axis = normalise_axis(axis, np.ndim(data))
    indices = indices if is_known(indices) else jnp.asarray(indices)
    where = [np.asarray(grid) for grid in np.indices(np.shape(indices), sparse=True)]
    return _place(
        data,
        tuple(where[:axis]) + (_wrapped(indices, np.shape(data)[axis]),) + tuple(where[axis + 1 :]),
        updates,
        reduction,
    )


@register("ScatterND", since=11)
def scatter_nd(data: Any, indices: Any, updates: Any, *, reduction: str = "none") -> Any:
    """The data with slices replaced at positions given by the last axis of the indices."""
    depth = indices.shape[-1]
    where = tuple(_wrapped(indices[..., i], np.shape(data)[i]) for i in range(depth))
    return _place(data, where, updates, reduction)


# Running along an axis -----------------------------------------------------------------------------


def _running(name: str, x: Any, axis: Any, start: float, exclusive: int, reverse: int) -> Any:
    xp = namespace(x)
    along = normalise_axis(int(scalar(axis, "axis")), np.ndim(x))
    x = xp.flip(x, along) if reverse else x
    y = getattr(xp, name)(x, axis=along).astype(x.dtype)
    if exclusive:
        shape = list(x.shape)
        shape[along] = min(1, shape[along])
        first = xp.full(shape, start, x.dtype)
        y = xp.concatenate([first, cut(y, {along: (0, max(x.shape[along] - 1, 0), 1)})], axis=along)
    return xp.flip(y, along) if reverse else y


@register("CumSum", since=11, static=(1,))
def cumulative_sum(x: Any, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Any:
    """Sum of all elements up to each one along an axis, from the end with `reverse`."""
    return _running("cumsum", x, axis, 0, exclusive, reverse)


@register("CumProd", since=26, static=(1,))
def cumulative_product(x: Any, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Any:
    """Product of all elements up to each one along an axis, from the end with `reverse`."""
    return _running("cumprod", x, axis, 1, exclusive, reverse)


# Parts ---------------------------------------------------------------------------------------------


@register("Trilu", since=14, static=(1,), value_range=ranges.keep_with_zero)
def triangle(x: Any, k: Any = None, *, upper: int = 1) -> Any:
    """The upper or lower triangle of the last two axes, from the k-th diagonal; 0 elsewhere."""
    xp = namespace(x)
    diagonal = 0 if k is None else int(scalar(k, "k"))
    return xp.triu(x, diagonal) if upper else xp.tril(x, diagonal)


@register("CenterCropPad", since=18, static=(1,), value_range=ranges.keep_with_zero)
def centre_crop_pad(x: Any, target: Any, *, axes: Any = None) -> Any:
    """x cut or filled up with 0 around its centre to the target lengths of the given axes."""
    chosen = normalise_axes(axes if axes is not None else range(np.ndim(x)), np.ndim(x))
    lengths = integers(target)
    if len(lengths) != len(chosen):
        raise Refusal(f"{len(lengths)} lengths are given for {len(chosen)} axes")
    cuts, before, after = {}, [], []
    for axis, wanted in zip(chosen, lengths, strict=True):
        n = x.shape[axis]
        start = (n - wanted) // 2 if wanted < n else 0
        cuts[axis] = (start, start + min(wanted, n), 1)
        missing = max(wanted - n, 0)
        before.append(missing // 2)
        after.append(missing - missing // 2)
    return pad(cut(x, cuts), np.array(before + after, np.int64), None, np.array(chosen, np.int64))
