"""Exact nearest neighbours in blocks: memory grows with the block, not with the bank."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.targets.metrics import Metric, pairwise

Array = Any
BLOCK_BYTES = 128 << 20


def nearest(
    metric: Metric, queries: np.ndarray, bank: np.ndarray, k: int, *, block_bytes: int = BLOCK_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar rows of a bank for each query.

    Args:
        queries: [N, C, ...] float32.
        bank: [M, C, ...] float32, k <= M.
        block_bytes: how much of the bank is on the device at a time.

    Returns:
        Indices [N, k] and similarities [N, k], best first; of equal ones the earlier row comes first.
    """
    rows = max(k, min(len(bank), block_bytes // max(1, bank[0].nbytes)))
    values = jnp.full((len(queries), k), -jnp.inf)
    places = jnp.zeros((len(queries), k), jnp.int32)
    for begin in range(0, len(bank), rows):
        block = bank[begin : begin + rows]
        count = len(block)
        if count < rows:  # the same shape again, so that nothing is compiled for the rest
            block = np.concatenate([block, np.ones((rows - count, *block.shape[1:]), block.dtype)])
        values, places = _merge(metric, queries, jnp.asarray(block), count, begin, values, places)
    return np.asarray(places), np.asarray(values)


@functools.partial(jax.jit, static_argnums=0)
def _merge(
    metric: Metric, queries: Array, block: Array, count: int, begin: int, values: Array, places: Array
) -> tuple[Array, Array]:
    found = _similarities(metric, queries, block)
    number = jnp.arange(block.shape[0])
    found = jnp.where(number < count, found, -jnp.inf)
    best, inside = lax.top_k(found, values.shape[1])
    every = jnp.concatenate([values, best], axis=1)
    where = jnp.concatenate([places, inside + begin], axis=1)
    kept, chosen = lax.top_k(every, values.shape[1])
    return kept, jnp.take_along_axis(where, chosen, axis=1)


def _similarities(metric: Metric, queries: Array, block: Array) -> Array:
    """[N, rows]; inner products as one matrix product, other metrics row by row."""
    if metric.name not in ("cosine", "dot"):
        return pairwise(metric, queries, block)
    flat, rows = (values.reshape(values.shape[0], -1) for values in (queries, block))
    product = jnp.matmul(flat, rows.T, precision=lax.Precision.HIGHEST)
    if metric.name == "dot":
        return product
    return product / (jnp.linalg.norm(flat, axis=1)[:, None] * jnp.linalg.norm(rows, axis=1))
