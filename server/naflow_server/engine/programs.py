"""A bound on the compiled programs that are held in memory."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

log = logging.getLogger("naflow_server.engine")


class ProgramLimit:
    """Drops every compiled program when there are more than `most`; those still needed are compiled again, or
    come back from the cache folder.

    Compute threads take each turn inside `turn()`. Programs are dropped by the thread whose turn ends last,
    while no other turn runs and none begins: never in the middle of one, on any thread.

    Args:
        most: programs, None for no limit.
        made: how many programs this process has made so far.
        drop: drops them.
    """

    def __init__(self, most: int | None, made: Callable[[], int], drop: Callable[[], None]) -> None:
        self._most, self._made, self._drop = most, made, drop
        self._condition = threading.Condition()
        self._turns = 0
        self._due = False
        self._gone = 0
        self.drops = 0

    @property
    def held(self) -> int:
        """Programs in memory, counted since the last drop."""
        return max(0, self._made() - self._gone)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Around a turn; waits while programs are dropped or about to be."""
        with self._condition:
            while self._due:
                self._condition.wait()
            self._turns += 1
        try:
            yield
        finally:
            with self._condition:
                self._turns -= 1
                self._due = self._due or (self._most is not None and self.held > self._most)
                if self._due and not self._turns:
                    self._drop_all()

    def _drop_all(self) -> None:
        try:
            held = self.held
            self._drop()
            self._gone = self._made()
            self.drops += 1
            log.info("compiled programs are dropped from memory", extra={"programs": held})
        finally:
            self._due = False
            self._condition.notify_all()
