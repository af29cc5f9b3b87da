"""Bounds on seconds in tests: a busy machine may miss one once, a defect misses it every time."""

from __future__ import annotations

import pytest


class TooSlowError(AssertionError):
    """Nothing was wrong but the time."""


timed = pytest.mark.flaky(reruns=3, reruns_delay=1, only_rerun=["^TooSlowError"])
"""For tests that call `within`; whatever else fails in them fails at once."""


def within(measured: float, bound: float) -> None:
    """Fail as `TooSlowError` unless `measured` is below `bound`."""
    if not measured < bound:
        raise TooSlowError(f"{measured:.3f}, must be below {bound:.3f}")
