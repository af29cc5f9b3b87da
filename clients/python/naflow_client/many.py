"""Many inputs over one call, for programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from naflow_client.exchange import Exchange
from naflow_client.outcomes import Outcome, Part


class ManyStream:
    """The answers to one `explain_many`: iterate over it for an `Outcome` of each input.

    Leaving the `with` block or the loop cancels the call. The inputs are read in a thread of their own, never
    more than `in_flight` ahead of the outcomes that were taken.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def __enter__(self) -> Self:
        self.exchange.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Outcome]:
        exchange = self.exchange
        try:
            while (part := exchange.wait()) is not None:
                for outcome in exchange.gather(part):
                    exchange.handed_on(outcome.index)
                    yield outcome
        finally:
            self.cancel()

    def events(self) -> Iterator[Part]:
        """Everything as it comes, of all inputs in turn; nothing is collected.

        Raises:
            ClientError: the call failed for good; what was unanswered has come back with that error before.
        """
        try:
            while (part := self.exchange.wait()) is not None:
                if part.last:
                    self.exchange.handed_on(part.index)
                yield part
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop the work on the server and read no more inputs. Does nothing to a stream that has ended."""
        self.exchange.cancel()
