"""Many inputs over one call: what was read, sent, answered and handed on."""

from __future__ import annotations

import dataclasses
import uuid
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from naflow.v1 import explanation_pb2
from naflow_client._core import requests
from naflow_client._core.events import Session
from naflow_client._core.one import build
from naflow_client._core.targets import Aim, check_answer
from naflow_client._core.wire import Request
from naflow_client.answers import Flow, Header, Summary
from naflow_client.errors import BrokenStreamError, CallError, ClientError, RequestError, UnsupportedError
from naflow_client.inputs import Input, Inputs, Recipe, holds_pictures
from naflow_client.models import ModelReport
from naflow_client.options import ExplainOptions
from naflow_client.outcomes import Keyed, Outcome, Part
from naflow_client.results import Result
from naflow_client.retry import RetryPolicy

MOST_IN_FLIGHT = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """What all inputs of a call share.

    Attributes:
        aim: the similarity that is explained, if one is.
        in_flight: inputs that are read but not yet handed on as outcomes, at most.
        ordered: whether outcomes come in the order of the inputs.
    """

    model: str
    preprocess: Recipe
    options: ExplainOptions
    aim: Aim
    in_flight: int
    ordered: bool

    @classmethod
    def checked(
        cls, model: str, preprocess: Recipe, options: ExplainOptions, in_flight: int, order: str
    ) -> Asked:
        """From the arguments of `explain_many`.

        Raises:
            RequestError: one of them is impossible.
        """
        requests.method(options)
        requests.layers(options.layers)
        if order not in ("input", "completion"):
            raise RequestError(f"order {order!r} does not exist", "one of input, completion", field="order")
        requests.whole(in_flight, "in_flight", 1, MOST_IN_FLIGHT)
        named = dataclasses.replace(options, request_id=options.request_id or uuid.uuid4().hex)
        aim = Aim(options.target, preprocess)
        return cls(model, preprocess, named, aim, in_flight, order == "input")

    def needs_report(self, given: Input | Keyed) -> bool:
        """Whether the model has to be asked what it takes."""
        return self.aim.needs_report or holds_pictures(given.x if isinstance(given, Keyed) else given)

    def request(self, given: Input | Keyed, index: int, report: ModelReport | None) -> tuple[Request, Inputs]:
        """The request for the input at position `index`.

        Raises:
            ClientError: the input cannot be read, or cannot be sent.
        """
        x = given.x if isinstance(given, Keyed) else given
        own = dataclasses.replace(self.options, request_id=f"{self.options.request_id}/{index}")
        return build(self.model, x, self.preprocess, own, self.aim, report)


@dataclass(slots=True, eq=False)
class Entry:
    """One input on its way.

    Attributes:
        session: the state of its answer.
        attempts: how often the server was asked and answered, the refusals included.
        due: when it may be sent, in seconds of the caller's clock.
        flows: those that have come, while they are collected.
    """

    index: int
    key: Hashable
    request: Request
    inputs: Inputs
    session: Session
    attempts: int = 0
    due: float = 0.0
    flows: list[Flow] = field(default_factory=list)


class Ledger:
    """The inputs that have been read and not been handed on. Not safe between threads by itself.

    An input whose answer has not got as far as its header when the call breaks, or that the server turns
    away for now, is sent again; any other failure is that input's own, or, if the call cannot be made
    again, that of all inputs.

    Attributes:
        parts: what has come and was not handed on yet.
        failure: raised once the parts are out.
        calling: whether a call is open.
    """

    def __init__(self, target: str, asked: Asked, retry: RetryPolicy) -> None:
        self.parts: deque[Part] = deque()
        self.failure: BaseException | None = None
        self.calling = False
        self.asked = asked
        self._target, self._retry = target, retry
        self._open: dict[int, Entry | None] = {}  # read and not handed on; None: has no request
        self._unsent: list[Entry] = []
        self._wire: dict[str, Entry] = {}
        self._ignored: set[str] = set()
        self._inputs_ended = False
        self._over = False
        self._cuts = 0
        self._held: dict[int, Outcome] = {}
        self._read = self._next = 0

    # Inputs

    @property
    def room(self) -> bool:
        """Whether another input may be read."""
        return len(self._open) < self.asked.in_flight

    @property
    def position(self) -> int:
        """Of the next input."""
        return self._read

    def add(self, given: Any, made: tuple[Request, Inputs] | ClientError) -> None:
        """An input has been read: its request, or why there is none."""
        index, self._read = self._read, self._read + 1
        key = given.key if isinstance(given, Keyed) else index
        if isinstance(made, ClientError):
            self._open[index] = None
            self.parts.append(Part(index, key, made))
            return
        entry = Entry(index, key, *made, Session(self._target))
        self._open[index] = entry
        if self._over:
            self.parts.append(Part(index, key, self._as_answer(self.failure)))
        else:
            self._unsent.append(entry)

    def inputs_end(self, failure: BaseException | None = None) -> None:
        """No more will be read; `failure` is raised when what was read is answered."""
        self._inputs_ended = True
        self.failure = self.failure or failure
        self._over = self._over or (self.complete and not self.calling)

    # The call

    @property
    def unsent(self) -> bool:
        """Whether a call is needed."""
        return bool(self._unsent)

    @property
    def complete(self) -> bool:
        """Whether nothing more will be sent."""
        return self._inputs_ended and not self._unsent and not self._wire

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._over

    def take(self, now: float) -> Request | None:
        """The next request to send, if one is due."""
        for place, entry in enumerate(self._unsent):
            if entry.due <= now:
                del self._unsent[place]
                entry.attempts += 1
                self._wire[entry.request.request_id] = entry
                return entry.request
        return None

    def delay(self, now: float) -> float | None:
        """Seconds until a request is due; None if there is none."""
        return max(0.0, min(entry.due for entry in self._unsent) - now) if self._unsent else None

    def feed(self, event: explanation_pb2.ExplainEvent, now: float, remaining: float | None) -> None:
        """Take the next event of the call.

        Raises:
            BrokenStreamError: it belongs to no input.
        """
        entry = self._wire.get(event.request_id)
        if entry is None:
            if event.request_id in self._ignored:
                return
            raise BrokenStreamError(
                f"{self._target}: the stream is broken: an event for request {event.request_id!r}, "
                "which is not waiting for one",
                "try again",
            )
        try:
            items = entry.session.feed(event)
            for item in items:
                if isinstance(item, Header):
                    check_answer(item, entry.inputs)
        except (BrokenStreamError, UnsupportedError) as error:
            self._ignored.add(event.request_id)  # the rest of its answer may still come
            self._answer(entry, error)
            return
        except CallError as error:
            pause = self._retry.pause(entry.attempts, error, remaining)
            if entry.session.header is not None or pause is None:
                self._answer(entry, error)
            else:
                del self._wire[event.request_id]
                self._again(entry, now + pause)
            return
        for item in items:
            if isinstance(item, Header):
                self._cuts = 0
            if isinstance(item, Summary):
                del self._wire[event.request_id]
            self.parts.append(Part(entry.index, entry.key, item))

    def ended(self) -> None:
        """The call has ended without an error."""
        self.calling = False
        self._over = self._over or self.complete
        if self._wire:
            self.fail(
                BrokenStreamError(
                    f"{self._target}: the stream is broken: it ended without {len(self._wire)} answers",
                    "what came before is sound; try again",
                )
            )

    def cut(self, error: CallError, now: float, remaining: float | None) -> float | None:
        """The call has failed. Seconds after which to make it again, or None if that is final."""
        self.calling = False
        if self.complete:  # every answer is there; how the call ended does not matter any more
            self._over = True
            return None
        if not self._wire and not self._unsent and error.status in {"UNAVAILABLE", "CANCELLED"}:
            return 0.0  # nothing was lost, and nobody waits
        self._cuts += 1
        pause = self._retry.pause(self._cuts, error, remaining)
        if pause is None:
            self.fail(error)
            return None
        for entry in list(self._wire.values()):
            if entry.session.header is not None:
                self._answer(entry, error)
            else:
                entry.attempts -= 1  # the call failed, not this input
                self._again(entry, now)
        self._wire.clear()
        self._ignored.clear()
        self._over = self.complete
        return None if self._over else pause

    def fail(self, error: BaseException) -> None:
        """The end: what has no answer is answered with the error, which is raised after that."""
        self.failure, self.calling = self.failure or error, False
        own = self._as_answer(error)
        for entry in [*self._wire.values(), *self._unsent]:
            self.parts.append(Part(entry.index, entry.key, own))
        self._wire.clear()
        self._unsent.clear()
        self._over = True

    # The caller

    def handed_on(self, index: int) -> None:
        """The caller has all of an input's answer."""
        del self._open[index]

    def gather(self, part: Part) -> list[Outcome]:
        """Collect a part; what is finished with it, in the order that was asked for."""
        entry = self._open[part.index]
        if isinstance(part.item, Flow):
            assert entry is not None, "flows come for inputs that were sent"
            entry.flows.append(part.item)
        if not part.last:
            return []
        if isinstance(part.item, ClientError):
            outcome = Outcome(part.index, part.key, None, part.item)
        else:
            assert entry is not None, "a summary comes for inputs that were sent"
            outcome = Outcome(part.index, part.key, _result(entry), None)
        if not self.asked.ordered:
            return [outcome]
        self._held[part.index] = outcome
        found = []
        while self._next in self._held:
            found.append(self._held.pop(self._next))
            self._next += 1
        return found

    def _answer(self, entry: Entry, error: ClientError) -> None:
        self._wire.pop(entry.request.request_id, None)
        self.parts.append(Part(entry.index, entry.key, error))

    def _again(self, entry: Entry, due: float) -> None:
        entry.session, entry.due = Session(self._target), due
        self._unsent.append(entry)
        self._unsent.sort(key=lambda other: other.index)

    def _as_answer(self, failure: BaseException | None) -> ClientError:
        return failure if isinstance(failure, ClientError) else ClientError(f"{self._target}: {failure}")


def _result(entry: Entry) -> Result:
    session = entry.session
    assert session.header is not None, "a summary comes after its header"
    assert session.summary is not None, "a result is made when the summary is there"
    ordered = tuple(sorted(entry.flows, key=lambda flow: flow.index))
    return Result(session.header, ordered, tuple(session.failures), session.summary, entry.inputs)
