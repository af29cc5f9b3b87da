"""When a call that failed before its header is tried again, and after which pause."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from naflow_client.errors import CallError, ClientError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential pauses with jitter; the server's own wish (RetryInfo) wins over a shorter pause.

    Tried again are calls that found the server unavailable (no connection, one that broke, a server that is
    shutting down), that the server cancelled, and that were turned away with the time to come back: a full
    queue, a model that is being loaded. Everything else would fail again. A stream is never tried again after
    its header.

    Attributes:
        attempts: how often a call is made in all; 1 switches retries off.
        initial: first pause in seconds.
        multiplier: by which the pause grows.
        maximum: longest pause of our own in seconds.
        longest_wish: a server that wants to be left alone for longer than this many seconds is believed,
            and the call fails at once.
        jitter: share by which a pause is lengthened at random, so that many clients do not come back at once.

    Raises:
        ClientError: an impossible value.
    """

    attempts: int = 8
    initial: float = 0.1
    multiplier: float = 2.0
    maximum: float = 5.0
    longest_wish: float = 60.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        numbers = (self.initial, self.multiplier, self.maximum, self.longest_wish, self.jitter)
        if (
            self.attempts < 1
            or not all(math.isfinite(x) and x >= 0 for x in numbers)
            or not 1 <= self.multiplier <= 100
        ):
            raise ClientError(
                f"{self} is impossible",
                "attempts is at least 1, multiplier 1 to 100, all other numbers at least 0",
            )

    def pause(
        self,
        attempt: int,
        error: CallError,
        remaining: float | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> float | None:
        """Seconds to wait before the next attempt, or None if the error is final.

        Args:
            attempt: number of the attempt that failed, from 1.
            error: how it failed.
            remaining: seconds left until the deadline; a pause that would not end before it is not begun.
            uniform: a random number from 0 to 1.
        """
        asked = error.retry_after
        # A server that begins to stop cancels the calls that it has not looked at yet.
        welcome = error.status in {"UNAVAILABLE", "CANCELLED"} or (
            error.status in {"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"} and asked is not None
        )
        if not welcome or attempt >= self.attempts or (asked is not None and asked > self.longest_wish):
            return None
        grown = min(self.maximum, self.initial * self.multiplier ** min(attempt - 1, 60))
        seconds = max(grown, asked or 0.0) * (1 + self.jitter * uniform())
        return None if remaining is not None and seconds >= remaining else seconds


NO_RETRIES = RetryPolicy(attempts=1)
