"""Work on several threads at once, its results in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

Item = TypeVar("Item")
Found = TypeVar("Found")

THREADS = 2
"""While one waits for a run of the network, the other prepares the next: more would only need more memory."""


def side_by_side(work: Callable[[Item], Iterable[Found]], items: Sequence[Item]) -> Iterator[Found]:
    """What `work` finds for one item after another, in their order; `THREADS` items are worked on at once.

    An error is raised where its item's results would have come. Whoever stops in the middle waits only until
    the items that are being worked on have found one thing more.
    """
    stopped = threading.Event()
    # the caller's, which other threads do not inherit; mypy does not see what JAX adds to its config
    device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]

    def all_of(item: Item) -> list[Found]:
        found = []
        with jax.default_device(device):
            for each in work(item):
                if stopped.is_set():
                    break
                found.append(each)
        return found

    with ThreadPoolExecutor(THREADS, "naflow-evaluate") as pool:
        futures = [pool.submit(all_of, item) for item in items]
        try:
            for future in futures:
                yield from future.result()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
