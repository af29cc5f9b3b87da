"""The client for programs without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import grpc

from naflow.v1 import explanation_pb2, model_repository_pb2
from naflow_client._core import reports, requests, status
from naflow_client._core.connection import Connection
from naflow_client._core.events import Item, Session
from naflow_client._core.many import Asked
from naflow_client._core.methods import METHODS, Deadline
from naflow_client._core.one import One
from naflow_client._core.state import StreamState, closed
from naflow_client._core.wire import Request
from naflow_client.answers import Flow, Header
from naflow_client.bank_calls import BankCalls
from naflow_client.errors import CallError
from naflow_client.exchange import Exchange
from naflow_client.inputs import Input, Inputs, Recipe
from naflow_client.many import ManyStream
from naflow_client.models import ModelReport, ModelStatus
from naflow_client.options import ExplainChoices, ExplainOptions
from naflow_client.outcomes import Many as Source
from naflow_client.outcomes import check_many
from naflow_client.results import Result
from naflow_client.retry import RetryPolicy
from naflow_client.security import PathLike, Tls

Opener = Callable[[Deadline], tuple[Request, Inputs]]


class Client(BankCalls):
    """A connection to a server; may be shared between threads.

    Args:
        target: "host:port".
        tls: True for the usual certificates, or `Tls`; False for an unencrypted connection.
        token, token_file: bearer token, or the file it is in (read again for every call).
        deadline: seconds that a call may take when it is not told otherwise; None for no limit.
        retry: when to try again; `RetryPolicy()` when None.

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
        self._connect(Connection.checked(target, tls, token, token_file, deadline, retry))

    @classmethod
    def _over(cls, connection: Connection) -> Self:
        """A client with the settings of another one."""
        client = cls.__new__(cls)
        client._connect(connection)
        return client

    def _connect(self, connection: Connection) -> None:
        self._connection, chosen = connection, connection.tls
        if chosen is None:
            self._channel = grpc.insecure_channel(connection.target, connection.options)
        else:
            credentials = chosen.credentials()
            self._channel = grpc.secure_channel(connection.target, credentials, connection.options)
        self._calls = {name: method.on(self._channel) for name, method in METHODS.items()}
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is running and close the connection."""
        self._closed.set()
        self._channel.close()

    def explain(
        self,
        model: str,
        x: Input,
        *,
        preprocess: Recipe = None,
        deadline: float | None = None,
        **choices: Unpack[ExplainChoices],
    ) -> Stream:
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

        def prepare(limit: Deadline) -> tuple[Request, Inputs]:
            if not one.needs_report:
                return one.request(None)
            return one.request(self._inspect(model, choices.get("version"), {}, limit))

        seconds = self._connection.deadline if deadline is None else deadline
        return Stream(self._connection, self._calls["explain"], prepare, seconds, self._closed)

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
    ) -> ManyStream:
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
        check_many(inputs)
        asked = Asked.checked(model, preprocess, ExplainOptions(**choices), in_flight, order)

        def report(limit: Deadline) -> ModelReport:
            return self._inspect(model, asked.options.version, {}, limit)

        seconds = self._connection.deadline if deadline is None else deadline
        call = self._calls["explain_many"]
        return ManyStream(Exchange(self._connection, call, asked, inputs, report, seconds, self._closed))

    def inspect(
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
        return self._inspect(model, version, input_shapes or {}, limit, *names)

    def list_models(self, *, deadline: float | None = None) -> tuple[ModelStatus, ...]:
        """Every model and version of the server's repository.

        Raises:
            CallError: see there.
        """
        request = model_repository_pb2.ListModelsRequest()
        answer = self._unary("list_models", request, self._limit(deadline))
        return tuple(reports.model_status(item) for item in answer.models)

    def load_model(self, model: str, *, force: bool = False, deadline: float | None = None) -> ModelStatus:
        """Load a model, or read its changed files again (`force`: also unchanged ones), and wait for the end.

        Raises:
            CallError: see there.
        """
        request = model_repository_pb2.LoadModelRequest(model_name=model, force=force)
        answer = self._unary("load_model", request, self._limit(deadline))
        return reports.model_status(answer.model)

    def unload_model(self, model: str, *, deadline: float | None = None) -> ModelStatus:
        """Unload all versions of a model; explanations that are running finish.

        Raises:
            CallError: see there.
        """
        request = model_repository_pb2.UnloadModelRequest(model_name=model)
        answer = self._unary("unload_model", request, self._limit(deadline))
        return reports.model_status(answer.model)

    def upload_model(
        self, model: str, version: str, source: PathLike | bytes, *, deadline: float | None = None
    ) -> ModelStatus:
        """Put a new version of a model into the repository. Never tried again by itself.

        Args:
            source: the ONNX file, or its content.

        Raises:
            ClientError: the file cannot be read.
            CallError: see there.
        """
        content = requests.file_content(source)
        pieces = requests.upload_requests(model, version, content)
        answer = self._unary("upload_model", pieces, self._limit(deadline))
        return reports.model_status(answer.model)

    def _inspect(
        self,
        model: str,
        version: str | None,
        shapes: Mapping[str, Sequence[int]],
        limit: Deadline,
        *names: str | None,
    ) -> ModelReport:
        request = requests.inspect_request(model, version, shapes, *names)
        return reports.model_report(self._unary("inspect", request, limit))

    def _limit(self, deadline: float | None) -> Deadline:
        return Deadline(self._connection.deadline if deadline is None else deadline)

    def _unary(self, name: str, request: Any, limit: Deadline) -> Any:
        attempt = 1
        while True:
            try:
                metadata = self._connection.token.metadata()
                return self._calls[name](request, timeout=limit.remaining(), metadata=metadata)
            except grpc.RpcError as failed:
                error = status.from_call(failed, self._connection.target)
                again = METHODS[name].again
                pause = self._connection.retry.pause(attempt, error, limit.remaining()) if again else None
                if pause is None or self._closed.wait(pause):
                    raise error from failed
            except ValueError as failed:
                raise closed(self._connection.target) from failed
            attempt += 1


class Stream(StreamState):
    """The answer to one `explain`: iterate over it for flows, deepest layer first.

    Leaving the `with` block or the loop cancels the call. Used without `with`, it begins when it is first
    read, and reading it to the end, or `collect`, is enough.
    """

    def __init__(
        self,
        connection: Connection,
        call: Any,
        prepare: Opener,
        seconds: float | None,
        closed: threading.Event,
    ) -> None:
        super().__init__(connection.target)
        self._connection = connection
        self._begin = call
        self._prepare = prepare
        self._seconds = seconds
        self._closed = closed
        Deadline(seconds)  # refuse an impossible one here, not when the stream is read

    def open(self) -> Self:
        """Make the call and wait for the header; done by `with` and by reading.

        Raises:
            CallError: the server refuses, or cannot be reached in spite of retries.
            PictureError, PreprocessingError: a picture does not fit the model.
        """
        self._check_not_cancelled()
        if self._open:
            return self
        limit = Deadline(self._seconds)
        try:
            request, self._inputs = self._prepare(limit)
            attempt = 1
            while not self._open:
                error = self._try(request, limit)
                if error is None:
                    break
                self._check_not_cancelled()
                pause = self._connection.retry.pause(attempt, error, limit.remaining())
                if pause is None or self._closed.wait(pause):
                    raise error
                self._check_not_cancelled()
                attempt += 1
        except BaseException:
            self.cancel()
            raise
        return self

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Flow]:
        for item in self.events():
            if isinstance(item, Flow):
                yield item

    @property
    def header(self) -> Header:
        """What the model says and which layers will come; waits for it."""
        if self._session.header is None:
            self.open()
        return self._known_header()

    def events(self) -> Iterator[Item]:
        """Everything that comes after the header: flows, failed layers, signs of life, the summary.

        Raises:
            CallError: the call failed on its way, or ended without its summary (BrokenStreamError).
        """
        if self._finished:
            return
        self.open()
        try:
            while self._early:
                yield self._early.pop(0)
            while (event := self._next()) is not None:
                yield from self._session.feed(event)
            self._session.end()
            self._finished = True
        finally:
            self.cancel()

    def collect(self) -> Result:
        """Read to the end.

        Raises:
            CallError: as `events`.
        """
        return self.result(list(self))

    def _try(self, request: Request, limit: Deadline) -> CallError | None:
        """One attempt to get as far as the header; returns how it failed."""
        self._session = Session(self._target)
        self._early = []
        metadata = self._connection.token.metadata()
        try:
            self._call = self._begin(request, timeout=limit.remaining(), metadata=metadata)
        except ValueError as failed:
            raise closed(self._target) from failed
        while self._session.header is None:
            try:
                event = self._next()
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

    def _next(self) -> explanation_pb2.ExplainEvent | None:
        try:
            return next(self._call)
        except StopIteration:
            return None
        except grpc.RpcError as failed:
            raise status.from_call(failed, self._target) from failed
