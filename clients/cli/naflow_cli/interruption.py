"""Interruption by a signal, heeded even where Python drops the exception that stands for it.

An exception that is raised while a destructor or a library's callback runs is printed and forgotten. So a
signal leaves a mark as well, which is looked at before results are handed over.
"""

from __future__ import annotations

import signal
import threading

_asked = threading.Event()


def heed_signals() -> None:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt. Only the main thread can ask for that."""
    _asked.clear()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal has come since `heed_signals`."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: object) -> None:
    _asked.set()
    raise KeyboardInterrupt
