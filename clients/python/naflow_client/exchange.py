"""One `explain_many` in threads: reads inputs, makes calls, reads answers.

The asyncio client uses it too. gRPC's own asyncio streams put INTERNAL over the server's status, and drop the
answers that were not read yet, when a write meets the end of the call
(https://github.com/grpc/grpc/issues/36066); that is what a server that restarts looks like.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from naflow_client._core import status
from naflow_client._core.connection import Connection
from naflow_client._core.many import Asked, Ledger
from naflow_client._core.methods import Deadline
from naflow_client._core.state import cancelled, closed
from naflow_client._core.wire import Request
from naflow_client.errors import CallError, ClientError
from naflow_client.models import ModelReport
from naflow_client.outcomes import Outcome, Part, items

WAITING_PARTS = 16
GLANCE = 0.2


class Exchange:
    """Inputs out, parts of answers in.

    Attributes:
        listener: called, from any thread, whenever something has changed.
    """

    def __init__(
        self,
        connection: Connection,
        call: Any,
        asked: Asked,
        inputs: Any,
        report: Callable[[Deadline], ModelReport],
        seconds: float | None,
        gone: threading.Event,
    ) -> None:
        self.listener: Callable[[], None] | None = None
        self._connection, self._begin, self._inputs = connection, call, inputs
        self._report, self._seconds, self._gone = report, seconds, gone
        self._ledger = Ledger(connection.target, asked, connection.retry)
        self._changed = threading.Condition()
        self._call: Any = None
        self._number = 0  # of the call; an older one's sender must end
        self._limit: Deadline | None = None
        self._stopped = self._cancelled = self._finished = False
        Deadline(seconds)  # refuse an impossible one here, not when the stream is read

    def start(self) -> Deadline:
        """Begin, unless that has been done.

        Raises:
            CallCancelledError: it was cancelled.
        """
        if self._limit is None:
            if self._cancelled:
                raise cancelled(self._connection.target)
            self._limit = Deadline(self._seconds)
            for name, work in (("inputs", self._read), ("answers", self._talk)):
                threading.Thread(target=work, name=f"naflow-{name}", daemon=True).start()
        return self._limit

    @property
    def finished(self) -> bool:
        """Whether the end has been seen."""
        return self._finished

    def poll(self) -> Part | None:
        """The next part that is there, if any; at the end, `finished` is set.

        Raises:
            CallCancelledError: it was cancelled.
            BaseException: why there is no more, when all parts are out.
        """
        with self._changed:
            if self._cancelled:
                raise cancelled(self._connection.target)
            if self._ledger.parts:
                part = self._ledger.parts.popleft()
                self._tell()
                return part
            if self._ledger.over and not self._finished:
                self._finished = True
                if self._ledger.failure is not None:
                    raise self._ledger.failure
            return None

    def wait(self) -> Part | None:
        """The next part, or None at the end; raises as `poll`."""
        if not self._finished:
            self.start()
        with self._changed:
            while (part := self.poll()) is None and not self._finished:
                self._changed.wait()
            return part

    def gather(self, part: Part) -> list[Outcome]:
        """Collect a part; what is finished with it."""
        with self._changed:
            return self._ledger.gather(part)

    def handed_on(self, index: int) -> None:
        """The caller has all of an input's answer."""
        with self._changed:
            self._ledger.handed_on(index)
            self._tell()

    def cancel(self) -> None:
        """Stop everything. Does nothing at the end."""
        with self._changed:
            self._cancelled = self._cancelled or not self._finished
            self._stopped = True
            call = self._call
            self._tell()
        if call is not None:
            call.cancel()

    def _tell(self) -> None:
        self._changed.notify_all()
        if self.listener is not None:
            self.listener()

    # In the thread that reads inputs

    def _read(self) -> None:
        failure: BaseException | None = None
        try:
            report: ModelReport | None = None
            source = items(self._inputs)
            while self._wait_for_room():
                try:
                    given = next(source)
                except StopIteration:
                    break
                pictures = self._ledger.asked.needs_report(given)
                if pictures and report is None:
                    report = self._report(self.start())
                try:
                    made: Any = self._ledger.asked.request(
                        given, self._ledger.position, report if pictures else None
                    )
                except ClientError as error:
                    made = error
                with self._changed:
                    self._ledger.add(given, made)
                    self._tell()
        except BaseException as error:  # noqa: BLE001  raised where the outcomes are read
            failure = error
        with self._changed:
            self._ledger.inputs_end(failure)
            self._tell()

    def _wait_for_room(self) -> bool:
        with self._changed:
            while not self._ledger.room and not self._stopped and not self._ledger.over:
                self._changed.wait()
            return not self._stopped and not self._ledger.over

    # In the thread that makes calls and reads answers

    def _talk(self) -> None:
        try:
            while self._wait_for_work():
                error = self._converse()
                pause = None
                with self._changed:
                    self._number += 1
                    if error is None:
                        self._ledger.ended()
                    else:
                        pause = self._ledger.cut(error, time.monotonic(), self._remaining())
                        if self._gone.is_set():
                            self._ledger.fail(error)
                    self._tell()
                if error is not None and pause is not None:
                    self._pause(pause, error)
        except BaseException as error:  # noqa: BLE001  raised where the outcomes are read
            with self._changed:
                self._number += 1
                self._ledger.fail(error)
                self._tell()
            if self._call is not None:
                self._call.cancel()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._stopped and not self._ledger.over and not self._ledger.unsent:
                self._changed.wait()
            return not self._stopped and not self._ledger.over

    def _converse(self) -> CallError | None:
        """One call; returns how it failed."""
        metadata = self._connection.token.metadata()
        try:
            with self._changed:
                call = self._begin(self._requests(self._number), timeout=self._remaining(), metadata=metadata)
                self._call, self._ledger.calling = call, True
                if self._stopped:
                    call.cancel()
        except ValueError as failed:
            raise closed(self._connection.target) from failed
        try:
            for event in call:
                with self._changed:
                    while len(self._ledger.parts) >= WAITING_PARTS and not self._stopped:
                        self._changed.wait()
                    self._ledger.feed(event, time.monotonic(), self._remaining())
                    self._tell()
        except grpc.RpcError as failed:
            return status.from_call(failed, self._connection.target)
        return None

    def _pause(self, seconds: float, error: CallError) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            while not self._stopped and (left := end - time.monotonic()) > 0:
                if self._gone.is_set():
                    self._ledger.fail(error)
                    self._tell()
                    return
                self._changed.wait(min(left, GLANCE))

    def _remaining(self) -> float | None:
        return self.start().remaining()

    # In the thread in which gRPC sends

    def _requests(self, number: int) -> Iterator[Request]:
        while True:
            with self._changed:
                while True:
                    if self._stopped or number != self._number or self._ledger.complete:
                        return
                    request = self._ledger.take(time.monotonic())
                    if request is not None:
                        break
                    self._changed.wait(self._ledger.delay(time.monotonic()))
            yield request
