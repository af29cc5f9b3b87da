"""What every call passes through: authentication, admission, request ids, statuses, logs, drain."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from naflow_server.auth import HEADER, Tokens
from naflow_server.convert import LONGEST_ID
from naflow_server.engine.types import Code, EngineError
from naflow_server.errors import CODES, abort, plain_status, status_of, unexpected_status
from naflow_server.metrics import Metrics
from naflow_server.tracing import Trace, Tracing, end_call

LOG = logging.getLogger(__name__)
ID_KEY = "x-request-id"
HEALTH = "/grpc.health.v1.Health/"
RETRY_SECONDS = 1.0


@dataclass(eq=False)
class Call:
    """One open call.

    Attributes:
        rpc: full method name.
        id: the caller's x-request-id, or one made here; returned in the trailing metadata.
        deadline: in `time.monotonic()` seconds, or None.
        evicted: whether the server ends it because it stops.
        span: of the call, or None where it is not traced.
    """

    rpc: str
    id: str
    peer: str
    deadline: float | None
    task: asyncio.Task[Any]
    began: float = field(default_factory=time.monotonic)
    code: grpc.StatusCode = grpc.StatusCode.OK
    evicted: bool = False
    span: Trace | None = None


CURRENT: ContextVar[Call] = ContextVar("call")  # the call that a servicer method is in


@dataclass(frozen=True)
class Malformed:
    """Stands for a message whose bytes are not its type's."""


class Calls(grpc.aio.ServerInterceptor):
    """Interceptor around every method of the server.

    Health is open to everybody and never counted, so that it answers however busy the server is.

    Attributes:
        closing: set when no new work is taken: open ExplainStream calls read no further requests.
    """

    def __init__(self, tokens: Tokens, most: int, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._tokens, self._most, self._metrics, self._tracing = tokens, most, metrics, tracing
        self._open: set[Call] = set()
        self._tasks: set[asyncio.Task[Any]] = set()  # those that grpc runs calls in
        self._idle = asyncio.Event()
        self._idle.set()
        self.closing = asyncio.Event()

    async def wait_idle(self, seconds: float) -> bool:
        """Whether all calls ended within that time (health aside)."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return self._idle.is_set()

    async def wait_settled(self, seconds: float) -> None:
        """Give grpc's own tasks of all calls that time to end. They read the request before a handler and
        write the status after it; on a server that has stopped both still unwind."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
            await asyncio.sleep(0)  # and those that wait for them

    def evict(self) -> int:
        """End all open calls with UNAVAILABLE; how many there were."""
        for call in self._open:
            call.evicted = True
            call.task.cancel()
        return len(self._open)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The method's handler with everything around it, or one that refuses without reading a message."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        handler = await continuation(details)
        if handler is None or details.method.startswith(HEALTH):
            return handler
        metadata = dict(details.invocation_metadata)
        given = str(metadata.get(ID_KEY, ""))
        usable = 0 < len(given) <= LONGEST_ID and given.isascii() and given.isprintable()
        call_id = given if usable else uuid.uuid4().hex
        if not self._tokens.accept(metadata.get(HEADER)):
            return self._refusing(
                details.method,
                plain_status(
                    grpc.StatusCode.UNAUTHENTICATED,
                    "no valid bearer token (send the metadata `authorization: Bearer TOKEN`)",
                    "unauthenticated",
                    call_id,
                ),
                call_id,
            )
        if len(self._open) >= self._most:
            return self._refusing(
                details.method,
                plain_status(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the server has {self._most} open calls already",
                    "too_many_calls",
                    call_id,
                    RETRY_SECONDS,
                ),
                call_id,
            )
        return self._guarded(handler, details.method, call_id)

    def _refusing(self, rpc: str, status: Any, call_id: str) -> grpc.RpcMethodHandler:
        name = next(code.name for code in grpc.StatusCode if code.value[0] == status.code)

        async def refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
            self._metrics.call(rpc, name, 0.0)
            end_call(self._span(rpc, call_id, context), name, status.code)
            facts = {"rpc": rpc, "request_id": call_id, "code": name, "peer": context.peer()}
            LOG.info("call refused", extra=facts)
            await abort(context, status, ((ID_KEY, call_id),))

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _guarded(self, handler: Any, rpc: str, call_id: str) -> grpc.RpcMethodHandler:
        """The handler with the same types and serialisers; bad bytes become `Malformed`."""
        behaviour = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )

        async def guarded(request: Any, context: grpc.aio.ServicerContext) -> Any:
            async with self._entered(rpc, call_id, context):
                checked = _checked_stream(request) if handler.request_streaming else _checked(request)
                if not handler.response_streaming:
                    return await behaviour(checked, context)
                if not inspect.isasyncgenfunction(behaviour):
                    return await behaviour(checked, context)
                # Writing here, not yielding, lets a cancelled call close the generator at once.
                async with contextlib.aclosing(behaviour(checked, context)) as responses:
                    begun = False
                    async for response in responses:
                        if not begun:
                            # On their own: headers that still wait with the first message to be taken would
                            # keep a status out.
                            begun = True
                            await context.send_initial_metadata(())
                        await context.write(response)
            return None

        make = getattr(
            grpc,
            f"{'stream' if handler.request_streaming else 'unary'}_"
            f"{'stream' if handler.response_streaming else 'unary'}_rpc_method_handler",
        )
        parse = handler.request_deserializer
        return make(guarded, lambda raw: _parsed(parse, raw), handler.response_serializer)

    @contextlib.asynccontextmanager
    async def _entered(
        self, rpc: str, call_id: str, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Call]:
        """Count the call, end it with the right status, and log how it went."""
        task = asyncio.current_task()
        assert task is not None
        left = context.time_remaining()
        deadline = None if left is None else time.monotonic() + left
        call = Call(rpc, call_id, context.peer(), deadline, task)
        call.span = self._span(rpc, call_id, context)
        self._open.add(call)
        self._idle.clear()
        self._metrics.open_calls.set(len(self._open))
        CURRENT.set(call)
        context.set_trailing_metadata(((ID_KEY, call_id),))
        try:
            yield call
        except asyncio.CancelledError:
            if call.evicted:
                task.uncancel()
                call.code = grpc.StatusCode.UNAVAILABLE
                stopping = plain_status(
                    call.code, "the server is shutting down", "shutting_down", call_id, RETRY_SECONDS
                )
                await abort(context, stopping, ((ID_KEY, call_id),))
            late = deadline is not None and time.monotonic() >= deadline - 0.002
            call.code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except EngineError as error:
            call.code = CODES[error.code]
            await abort(context, status_of(error, call_id), ((ID_KEY, call_id),))
        except grpc.aio.InternalError:  # what a write to a connection that is gone ends with
            call.code = grpc.StatusCode.CANCELLED
        except Exception:
            call.code = grpc.StatusCode.INTERNAL
            LOG.exception("unexpected error", extra={"rpc": rpc, "request_id": call_id})
            await abort(context, unexpected_status(call_id), ((ID_KEY, call_id),))
        finally:
            self._left(call)

    def _span(self, rpc: str, call_id: str, context: grpc.aio.ServicerContext) -> Trace | None:
        if self._tracing is None:
            return None
        return self._tracing.call(rpc, dict(context.invocation_metadata()), call_id)

    def _left(self, call: Call) -> None:
        self._open.discard(call)
        if not self._open:
            self._idle.set()
        self._metrics.open_calls.set(len(self._open))
        seconds = time.monotonic() - call.began
        self._metrics.call(call.rpc, call.code.name, seconds)
        end_call(call.span, call.code.name, call.code.value[0])
        LOG.info(
            "call",
            extra={
                "rpc": call.rpc,
                "request_id": call.id,
                "code": call.code.name,
                "seconds": round(seconds, 6),
                "peer": call.peer,
            },
        )


def _parsed(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return parse(raw)
    except DecodeError:
        return Malformed()


def _checked(message: Any) -> Any:
    if isinstance(message, Malformed):
        raise EngineError(
            Code.INVALID_ARGUMENT,
            "the request is not a valid protobuf message of its type",
            hint="use stubs made from naflow/v1/*.proto",
            reason="message_malformed",
        )
    return message


async def _checked_stream(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _checked(message)
