"""Exact nearest neighbours in blocks: memory grows with the block, not with the bank.

Candidates are found with fast arithmetic; their similarities are then computed again, one by one and in
float64, so that neither order nor numbers depend on where in a block a row happened to lie. Blocks and the
number of candidates are powers of two: a bank that grows needs another program only when it has doubled.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.targets import faiss_index
from naflow_core.targets.banks import Bank
from naflow_core.targets.metrics import Metric, pairwise

Array = Any
BACKENDS = ("jax", "faiss")
BLOCK_BYTES = 128 << 20
BLOCK_ROWS = 256  # at least, where that many fit
MARGIN = 8  # more candidates than neighbours, at least
CANDIDATES = 32  # at least
FAISS_CANDIDATES = 4096  # at most, unless more neighbours are asked for
RANKED = ("cosine", "dot", "euclidean")  # whose similarities are computed again
UNIT = float(np.finfo(np.float32).eps) / 2  # relative error of one operation


class Candidates(NamedTuple):
    """Rows that may be among the nearest, for each query.

    Attributes:
        places: [N, K] their numbers.
        values: [N, K] similarities in float32, best first.
        rest: [N] no other row is more similar than this.
    """

    places: np.ndarray
    values: np.ndarray
    rest: np.ndarray


def search(
    metric: Metric, queries: np.ndarray, bank: Bank, k: int, backend: str = "jax"
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` in a bank, by one of `BACKENDS`; both give the same. Where faiss cannot tell which rows are
    nearest, because thousands are equally near, the other one is asked.

    Raises:
        OptionError: faiss is not installed, or does not know the metric.
    """
    rows = bank.embeddings
    if backend == "jax":
        return nearest(metric, queries, rows, k)
    faiss_index.check(metric.name)
    index = bank.once(f"faiss {metric.name}", lambda: faiss_index.Index.of(metric.name, rows))
    count = min(_power(k + MARGIN), len(rows))
    while True:
        places, rest = index.candidates(queries, count)
        if count == len(rows):
            rest = np.full(len(queries), -np.inf)
        found, values, sure = _ranked(metric, queries, rows, k, places, rest)
        if sure.all():
            return found, values
        if count >= FAISS_CANDIDATES:
            return nearest(metric, queries, rows, k)
        count = min(4 * count, len(rows))


def nearest(
    metric: Metric, queries: np.ndarray, bank: np.ndarray, k: int, *, block_bytes: int = BLOCK_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar rows of a bank for each query.

    Args:
        queries: [N, C, ...] float32.
        bank: [M, C, ...] float32, k <= M.
        block_bytes: how much of the bank is on its way to or on the device, at most twice this.

    Returns:
        Indices [N, k] and similarities [N, k], best first; of equal ones the earlier row comes first.
    """
    found = _candidates(metric, queries, bank, _power(max(k + MARGIN, CANDIDATES)), block_bytes)
    if metric.name not in RANKED:
        return found.places[:, :k], found.values[:, :k]
    places, values, sure = _ranked(metric, queries, bank, k, found.places, found.rest)
    for i in np.flatnonzero(~sure):
        places[i], values[i] = _exhaustive(metric.name, queries[i], bank, k, block_bytes)
    return places, values


def _power(count: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (count - 1).bit_length()


def _candidates(
    metric: Metric, queries: np.ndarray, bank: np.ndarray, kept: int, block_bytes: int
) -> Candidates:
    """The `kept` most similar rows, or all, as float32 arithmetic has them."""
    total, row = len(bank), bank[0]
    places_of_map = row[0].size if metric.pools else 0  # each is compared with each
    most = max(1, block_bytes // max(row.nbytes, 4 * places_of_map**2))
    rows = min(max(_power(total + 1) // 2, BLOCK_ROWS), _power(most + 1) // 2)
    values = jnp.full((len(queries), kept), -jnp.inf, jnp.float32)
    places = jnp.zeros((len(queries), kept), jnp.int32)
    longest = jnp.zeros((), jnp.float32)
    for begin in range(0, total, rows):
        start = max(0, min(begin, total - rows))  # the last block overlaps: neither a new shape nor a copy
        block = bank[start : start + rows]
        if len(block) < rows:
            filler = np.ones((rows - len(block), *row.shape), row.dtype)
            block = np.concatenate([block, filler])
        values.block_until_ready()  # of the block before: no more than two are in memory
        span = np.array([start, begin - start, total - start], np.int32)
        values, places, longest = _merge(metric, queries, jnp.asarray(block), span, values, places, longest)
    count = min(kept, total)
    found, similar = np.asarray(places)[:, :count], np.asarray(values)[:, :count]
    rest = np.full(len(queries), -np.inf)
    if count < total:
        last = similar[:, -1].astype(np.float64)
        rest = last + _slack(metric.name, queries, float(longest), last)
    return Candidates(found, similar, rest)


@functools.partial(jax.jit, static_argnums=0)
def _merge(
    metric: Metric, queries: Array, block: Array, span: Array, values: Array, places: Array, longest: Array
) -> tuple[Array, Array, Array]:
    """The best so far, and the greatest length of a row so far, with those of one more block.

    Args:
        span: place of the block in the bank; its rows that are new, from and to.
    """
    start, new, end = span
    number = jnp.arange(block.shape[0])
    fresh = (number >= new) & (number < end)
    found = jnp.where(fresh, _similarities(metric, queries, block), -jnp.inf)
    lengths = jnp.linalg.norm(block.reshape(block.shape[0], -1), axis=1)
    longest = jnp.maximum(longest, jnp.max(jnp.where(fresh, lengths, 0.0)))
    best, inside = lax.top_k(found, min(values.shape[1], block.shape[0]))
    every = jnp.concatenate([values, best], axis=1)
    where = jnp.concatenate([places, inside + start], axis=1)
    kept, chosen = lax.top_k(every, values.shape[1])
    return kept, jnp.take_along_axis(where, chosen, axis=1), longest


def _similarities(metric: Metric, queries: Array, block: Array) -> Array:
    """[N, rows]; inner products as one matrix product, other metrics row by row."""
    if metric.name not in ("cosine", "dot"):
        return pairwise(metric, queries, block)
    flat, rows = (values.reshape(values.shape[0], -1) for values in (queries, block))
    product = jnp.matmul(flat, rows.T, precision=lax.Precision.HIGHEST)
    if metric.name == "dot":
        return product
    return product / (jnp.linalg.norm(flat, axis=1)[:, None] * jnp.linalg.norm(rows, axis=1))


def _slack(metric: str, queries: np.ndarray, longest: float, values: np.ndarray) -> np.ndarray:
    """[N] how much more similar a row may be than float32 arithmetic says, `values` [N]: the usual bound for
    sums of C products, each rounded."""
    flat = queries.reshape(len(queries), -1).astype(np.float64)
    error = 2 * (flat.shape[1] + 8) * UNIT
    if metric == "cosine":
        return np.full(len(flat), error)
    if metric == "dot":
        return np.asarray(error * np.linalg.norm(flat, axis=1) * longest)
    return error * np.abs(values)


def _ranked(
    metric: Metric, queries: np.ndarray, bank: np.ndarray, k: int, places: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best of candidates, in order, and for each query whether no other row can be among them.

    Args:
        places: [N, K >= k] numbers of the candidates; rest: as in `Candidates`.
    """
    found = np.zeros((len(queries), k), np.int64)
    values = np.zeros((len(queries), k), np.float32)
    for i, (query, own) in enumerate(zip(queries, places, strict=True)):
        exact = _precise(metric.name, query, bank[own])
        order = np.lexsort((own, -exact))[:k]
        found[i], values[i] = own[order], exact[order]
    return found, values, values[:, -1] > rest


def _precise(metric: str, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[M] similarities of one query [C, ...] with rows [M, C, ...], summed in float64, as float32."""
    one, others = query.reshape(-1).astype(np.float64), rows.reshape(len(rows), -1).astype(np.float64)
    if metric == "euclidean":
        return (-((others - one) ** 2).sum(axis=1)).astype(np.float32)
    products = (others * one).sum(axis=1)
    if metric == "cosine":
        products /= np.sqrt((one * one).sum()) * np.sqrt((others * others).sum(axis=1))
    return products.astype(np.float32)


def _exhaustive(
    metric: str, query: np.ndarray, bank: np.ndarray, k: int, block_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best for one query, all in float64: where more are equally near than there are candidates."""
    values, places = np.zeros(0, np.float32), np.zeros(0, np.int64)
    rows = max(1, block_bytes // (4 * bank[0].nbytes))
    for begin in range(0, len(bank), rows):
        block = bank[begin : begin + rows]
        values = np.concatenate([values, _precise(metric, query, block)])
        places = np.concatenate([places, np.arange(begin, begin + len(block))])
        order = np.lexsort((places, -values))[:k]
        values, places = values[order], places[order]
    return places, values
