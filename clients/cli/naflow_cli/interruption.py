"""Interruption by a signal, heeded even where Python drops the exception that stands for it.

An exception that is raised while a destructor or a library's callback runs is printed and forgotten. So a
signal leaves a mark as well, which is looked at before results are handed over, and is not printed there.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

_asked = threading.Event()


def heed_signals() -> None:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt. Only the main thread can ask for that."""
    _asked.clear()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        if not isinstance(sys.unraisablehook, _AllButInterruptions):
            sys.unraisablehook = _AllButInterruptions(sys.unraisablehook)


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal has come since `heed_signals`."""
    if _asked.is_set():
        raise KeyboardInterrupt


class _AllButInterruptions:
    """Reports exceptions that cannot be raised as before, but for an interruption, which has its mark."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._before(unraisable)


def _interrupt(_signal: int, _frame: object) -> None:
    _asked.set()
    raise KeyboardInterrupt
