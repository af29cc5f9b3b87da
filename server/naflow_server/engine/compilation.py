"""Compiled programs: where they are kept between runs, and how many were made."""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.monitoring

from naflow_server.engine.types import Code, EngineError
from naflow_server.settings import CompilationSettings

COMPILED = "/jax/core/compile/backend_compile_duration"
CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Compilations:
    """Counts, for the whole process.

    Attributes:
        programs: that were compiled, or fetched from the cache folder.
        seconds: that took.
        cache_hits: how many of them came from the cache folder.
    """

    def __init__(self) -> None:
        self.programs, self.seconds, self.cache_hits = 0, 0.0, 0
        self._watching = False
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Count from now on; further calls change nothing."""
        with self._lock:
            if self._watching:
                return
            self._watching = True
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            with self._lock:
                self.programs += 1
                self.seconds += duration_secs

    def _on_event(self, event: str, **_: Any) -> None:
        if event == CACHE_HIT:
            with self._lock:
                self.cache_hits += 1


COMPILATIONS = Compilations()


def use_cache(settings: CompilationSettings) -> None:
    """Keep compiled programs in the configured folder.

    Raises:
        EngineError: the folder cannot be made.
    """
    if settings.cache is None:
        return
    try:
        settings.cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            Code.FAILED_PRECONDITION,
            f"compilation cache {str(settings.cache)!r} cannot be made: {error.strerror}",
            hint="name a writable folder in compilation.cache, or none",
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(settings.cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a restart compiles nothing at all
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_max_size", settings.cache_bytes)
