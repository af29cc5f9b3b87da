"""How tests compile: most of their time is XLA's."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import jax
import pytest

OLDER_LOOPS = "--xla_cpu_use_fusion_emitters=false"
"""XLA's older way to write loops for a CPU compiles in half the time. The product uses it for most of its
programs (`naflow_core.compiled`), tests use it for all."""


def pytest_configure(config: pytest.Config) -> None:
    """Compile the older way in this process. Processes that tests start compile as the product does."""
    if not _is_known(config):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {OLDER_LOOPS}".strip())
        jax.devices()  # XLA reads its flags once


def _is_known(config: pytest.Config) -> bool:
    """Whether this version of XLA has the flag; one that does not know it ends its process."""
    name = f"xla/{importlib.metadata.version('jaxlib')}/knows_older_loops"
    known = config.cache and config.cache.get(name, None)
    if known is None:
        asked = subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices()"],
            env={**os.environ, "XLA_FLAGS": OLDER_LOOPS},
            capture_output=True,
            check=False,
        )
        known = asked.returncode == 0
        if config.cache:
            config.cache.set(name, known)
    return bool(known)
