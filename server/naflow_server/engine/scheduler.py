"""Who computes when: bounded queues by model, one compute thread for each device, and turns between jobs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from naflow_server.engine.call import Call
from naflow_server.engine.job import Explaining, Job
from naflow_server.engine.programs import ProgramLimit
from naflow_server.engine.types import Code, EngineError
from naflow_server.sections import LimitSettings

log = logging.getLogger("naflow_server.engine")
RELEASE_AFTER = 0.5
"""Seconds after which an explanation that waits for its reader gives its activations back."""
KEEP_WAITING = 4
"""Explanations on one device that may wait with their activations in memory."""
LONGEST_SLEEP = 0.5


@dataclass
class Parked:
    """A job that waits for a reader."""

    job: Job
    since: float
    released: bool = False


@dataclass
class Worker:
    """A compute thread: jobs that are computed in turns, and those that wait for a reader."""

    index: int
    device: Any
    active: deque[Job] = field(default_factory=deque)
    parked: list[Parked] = field(default_factory=list)
    computing: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is. `waiting`: calls that are not yet computed, by model; `active` and `stalled`:
    jobs in turn and jobs that wait for a reader; `calls`: in all states."""

    waiting: dict[str, int]
    active: int
    stalled: int
    calls: int


class Scheduler:
    """Takes calls and computes them. All methods may be called from any thread.

    Args:
        devices: one compute thread each.
        limits: of queues and open calls.
        window: seconds for which the first call of a batch waits for others.
        together: see `BatchingSettings`.
        programs: bounds what is compiled.
    """

    def __init__(
        self,
        devices: Sequence[Any],
        limits: LimitSettings,
        window: float,
        together: bool,
        programs: ProgramLimit,
    ) -> None:
        self._limits, self._programs = limits, programs
        self._window, self._together = window, together
        self._condition = threading.Condition()
        self._pending: OrderedDict[str, deque[Call]] = OrderedDict()
        self._open: set[Call] = set()
        self._extra: list[deque[Job]] = [deque() for _ in devices]
        self._workers = [Worker(i, device) for i, device in enumerate(devices)]
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._seconds = 1.0  # running mean of what one call takes

    def start(self) -> None:
        """Start the compute threads."""
        for worker in self._workers:
            thread = threading.Thread(
                target=self._run, args=(worker,), name=f"naflow-compute-{worker.index}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    # Callers' side

    def admit(self, call: Call) -> None:
        """Take a call into account, before it is submitted.

        Raises:
            EngineError: RESOURCE_EXHAUSTED, too many calls wait or are open.
        """
        name = call.request.model
        with self._condition:
            waiting = sum(1 for c in self._open if c.request.model == name and not c.started)
            if waiting >= self._limits.queue:
                raise self._full(f"{waiting} requests wait for model {name!r} already", waiting)
            if len(self._open) >= self._limits.calls:
                raise self._full(f"{len(self._open)} requests are open already", len(self._open))
            self._open.add(call)
            call.on_settled = self._settled
            call.on_room = self._room

    def submit(self, call: Call) -> None:
        """Queue an admitted call whose model is loaded."""
        with self._condition:
            if self._closed:
                call.settle(stopping())
            if not call.settled:
                self._pending.setdefault(call.request.model, deque()).append(call)
                self._condition.notify_all()

    def add(self, job: Job, device: int) -> None:
        """Compute something else in turn, on one device."""
        with self._condition:
            if self._closed:
                job.settle(stopping())
                return
            self._extra[device].append(job)
            self._condition.notify_all()

    def load(self) -> Load:
        """How busy the engine is."""
        with self._condition:
            waiting: dict[str, int] = {}
            for call in self._open:
                if not call.started:
                    waiting[call.request.model] = waiting.get(call.request.model, 0) + 1
            active = sum(len(w.active) + w.computing for w in self._workers)
            return Load(waiting, active, sum(len(w.parked) for w in self._workers), len(self._open))

    def open_calls(self) -> list[Call]:
        """Calls that are not settled."""
        with self._condition:
            return list(self._open)

    def close(self, timeout: float) -> bool:
        """End every call and stop the threads. False if a thread was still inside a layer after `timeout`
        seconds (it ends with that layer)."""
        with self._condition:
            self._closed = True
            for call in list(self._open):
                call.settle(stopping())
            for worker, extra in zip(self._workers, self._extra, strict=True):
                for job in [*worker.active, *extra]:
                    job.settle(stopping())
            self._condition.notify_all()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _full(self, message: str, ahead: int) -> EngineError:
        seconds = min(60.0, max(0.1, self._seconds * ahead / (2 * len(self._workers))))
        return EngineError(
            Code.RESOURCE_EXHAUSTED,
            message,
            hint="try again later",
            retry_after=round(seconds, 3),
            reason="queue_full",
        )

    def _settled(self, call: Call) -> None:
        with self._condition:
            self._open.discard(call)
            queue = self._pending.get(call.request.model)
            if queue is not None and call in queue:
                queue.remove(call)
            self._condition.notify_all()

    def _room(self, call: Call) -> None:
        del call
        with self._condition:
            self._condition.notify_all()

    # Compute threads

    def _run(self, worker: Worker) -> None:
        several = len(self._workers) > 1 or worker.device != jax.devices()[0]
        with jax.default_device(worker.device) if several else contextlib.nullcontext():
            while (job := self._next(worker)) is not None:
                began = time.monotonic()
                with self._programs.turn():
                    following = job.turn()
                now = time.monotonic()
                with self._condition:
                    worker.computing = False
                    self._keep(worker, following, now)
                    if not following and isinstance(job, Explaining):
                        self._seconds += 0.2 * (job.seconds - self._seconds)
                log.debug("turn of %s took %.3f s", type(job).__name__, now - began)
                del job, following  # a finished job's activations go now, not at the next turn

    def _keep(self, worker: Worker, jobs: Sequence[Job], now: float) -> None:
        """What is left to do goes on in turn, or waits for its reader."""
        for job in jobs:
            if self._closed:
                job.settle(stopping())
            elif job.ready(now):
                worker.active.append(job)
            else:
                worker.parked.append(Parked(job, now))

    def _next(self, worker: Worker) -> Job | None:
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                self._sweep(worker, now)
                if len(worker.active) < self._limits.active:
                    if self._extra[worker.index]:
                        worker.active.append(self._extra[worker.index].popleft())
                    elif group := self._take(now):
                        worker.active.appendleft(Explaining.of(group, worker.index, self._together))
                if worker.active:
                    worker.computing = True
                    return worker.active.popleft()
                self._condition.wait(self._sleep(worker, now))
            return None

    def _sweep(self, worker: Worker, now: float) -> None:
        """End what is out of time, wake what has room, and take memory back from what waits."""
        for call in [call for queue in self._pending.values() for call in queue]:
            call.expired(now)
        waiting = []
        for parked in worker.parked:
            for call in parked.job.waits_for:
                if not call.expired(now):
                    self._check_stalled(call, now - parked.since)
            if parked.job.ready(now):
                worker.active.append(parked.job)
            else:
                waiting.append(parked)
        worker.parked = waiting
        held = [parked for parked in waiting if not parked.released]
        for i, parked in enumerate(held):
            if now - parked.since >= RELEASE_AFTER or len(held) - i > KEEP_WAITING:
                parked.job.release()
                parked.released = True

    def _check_stalled(self, call: Call, seconds: float) -> None:
        limit = self._limits.stalled_seconds
        if limit is not None and seconds >= limit:
            call.settle(
                EngineError(
                    Code.RESOURCE_EXHAUSTED,
                    f"the reader took no event for {limit:g} s",
                    hint="read the stream as it comes, or cancel it",
                    reason="reader_stalled",
                )
            )

    def _take(self, now: float) -> list[Call]:
        """The next call with all that can be computed with it, or nothing where a batch is still open for
        others. Models take turns."""
        for name in list(self._pending):
            queue = self._pending[name]
            if not queue:
                del self._pending[name]
                continue
            first = queue[0]
            group, pictures = [first], first.pictures
            if first.batch_key is not None:
                for call in list(queue)[1:]:
                    if call.batch_key == first.batch_key and pictures + call.pictures <= first.batch_pictures:
                        group.append(call)
                        pictures += call.pictures
                if pictures < first.batch_pictures and now - first.admitted < self._window:
                    continue
            for call in group:
                queue.remove(call)
                call.started = True
            self._pending.move_to_end(name)
            return group
        return []

    def _sleep(self, worker: Worker, now: float) -> float:
        """Until a batch closes, a waiting job gives its memory back or a deadline passes; others notify."""
        moments = [now + LONGEST_SLEEP]
        for queue in self._pending.values():
            moments += [call.admitted + self._window for call in queue]
            moments += [call.request.deadline for call in queue if call.request.deadline is not None]
        if any(not parked.released for parked in worker.parked):
            moments.append(now + 0.02)
        return max(0.001, min(moments) - now)


def stopping() -> EngineError:
    """What calls get that the server cannot finish before it stops."""
    return EngineError(
        Code.UNAVAILABLE, "the server is shutting down", hint="try another replica", reason="draining"
    )
