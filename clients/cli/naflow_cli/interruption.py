"""Interruption by a signal, heeded even where Python drops the exception that stands for it.

An exception that is raised while a destructor or a library's callback runs is printed and forgotten. So it is
raised once more a little later, and not printed there. A signal leaves a mark as well, which is looked at
before results are handed over.

While a module is being imported the exception has to wait: native modules abort the process at one, or say
that they cannot be initialised.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

IMPORTING = "<frozen importlib._bootstrap>"
AGAIN_SECONDS = 0.05

_asked = threading.Event()


def heed_signals() -> None:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt. Only the main thread can ask for that."""
    _asked.clear()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        if not isinstance(sys.unraisablehook, _AllButInterruptions):
            sys.unraisablehook = _AllButInterruptions(sys.unraisablehook)


def end_at_signals() -> None:
    """From now on SIGINT and SIGTERM end the process without a word: it has nothing left to clear away."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal has come since `heed_signals`."""
    if _asked.is_set():
        raise KeyboardInterrupt


class _AllButInterruptions:
    """Reports exceptions that cannot be raised as before, but for an interruption, which comes again."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._before(unraisable)
        elif _asked.is_set():
            _again()


def _interrupt(_signal: int, frame: FrameType | None) -> None:
    _asked.set()
    if not (_importing(frame) and _again()):
        raise KeyboardInterrupt


def _again() -> bool:
    """Interrupt once more in a moment; False where the platform has no timer or the thread may not ask."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
    return True


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != IMPORTING:
        frame = frame.f_back
    return frame is not None
