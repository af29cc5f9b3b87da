"""Bank search: exact down to the order of equals, few programs, and faiss where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naflow_core as nf
from naflow_core.targets import search, voting
from naflow_core.targets.aim import Space
from naflow_core.targets.search import nearest
from support.embedding_networks import embedding_network, pictures

METRICS = ("cosine", "dot", "euclidean")
COMPILED = "/jax/core/compile/backend_compile_duration"
needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="faiss is not installed (pip install 'naflow[faiss]')"
)


class Encoder:
    """A model as bank targets know it."""

    sha256 = "1" * 64

    def embed(self, x: Any, **_: Any) -> np.ndarray:
        raise AssertionError("nothing is embedded here")


SPACE = Space(Encoder(), "e", (12,), None)


def bank_of(rows: np.ndarray, labels: int = 3) -> nf.Bank:
    return nf.Bank(rows, [f"l{i % labels}" for i in range(len(rows))], Encoder.sha256)


def expected(metric: str, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted in plain float64; equal ones in the order of the bank."""
    q, r = (values.reshape(len(values), -1).astype(np.float64) for values in (queries, rows))
    if metric == "euclidean":
        table = -((q[:, None] - r[None]) ** 2).sum(axis=2)
    else:
        table = (q[:, None] * r[None]).sum(axis=2)
        if metric == "cosine":
            table /= np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(r, axis=1)
    table = table.astype(np.float32)
    order = np.argsort(-table, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(table, order, axis=1)


def with_ties(random: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Rows of which many are equal, at places far apart."""
    different = random.normal(size=(max(1, count // 3), width)).astype(np.float32)
    return different[random.integers(len(different), size=count)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.sampled_from([1, 7, 31, 300]),
    k=st.sampled_from([1, 5, 20]),
    metric=st.sampled_from(METRICS),
    block=st.sampled_from([16, 64, 4096]),
)
def test_order_is_that_of_float64(seed: int, count: int, k: int, metric: str, block: int) -> None:
    random = np.random.default_rng(seed)
    rows, queries = with_ties(random, count, 12), random.normal(size=(3, 12)).astype(np.float32)
    k = min(k, count)
    places, values = nearest(
        nf.metrics.REGISTRY.find(metric), queries, rows, k, block_bytes=block * rows[0].nbytes
    )
    wanted, similar = expected(metric, queries, rows, k)
    assert places.tolist() == wanted.tolist()
    np.testing.assert_array_equal(values, similar)


@pytest.mark.parametrize("metric", METRICS)
def test_more_equals_than_candidates(metric: str) -> None:
    """The first ones, as in the bank; candidates alone could not tell."""
    random = np.random.default_rng(0)
    rows = np.repeat(random.normal(size=(1, 12)).astype(np.float32), 600, axis=0)
    rows[5] *= -1
    places, _ = nearest(nf.metrics.REGISTRY.find(metric), rows[:1], rows, 8)
    assert places[0].tolist() == [0, 1, 2, 3, 4, 6, 7, 8]


@pytest.fixture
def compiled() -> Iterator[Callable[[], int]]:
    """How many programs JAX has compiled since."""
    seen: list[str] = []

    def heard(event: str, duration: float, **_: Any) -> None:
        if event == COMPILED:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    yield lambda: len(seen)
    jax.monitoring.unregister_event_duration_listener(heard)


@pytest.mark.parametrize("metric", METRICS)
def test_a_bank_that_grows_compiles_for_its_doublings(metric: str, compiled: Callable[[], int]) -> None:
    """From 1 to 50 embeddings one by one, each time a question: the programs of the first serve for all."""
    random, space = np.random.default_rng(1), Space(Encoder(), "e", (13,), None)  # a width of its own
    rows, query = random.normal(size=(50, 13)).astype(np.float32), np.ones((1, 13), np.float32)
    counts = []
    for count in range(1, 51):
        nf.BankTarget(bank_of(rows[:count]), metric=metric).bind(space).aim(query)
        counts.append(compiled())
    assert 2 <= counts[0] <= 8  # one to search, one to measure, small ones that fill arrays
    assert counts[-1] == counts[0]


def test_a_larger_bank_doubles_before_it_compiles() -> None:
    random, metric = np.random.default_rng(2), nf.metrics.REGISTRY.find("cosine")
    rows = random.normal(size=(2000, 12)).astype(np.float32)
    nearest(metric, rows[:1], rows[:1], 1)
    before = search._merge._cache_size()
    for count in range(257, 2000, 83):
        nearest(metric, rows[:1], rows[:count], 1)
    assert search._merge._cache_size() - before <= 2  # 512 and 1024 rows; 256 are there


def test_blocks_bound_what_is_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    put = search.jnp.asarray
    monkeypatch.setattr(search.jnp, "asarray", lambda block: (sent.append(block.nbytes), put(block))[1])
    rows = np.random.default_rng(3).normal(size=(5000, 12)).astype(np.float32)
    limit = 1000 * rows[0].nbytes
    places, _ = nearest(nf.metrics.REGISTRY.find("dot"), rows[:2], rows, 9, block_bytes=limit)
    assert max(sent) <= limit
    assert sum(sent) < rows.nbytes + limit
    assert places.tolist() == expected("dot", rows[:2], rows, 9)[0].tolist()


def test_pools_of_descriptors_are_bounded_by_their_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place is compared with each: that table counts, not the embedding."""
    shapes: list[tuple[int, ...]] = []
    put = search.jnp.asarray
    monkeypatch.setattr(search.jnp, "asarray", lambda block: (shapes.append(block.shape), put(block))[1])
    maps = np.random.default_rng(4).normal(size=(40, 2, 8, 8)).astype(np.float32)
    nearest(nf.metrics.REGISTRY.find("image-to-class"), maps[:1], maps, 3, block_bytes=10 * 4 * 64**2)
    assert {shape[0] for shape in shapes} == {8}


def test_a_bank_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    check = voting.check_vectors

    def counted(vectors: np.ndarray, metric: Any, what: str) -> None:
        checked.append(what)
        check(vectors, metric, what)

    monkeypatch.setattr(voting, "check_vectors", counted)
    bank = bank_of(np.random.default_rng(5).normal(size=(9, 12)).astype(np.float32))
    for _ in range(3):
        nf.BankTarget(bank).bind(SPACE)
    assert len(checked) == 1
    nf.BankTarget(bank, metric="euclidean").bind(SPACE)  # which takes zero vectors: another question
    nf.BankTarget(bank, metric="dot").bind(SPACE)
    assert len(checked) == 2


def test_a_bad_bank_stays_refused() -> None:
    bad = bank_of(np.zeros((2, 12), np.float32))
    for _ in range(2):
        with pytest.raises(nf.TargetError, match="number 0 is the zero vector"):
            nf.BankTarget(bad).bind(SPACE)
    assert nf.BankTarget(bad, metric="euclidean").bind(SPACE).k == 2


def test_backend_is_named() -> None:
    bank = bank_of(np.ones((2, 12), np.float32))
    with pytest.raises(nf.OptionError, match=r"search 'annoy' does not exist \(use jax or faiss\)"):
        nf.BankTarget(bank, search="annoy")
    with pytest.raises(nf.OptionError, match="faiss does not know the metric 'image-to-class'"):
        nf.BankTarget(bank, search="faiss", metric="image-to-class")


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(nf.OptionError, match=r"not installed \(pip install 'naflow\[faiss\]'"):
        nf.BankTarget(bank_of(np.ones((2, 12), np.float32)), search="faiss")


@needs_faiss
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("queries", [1, 30])  # faiss computes many distances another way
def test_faiss_finds_the_same_in_the_same_order(metric: str, queries: int) -> None:
    random, kind = np.random.default_rng(6), nf.metrics.REGISTRY.find(metric)
    rows, asked = with_ties(random, 3000, 12), random.normal(size=(queries, 12)).astype(np.float32)
    bank = bank_of(rows)
    for k in (1, 20, 3000):
        wanted = search.search(kind, asked, bank, k)
        found = search.search(kind, asked, bank, k, "faiss")
        assert found[0].tolist() == wanted[0].tolist()
        np.testing.assert_array_equal(found[1], wanted[1])


@needs_faiss
def test_thousands_equally_near_are_not_left_to_faiss() -> None:
    rows = np.ones((9000, 12), np.float32)
    places, _ = search.search(nf.metrics.REGISTRY.find("dot"), rows[:1], bank_of(rows), 3, "faiss")
    assert places.tolist() == [[0, 1, 2]]


@needs_faiss
def test_explained_by_faiss() -> None:
    model = nf.load(embedding_network("neck"))
    rows = model.embed(pictures(10, seed=1))
    bank = nf.Bank(rows, list("aabbccaabb"), model.sha256)
    found = [
        model.explain(pictures(2), nf.BankTarget(bank, k=4, search=name), layers="top").collect()
        for name in search.BACKENDS
    ]
    np.testing.assert_array_equal(found[0].flows[-1].map, found[1].flows[-1].map)
    assert found[0].prediction.similarity.neighbours == found[1].prediction.similarity.neighbours
