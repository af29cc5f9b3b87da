"""A scripted server on loopback: the generated servicer, answering what a test tells it to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import grpc
import numpy as np
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from naflow.v1 import (
    explanation_pb2,
    explanation_pb2_grpc,
    method_pb2,
    model_repository_pb2,
    model_repository_pb2_grpc,
    tensor_pb2,
)

Event = explanation_pb2.ExplainEvent
Script = Callable[[explanation_pb2.ExplainRequest, Any], Iterator[Event]]
StreamScript = Callable[[Iterator[explanation_pb2.ExplainRequest], Any], Iterator[Event]]
MODEL = "small"


class ScriptedError(Exception):
    """Raised by a script: end the call with this status and these details."""

    def __init__(self, code: grpc.StatusCode, message: str, *details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            self.status.details.append(packed)


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="naflow", metadata=metadata)


def bad_field(name: str) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation(field=name, description="wrong")
    return error_details_pb2.BadRequest(field_violations=[violation])


def come_back(seconds: float) -> error_details_pb2.RetryInfo:
    whole = int(seconds)
    return error_details_pb2.RetryInfo(
        retry_delay=duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
    )


def header(maps: Sequence[np.ndarray], request_id: str = "r1") -> Event:
    """What announces these maps; the model says class 1 of 3, which is what is explained."""
    best = [explanation_pb2.ClassScore(class_index=k, score=s) for k, s in ((1, 0.75), (0, 0.2), (2, 0.05))]
    prediction = explanation_pb2.Prediction(
        best=best, target=best[0], target_score=2.5, squashed_by="Softmax"
    )
    layers = [
        explanation_pb2.LayerInfo(index=i, tensor=f"t{i}", dtype=dtype_of(m), shape=m.shape)
        for i, m in enumerate(maps)
    ]
    return Event(
        request_id=request_id,
        header=explanation_pb2.Header(
            model_name=MODEL,
            model_version="1",
            model_sha256="ab" * 32,
            output="probabilities",
            predictions=[prediction] * (len(maps[0]) if maps else 1),
            layers=layers,
            total_layers=len(maps),
            total_bytes=sum(m.nbytes for m in maps),
            method=method_pb2.Method(
                inverse=method_pb2.INVERSE_LEAST_SQUARES,
                rows=method_pb2.ROWS_RETAINED,
                abandonment=method_pb2.Abandonment(rule=method_pb2.ABANDONMENT_RULE_MASS, mass=0.95),
                feasible=True,
                anchor=method_pb2.ANCHOR_ORIGIN,
                damping=0.3,
                tolerance=1e-3,
                max_iterations=200,
            ),
        ),
    )


def dtype_of(values: np.ndarray) -> Any:
    return {4: tensor_pb2.DATA_TYPE_FLOAT, 2: tensor_pb2.DATA_TYPE_FLOAT16, 8: tensor_pb2.DATA_TYPE_DOUBLE}[
        values.dtype.itemsize
    ]


def flow(index: int, values: np.ndarray, *, chunk: int = 0) -> list[Event]:
    """The events of one map, in pieces of `chunk` bytes if that is not 0."""
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    pictures = [
        explanation_pb2.PictureDiagnostics(
            retained_fraction=0.5, iterations=7 + index, relative_residual=1e-4, converged=index != 2
        )
        for _ in range(len(values))
    ]
    message = explanation_pb2.LayerFlow(
        index=index,
        tensor=f"t{index}",
        dtype=dtype_of(values),
        shape=values.shape,
        data=b"" if chunk else data,
        byte_size=len(data),
        diagnostics=explanation_pb2.LayerDiagnostics(
            node=f"n{index}",
            op_type="Conv",
            shape=[len(values), 4, 3, 5],
            rule="least-squares",
            seconds=0.25,
            pictures=pictures,
        ),
    )
    events = [Event(request_id="r1", layer_flow=message)]
    for begin in range(0, len(data), chunk) if chunk else ():
        piece = data[begin : begin + chunk]
        part = explanation_pb2.Chunk(
            index=index,
            offset=begin,
            last=begin + chunk >= len(data),
            data=piece,
            crc32c=google_crc32c.value(piece),
        )
        events.append(Event(request_id="r1", chunk=part))
    return events


def layer_error(index: int, message: str = "no luck") -> Event:
    status = ScriptedError(grpc.StatusCode.INTERNAL, message, info("NUMERICAL")).status
    return Event(layer_error=explanation_pb2.LayerError(index=index, tensor=f"t{index}", status=status))


def summary(sent: int, failed: int = 0) -> Event:
    return Event(
        summary=explanation_pb2.Summary(
            layers_sent=sent,
            layers_failed=failed,
            queue_seconds=0.1,
            compute_seconds=0.5,
            first_flow_seconds=0.2,
            total_seconds=0.75,
            iterations=40,
            batch_size=1,
        )
    )


def maps(count: int = 3, pictures: int = 1, dtype: str = "float32") -> list[np.ndarray]:
    random = np.random.default_rng(count)
    return [random.random((pictures, 3 + i, 5)).astype(dtype) for i in range(count)]


def answer(wanted: Sequence[np.ndarray], chunk: int = 0) -> list[Event]:
    """A whole good answer, deepest layer first."""
    events = [header(wanted)]
    for i in reversed(range(len(wanted))):
        events += flow(i, wanted[i], chunk=chunk)
    return [*events, summary(len(wanted))]


def grouped(events: Sequence[Event], most: int = 3) -> list[Event]:
    """The same answer as to a caller that reads groups: up to `most` whole maps in one message."""
    found: list[Event] = []
    for event in events:
        whole = event.HasField("layer_flow") and bool(event.layer_flow.data)
        if whole and found and 0 < len(found[-1].layer_flows.flows) < most:
            found[-1].layer_flows.flows.append(event.layer_flow)
        elif whole:
            flows = explanation_pb2.LayerFlows(flows=[event.layer_flow])
            found.append(Event(request_id=event.request_id, layer_flows=flows))
        else:
            found.append(event)
    return found


def tagged(events: Sequence[Event], request_id: str) -> list[Event]:
    """The same events, as the answer to another request."""
    copies = [Event.FromString(event.SerializeToString()) for event in events]
    for event in copies:
        event.request_id = request_id
    return copies


def refusal(request_id: str, error: ScriptedError) -> Event:
    """The end of a request that failed as a whole, on a call that goes on."""
    return Event(request_id=request_id, summary=explanation_pb2.Summary(error=error.status))


@dataclass
class Scripted(
    explanation_pb2_grpc.ExplanationServiceServicer, model_repository_pb2_grpc.ModelRepositoryServiceServicer
):
    """The servicer. Every `Explain` takes the next script, every `ExplainStream` the next stream script; the
    last one stays.

    Attributes:
        requests: what came, of all kinds.
        tokens: the authorization header of each call, None where there was none.
        ended: set as soon as any `Explain` ends, for whatever reason.
        failures: raised by the next calls that are not `Explain`.
    """

    scripts: list[Script] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    failures: list[ScriptedError] = field(default_factory=list)
    streams: list[StreamScript] = field(default_factory=list)
    report: explanation_pb2.InspectModelResponse = field(default_factory=explanation_pb2.InspectModelResponse)

    def play(self, *scripts: Script | Sequence[Event] | ScriptedError) -> None:
        """What the next calls of `Explain` answer."""
        self.scripts = [as_script(item) for item in scripts]
        self.requests.clear()
        self.tokens.clear()
        self.ended.clear()

    def Explain(self, request: Any, context: Any) -> Iterator[Event]:
        self._note(request, context)
        context.add_callback(self.ended.set)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        try:
            yield from script(request, context)
        except ScriptedError as failure:
            abort(context, failure)

    def play_streams(self, *scripts: StreamScript) -> None:
        """What the next calls of `ExplainStream` answer."""
        self.play([])
        self.streams = list(scripts)

    def ExplainStream(self, request_iterator: Any, context: Any) -> Iterator[Event]:
        context.add_callback(self.ended.set)
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        script = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]

        def noted() -> Iterator[Any]:
            for request in request_iterator:
                self.requests.append(request)
                yield request

        try:
            yield from script(noted(), context)
        except ScriptedError as failure:
            abort(context, failure)

    def InspectModel(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        return self.report

    def ListModels(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        return model_repository_pb2.ListModelsResponse(models=[ready()])

    def LoadModel(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        return model_repository_pb2.LoadModelResponse(model=ready(request.model_name))

    def UnloadModel(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        version = model_repository_pb2.VersionStatus(model_version="1", state=99)  # type: ignore[arg-type]
        gone = model_repository_pb2.ModelStatus(model_name=request.model_name, versions=[version])
        return model_repository_pb2.UnloadModelResponse(model=gone)

    def UploadModel(self, request_iterator: Any, context: Any) -> Any:
        self._note(list(request_iterator), context)
        return model_repository_pb2.UploadModelResponse(model=ready())

    def _note(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        if self.failures and not isinstance(request, explanation_pb2.ExplainRequest):
            abort(context, self.failures.pop(0))


def ready(name: str = MODEL) -> Any:
    version = model_repository_pb2.VersionStatus(
        model_version="1",
        state=model_repository_pb2.MODEL_STATE_READY,
        sha256="ab" * 32,
        memory_bytes=12,
    )
    return model_repository_pb2.ModelStatus(model_name=name, ready=True, versions=[version])


def abort(context: Any, failure: ScriptedError) -> None:
    context.set_trailing_metadata((("grpc-status-details-bin", failure.status.SerializeToString()),))
    context.abort(failure.code, failure.status.message)


def as_script(item: Script | Sequence[Event] | ScriptedError) -> Script:
    if isinstance(item, ScriptedError):

        def fail(request: Any, context: Any) -> Iterator[Event]:
            raise item
            yield

        return fail
    if callable(item):
        return item
    return lambda request, context: iter(item)


@contextlib.contextmanager
def serving(
    servicer: Scripted, credentials: Any = None, options: Sequence[tuple[str, Any]] = (), port: int = 0
) -> Iterator[str]:
    """A running server; gives its address."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    explanation_pb2_grpc.add_ExplanationServiceServicer_to_server(servicer, server)
    model_repository_pb2_grpc.add_ModelRepositoryServiceServicer_to_server(servicer, server)
    if credentials is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(0).wait()
