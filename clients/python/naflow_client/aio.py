"""The client for asyncio programs: the same names as in `naflow_client.client`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import grpc
import grpc.aio

from naflow.v1 import explanation_pb2, model_repository_pb2
from naflow_client._core import reports, requests, status
from naflow_client._core.connection import Connection
from naflow_client._core.events import Item, Session
from naflow_client._core.methods import METHODS, Deadline
from naflow_client._core.one import One
from naflow_client._core.state import StreamState, cancelled, closed
from naflow_client._core.wire import Request
from naflow_client.aio_bank_calls import AsyncBankCalls
from naflow_client.aio_many import AsyncInputs, AsyncManyStream
from naflow_client.answers import Flow, Header
from naflow_client.client import Client
from naflow_client.errors import CallError
from naflow_client.inputs import Input, Inputs, Recipe
from naflow_client.models import ModelReport, ModelStatus
from naflow_client.options import ExplainChoices, ExplainOptions
from naflow_client.outcomes import AsyncMany as Source
from naflow_client.outcomes import check_many
from naflow_client.results import Result
from naflow_client.retry import RetryPolicy
from naflow_client.security import PathLike, Tls

Opener = Callable[[Deadline], Awaitable[tuple[Request, Inputs]]]


class AsyncClient(AsyncBankCalls):
    """A connection to a server, for one event loop; the arguments are those of `Client`.

    Raises:
        ClientError: impossible settings, or a token that would go out unencrypted.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | bool = False,
        token: str | None = None,
        token_file: PathLike | None = None,
        deadline: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._connection = Connection.checked(target, tls, token, token_file, deadline, retry)
        chosen, options = self._connection.tls, self._connection.options
        if chosen is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, chosen.credentials(), options)
        self._calls = {name: method.on(self._channel) for name, method in METHODS.items()}
        self._threaded: Client | None = None
        self._gone = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is running and close the connection."""
        self._gone = True
        if self._threaded is not None:
            self._threaded.close()
        await self._channel.close()

    def explain(
        self,
        model: str,
        x: Input,
        *,
        preprocess: Recipe = None,
        deadline: float | None = None,
        **choices: Unpack[ExplainChoices],
    ) -> AsyncStream:
        """Explain pictures. The call begins when the stream is entered, read or collected.

        Args:
            model: name in the server's repository.
            x: [N, ...] as the model takes it, a mapping of such arrays by input name, a picture (file or
                Pillow image), or several pictures.
            preprocess: for pictures: "imagenet", "unit", "raw", a JSON file, a dict or `Preprocessing`.
            deadline: seconds for everything.
            choices: see `ExplainOptions`.

        Raises:
            RequestError: an option does not exist.
        """
        one = One(model, x, preprocess, ExplainOptions(**choices))

        async def prepare(limit: Deadline) -> tuple[Request, Inputs]:
            if not one.needs_report:
                return one.request(None)
            report = await self._inspect(model, choices.get("version"), {}, limit)
            return await asyncio.to_thread(one.request, report)

        seconds = self._connection.deadline if deadline is None else deadline
        return AsyncStream(self._connection, self._calls["explain"], prepare, seconds)

    def explain_many(
        self,
        model: str,
        inputs: Source,
        *,
        order: Literal["input", "completion"] = "input",
        in_flight: int = 8,
        preprocess: Recipe = None,
        deadline: float | None = None,
        **choices: Unpack[ExplainChoices],
    ) -> AsyncManyStream:
        """Explain many inputs over one call, several at a time. It begins when the stream is entered or read.

        Args:
            model: name in the server's repository.
            inputs: each as for `explain`, or `Keyed`; a mapping from names to inputs; or anything that yields
                them, which is read lazily and in another thread.
            order: outcomes come in the order of the inputs ("input") or as they are ready ("completion").
            in_flight: how many inputs are read ahead of the outcomes that were taken.
            preprocess: for pictures: "imagenet", "unit", "raw", a JSON file, a dict or `Preprocessing`.
            deadline: seconds for everything.
            choices: see `ExplainOptions`; the request id gets "/" and the position of the input at its end.

        Raises:
            RequestError: an option does not exist, or `inputs` is a single one.
        """
        check_many(inputs, ("__iter__", "__aiter__"))
        lazily = None if hasattr(inputs, "__iter__") else AsyncInputs(inputs)
        source: Any = inputs if lazily is None else lazily
        rest: Any = {**choices, "preprocess": preprocess, "deadline": deadline}
        stream = self._in_threads().explain_many(model, source, order=order, in_flight=in_flight, **rest)
        return AsyncManyStream(stream.exchange, lazily)

    async def inspect(
        self,
        model: str,
        *,
        version: str | None = None,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        output: str | None = None,
        top_feature_map: str | None = None,
        explained_input: str | None = None,
        deadline: float | None = None,
    ) -> ModelReport:
        """What would happen to a model: its inputs, layers, inverse rules and unsupported nodes.

        Args:
            input_shapes: by input name, where the model leaves sizes open.

        Raises:
            CallError: see there.
        """
        limit = self._limit(deadline)
        names = (output, top_feature_map, explained_input)
        return await self._inspect(model, version, input_shapes or {}, limit, *names)

    async def list_models(self, *, deadline: float | None = None) -> tuple[ModelStatus, ...]:
        """Every model and version of the server's repository.

        Raises:
            CallError: see there.
        """
        request = model_repository_pb2.ListModelsRequest()
        answer = await self._unary("list_models", request, self._limit(deadline))
        return tuple(reports.model_status(item) for item in answer.models)

    async def load_model(
        self, model: str, *, force: bool = False, deadline: float | None = None
    ) -> ModelStatus:
        """Load a model, or read its changed files again (`force`: also unchanged ones), and wait for the end.

        Raises:
            CallError: see there.
        """
        request = model_repository_pb2.LoadModelRequest(model_name=model, force=force)
        answer = await self._unary("load_model", request, self._limit(deadline))
        return reports.model_status(answer.model)

    async def unload_model(self, model: str, *, deadline: float | None = None) -> ModelStatus:
        """Unload all versions of a model; explanations that are running finish.

        Raises:
            CallError: see there.
        """
        request = model_repository_pb2.UnloadModelRequest(model_name=model)
        answer = await self._unary("unload_model", request, self._limit(deadline))
        return reports.model_status(answer.model)

    async def upload_model(
        self, model: str, version: str, source: PathLike | bytes, *, deadline: float | None = None
    ) -> ModelStatus:
        """Put a new version of a model into the repository. Never tried again by itself.

        Args:
            source: the ONNX file, or its content.

        Raises:
            ClientError: the file cannot be read.
            CallError: see there.
        """
        content = await asyncio.to_thread(requests.file_content, source)
        pieces = requests.upload_requests(model, version, content)
        answer = await self._unary("upload_model", pieces, self._limit(deadline))
        return reports.model_status(answer.model)

    def _in_threads(self) -> Client:
        """A client without asyncio, over a connection of its own; see `naflow_client.exchange` for why."""
        if self._gone:
            raise closed(self._connection.target)
        if self._threaded is None:
            self._threaded = Client._over(self._connection)
        return self._threaded

    async def _inspect(
        self,
        model: str,
        version: str | None,
        shapes: Mapping[str, Sequence[int]],
        limit: Deadline,
        *names: str | None,
    ) -> ModelReport:
        request = requests.inspect_request(model, version, shapes, *names)
        return reports.model_report(await self._unary("inspect", request, limit))

    def _limit(self, deadline: float | None) -> Deadline:
        return Deadline(self._connection.deadline if deadline is None else deadline)

    async def _unary(self, name: str, request: Any, limit: Deadline) -> Any:
        attempt = 1
        while True:
            try:
                metadata = self._connection.token.metadata()
                return await self._calls[name](request, timeout=limit.remaining(), metadata=metadata)
            except grpc.RpcError as failed:
                error = status.from_call(failed, self._connection.target)
                again = METHODS[name].again
                pause = self._connection.retry.pause(attempt, error, limit.remaining()) if again else None
                if pause is None:
                    raise error from failed
            except grpc.aio.UsageError as failed:
                raise closed(self._connection.target) from failed
            except asyncio.CancelledError as failed:
                if _task_is_cancelled():
                    raise
                raise cancelled(self._connection.target) from failed
            await asyncio.sleep(pause)
            attempt += 1


class AsyncStream(StreamState):
    """The answer to one `explain`: iterate with `async for` over it for flows, deepest layer first.

    Leaving the `async with` block or the loop cancels the call. Used without, it begins when it is first
    read, and reading it to the end, or `collect`, is enough.
    """

    def __init__(
        self,
        connection: Connection,
        call: Any,
        prepare: Opener,
        seconds: float | None,
    ) -> None:
        super().__init__(connection.target)
        self._connection = connection
        self._begin = call
        self._prepare = prepare
        self._seconds = seconds
        Deadline(seconds)  # refuse an impossible one here, not when the stream is read

    async def open(self) -> Self:
        """Make the call and wait for the header; done by `async with` and by reading.

        Raises:
            CallError: the server refuses, or cannot be reached in spite of retries.
            PictureError, PreprocessingError: a picture does not fit the model.
        """
        self._check_not_cancelled()
        if self._open:
            return self
        limit = Deadline(self._seconds)
        try:
            request, self._inputs = await self._prepare(limit)
            attempt = 1
            while not self._open:
                error = await self._try(request, limit)
                if error is None:
                    break
                self._check_not_cancelled()
                pause = self._connection.retry.pause(attempt, error, limit.remaining())
                if pause is None:
                    raise error
                await asyncio.sleep(pause)
                self._check_not_cancelled()
                attempt += 1
        except BaseException:
            self.cancel()
            raise
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    async def __aiter__(self) -> AsyncIterator[Flow]:
        async for item in self.events():
            if isinstance(item, Flow):
                yield item

    @property
    def header(self) -> Header:
        """What the model says and which layers will come; there once the stream is open."""
        return self._known_header()

    async def events(self) -> AsyncIterator[Item]:
        """Everything that comes after the header: flows, failed layers, signs of life, the summary.

        Raises:
            CallError: the call failed on its way, or ended without its summary (BrokenStreamError).
        """
        if self._finished:
            return
        await self.open()
        try:
            while self._early:
                yield self._early.pop(0)
            while (event := await self._next()) is not None:
                for item in self._session.feed(event):
                    yield item
            self._session.end()
            self._finished = True
        finally:
            self.cancel()

    async def collect(self) -> Result:
        """Read to the end.

        Raises:
            CallError: as `events`.
        """
        return self.result([flow async for flow in self])

    async def _try(self, request: Request, limit: Deadline) -> CallError | None:
        """One attempt to get as far as the header; returns how it failed."""
        self._session = Session(self._target)
        self._early = []
        metadata = self._connection.token.metadata()
        try:
            self._call = self._begin(request, timeout=limit.remaining(), metadata=metadata)
        except grpc.aio.UsageError as failed:
            raise closed(self._target) from failed
        while self._session.header is None:
            try:
                event = await self._next()
            except CallError as error:
                return error
            if event is None:
                self._session.end()
            else:
                items = self._session.feed(event)
                self._early += [item for item in items if not isinstance(item, Header)]
        self._check_header()
        self._open = True
        return None

    async def _next(self) -> explanation_pb2.ExplainEvent | None:
        try:
            event = await self._call.read()
        except grpc.RpcError as failed:
            raise status.from_call(failed, self._target) from failed
        except asyncio.CancelledError as failed:
            if _task_is_cancelled():
                raise
            raise cancelled(self._target) from failed
        return None if event is grpc.aio.EOF else event


def _task_is_cancelled() -> bool:
    """gRPC raises the same for the end of a call and for the end of the task that waits for it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
