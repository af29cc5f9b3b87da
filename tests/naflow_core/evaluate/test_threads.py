"""Several threads give what one gives, in order; whoever stops does not wait for the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import jax
import pytest

from naflow_core.evaluate import threads
from naflow_core.evaluate.threads import side_by_side


def test_results_come_in_order_whatever_ends_first() -> None:
    second = threading.Event()

    def work(item: int) -> Iterator[tuple[int, int]]:
        if item == 0:
            assert second.wait(30)  # so the next one is worked on at the same time
        yield item, 0
        if item == 1:
            second.set()
        yield item, 1

    assert list(side_by_side(work, range(4))) == [(item, i) for item in range(4) for i in (0, 1)]


def test_an_error_comes_in_its_items_turn() -> None:
    def work(item: int) -> Iterator[int]:
        if item == 1:
            raise ValueError("one")
        yield item

    found = side_by_side(work, range(3))
    assert next(found) == 0
    with pytest.raises(ValueError, match="one"):
        next(found)


def test_nothing_new_is_begun_after_a_stop() -> None:
    begun, first = [], threading.Event()

    def work(item: int) -> Iterator[int]:
        begun.append(item)
        yield item
        if item > 0:
            first.wait(30)
            for _ in range(1_000_000):
                yield item
            raise AssertionError("worked on to the end")

    found = side_by_side(work, range(100))
    assert next(found) == 0
    threading.Timer(0.1, first.set).start()
    found.close()  # type: ignore[attr-defined]
    assert len(begun) <= 1 + threads.THREADS
    assert not [t for t in threading.enumerate() if t.name.startswith("naflow-evaluate")]


def test_threads_compute_on_the_callers_device() -> None:
    device = jax.devices("cpu")[0]

    def work(_: int) -> Iterator[object]:
        yield jax.config.jax_default_device  # type: ignore[attr-defined]

    with jax.default_device(device):
        assert list(side_by_side(work, range(2))) == [device, device]
