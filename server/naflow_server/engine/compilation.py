"""Compiled programs: where they are kept between runs, and how many were made."""

from __future__ import annotations

import jax

from naflow_core.measure import Compilations
from naflow_server.engine.types import Code, EngineError
from naflow_server.sections import CompilationSettings


class ProcessCompilations(Compilations):
    """Counts from the first `watch` to the end of the process."""

    def __init__(self) -> None:
        super().__init__()
        self._watching = False

    def watch(self) -> None:
        """Count from now on; further calls change nothing."""
        with self._lock:
            if self._watching:
                return
            self._watching = True
        self.__enter__()


COMPILATIONS = ProcessCompilations()


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
