"""How many programs are compiled."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import jax.monitoring

COMPILED = "/jax/core/compile/backend_compile_duration"
CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Compilations:
    """Counts compilations while a `with` block runs, on all threads.

    Attributes:
        programs: that were compiled, or fetched from JAX's persistent cache.
        hits: how many of them came from the cache.
        seconds: that took, summed over threads.
    """

    def __init__(self) -> None:
        self.programs, self.hits, self.seconds = 0, 0, 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            with self._lock:
                self.programs += 1
                self.seconds += duration_secs

    def _on_event(self, event: str, **_: Any) -> None:
        if event == CACHE_HIT:
            with self._lock:
                self.hits += 1
