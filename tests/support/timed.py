"""For tests with a bound on seconds: a busy machine may miss it once, a defect misses it every time."""

from __future__ import annotations

import pytest

timed = pytest.mark.flaky(reruns=3, reruns_delay=1)
