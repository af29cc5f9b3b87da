"""What stands between a compute thread and a reader: finished events, in order, and not too many."""

from __future__ import annotations

from collections import deque
from itertools import islice

from naflow_server.engine.types import Event, LayerFlow


class EventQueue:
    """A bounded queue of events. Not safe between threads: the call that owns it holds a lock.

    Args:
        events: that may wait.
        gathered: bytes of the maps at its head that a reader takes for one message. They are part of that
            message already and do not count as waiting: handing small maps over one by one takes longer than
            computing them. 0 for a reader that takes events one by one.
    """

    def __init__(self, events: int, gathered: int = 0) -> None:
        self._most, self._gathered = events, gathered
        self._events: deque[Event] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def full(self) -> bool:
        """Whether the computation must pause."""
        if len(self._events) < self._most:
            return False
        last = islice(reversed(self._events), self._most - 1)
        return self._bytes - sum(map(_bytes, last)) > self._gathered

    @property
    def worth_taking(self) -> bool:
        """Whether a reader that waits for several maps should come: it is half full, so that the computation
        goes on while they are sent, or something is in it that is no map."""
        if 2 * len(self._events) >= self._most and 2 * self._bytes >= self._gathered:
            return True
        return not all(isinstance(event, LayerFlow) for event in self._events)

    def put(self, *events: Event) -> None:
        """Add events at the end, even to a full queue."""
        self._events.extend(events)
        self._bytes += sum(map(_bytes, events))

    def take(self) -> Event | None:
        """The first event, or None."""
        if not self._events:
            return None
        event = self._events.popleft()
        self._bytes -= _bytes(event)
        return event

    def take_flows(self, room: int) -> list[LayerFlow]:
        """The maps that come first, as many as have up to `room` bytes together."""
        taken: list[LayerFlow] = []
        while self._events and isinstance(event := self._events[0], LayerFlow):
            room -= _bytes(event)
            if room < 0:
                break
            self.take()
            taken.append(event)
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._events.clear()
        self._bytes = 0


def _bytes(event: Event) -> int:
    return event.flow.map.nbytes if isinstance(event, LayerFlow) else 1  # nothing comes for nothing
