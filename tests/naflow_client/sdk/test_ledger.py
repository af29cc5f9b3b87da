"""Laws of the book-keeping behind `explain_many`, whatever order things happen in."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import grpc
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from naflow_client import CallError, ExplainOptions, Outcome, RetryPolicy
from naflow_client._core.many import Asked, Ledger
from support.explanation_server import (
    MODEL,
    Event,
    ScriptedError,
    answer,
    come_back,
    info,
    maps,
    refusal,
    tagged,
)

ENDLESS = RetryPolicy(attempts=10_000, initial=0, maximum=0, jitter=0)
BUSY = ScriptedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", info("QUEUE_FULL"), come_back(0.001))
WRONG = ScriptedError(grpc.StatusCode.INVALID_ARGUMENT, "wrong", info("INPUT_INVALID"))
DOWN = CallError("down", status="UNAVAILABLE")
SENT = maps(1)


class Play:
    """A server and a caller that do what a list of numbers says."""

    def __init__(self, count: int, in_flight: int, order: str) -> None:
        asked = Asked.checked(MODEL, None, ExplainOptions(request_id="r"), in_flight, order)
        self.ledger = Ledger("here", asked, ENDLESS)
        self.left = count
        self.wire: dict[str, list[Event]] = {}
        self.wrong: set[int] = set()
        self.lost: set[int] = set()
        self.outcomes: list[Outcome] = []
        self.now = 0.0

    def read(self) -> None:
        """One more input, if there is room."""
        if self.left and self.ledger.room:
            x = np.zeros((1, 1, 3, 4), np.float32)
            position = self.ledger.position
            self.ledger.add(x, self.ledger.asked.request(x, position, None))
            self.left -= 1
            if not self.left:
                self.ledger.inputs_end()

    def send(self) -> None:
        """The next request goes out."""
        self.ledger.calling = True
        request = self.ledger.take(self.now)
        if request is not None:
            assert request.request_id not in self.wire, "nothing is sent twice at a time"
            self.wire[request.request_id] = tagged(answer(SENT), request.request_id)

    def reply(self, which: int) -> None:
        """The next event of one of the answers."""
        if self.wire:
            name = sorted(self.wire)[which % len(self.wire)]
            self.ledger.feed(self.wire[name].pop(0), self.now, None)
            if not self.wire[name]:
                del self.wire[name]

    def refuse(self, which: int, why: ScriptedError) -> None:
        """One request that has not begun is turned away, for now or for good."""
        fresh = [name for name, events in sorted(self.wire.items()) if len(events) == 3]
        if fresh:
            name = fresh[which % len(fresh)]
            del self.wire[name]
            if why is WRONG:
                self.wrong.add(int(name.partition("/")[2]))
            self.ledger.feed(refusal(name, why), self.now, None)

    def cut(self) -> None:
        """The call breaks."""
        self.lost |= {int(name.partition("/")[2]) for name, events in self.wire.items() if len(events) < 3}
        self.wire.clear()
        self.ledger.cut(DOWN, self.now, None)

    def hand_on(self) -> None:
        """The caller takes a part."""
        if self.ledger.parts:
            for outcome in self.ledger.gather(self.ledger.parts.popleft()):
                self.ledger.handed_on(outcome.index)
                self.outcomes.append(outcome)

    def step(self, number: int) -> None:
        self.now += 0.01
        which, kind = divmod(number, 16)
        actions: list[Any] = [
            *[self.read] * 3,
            *[self.send] * 3,
            *[lambda: self.reply(which)] * 5,
            *[self.hand_on] * 2,
            lambda: self.refuse(which, BUSY),
            lambda: self.refuse(which, WRONG),
            self.cut,
        ]
        actions[kind]()


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 8),
    in_flight=st.integers(1, 5),
    order=st.sampled_from(["input", "completion"]),
    numbers=st.lists(st.integers(0, 127), max_size=200),
)
def test_every_input_ends_once_and_as_it_should(
    count: int, in_flight: int, order: str, numbers: list[int]
) -> None:
    play = Play(count, in_flight, order)
    for number in numbers:
        play.step(number)
        read = count - play.left
        assert read - len(play.outcomes) <= in_flight
    choices = cycle(numbers or [0])
    for _ in range(count):  # from here on nothing goes wrong any more
        play.now += 1
        for _ in range(in_flight):
            play.read()
            play.send()
        while play.wire:
            play.reply(next(choices))
        while play.ledger.parts:
            play.hand_on()
    assert play.ledger.complete
    play.ledger.ended()
    assert play.ledger.over
    assert play.ledger.failure is None
    indices = [outcome.index for outcome in play.outcomes]
    assert sorted(indices) == list(range(count))
    if order == "input":
        assert indices == sorted(indices)
    for outcome in play.outcomes:
        failed = outcome.index in play.wrong | play.lost
        assert (outcome.result is None) == failed == (outcome.error is not None)
        if not failed:
            assert len(outcome.get().flows) == 1
