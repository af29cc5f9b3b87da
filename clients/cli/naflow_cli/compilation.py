"""Where compiled programs are kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Keep what XLA compiles in a folder of the user, so that a second run starts at once.

    NAFLOW_COMPILATION_CACHE names another folder, or is "off". JAX's own setting, where given, is respected.
    """
    wanted = os.environ.get("NAFLOW_COMPILATION_CACHE", "")
    if wanted == "off" or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = Path(wanted) if wanted else _user_cache() / "naflow" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home is no reason to fail: every run compiles then
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_max_size", 1 << 30)


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
