"""A real server on loopback in a thread of its own, and a tiny engine with levers for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc

import naflow_core as nf
from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import explanation_pb2_grpc, model_repository_pb2_grpc, reference_bank_pb2_grpc, tensor_pb2
from naflow_server.app import Server
from naflow_server.engine import types
from naflow_server.engine.banks import Banks
from naflow_server.engine.types import Statistics
from naflow_server.sections import BankSettings
from naflow_server.settings import Settings

DETAILS = "grpc-status-details-bin"


class Running:
    """A started server, its loop, and how to call it."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop
        self.address = f"127.0.0.1:{server.port}"

    def do(self, work: Any, timeout: float = 20) -> Any:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function on the server's loop."""

        async def run() -> Any:
            return function()

        return self.do(run())

    def gauge(self, name: str, **labels: str) -> float:
        """A number from the server's metrics; 0 when it was never set."""
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0


class Stubs:
    """All stubs on one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.explanation = explanation_pb2_grpc.ExplanationServiceStub(channel)
        self.repository = model_repository_pb2_grpc.ModelRepositoryServiceStub(channel)
        self.banks = reference_bank_pb2_grpc.ReferenceBankServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)


@contextlib.contextmanager
def running(settings: Settings, make_engine: Callable[[Settings], Any]) -> Iterator[Running]:
    """Start a server in a thread and stop it at the end; an exception in the thread is raised here."""
    ready: list[Running] = []
    failed: list[BaseException] = []
    started, finish = threading.Event(), threading.Event()

    async def serve() -> None:
        server = Server(settings, make_engine(settings))
        try:
            await server.start()
            ready.append(Running(server, asyncio.get_running_loop()))
            started.set()
            while not finish.is_set():
                await asyncio.sleep(0.01)
        finally:
            await server.stop()
            rest = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            assert not rest, f"tasks left after stop: {rest}"

    def thread() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 (raised in the test's own thread)
            failed.append(error)
        finally:
            started.set()

    runner = threading.Thread(target=thread, daemon=True)
    runner.start()
    assert started.wait(120)
    try:
        if ready:
            yield ready[0]
    finally:
        finish.set()
        runner.join(60)
        if failed:
            raise failed[0]
    assert not runner.is_alive()


@contextlib.contextmanager
def stubs(address: str, credentials: grpc.ChannelCredentials | None = None) -> Iterator[Stubs]:
    """Stubs on a channel of their own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 << 20)]
    make = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    with make as channel:
        yield Stubs(channel)


def settings(**sections: Mapping[str, Any]) -> Settings:
    """Settings for tests: a free port, no pause."""
    server = {"port": 0, "drain_seconds": 0.0, "grace_seconds": 5.0, **sections.pop("server", {})}
    return Settings(server=server, **sections)  # type: ignore[arg-type]


def tensor(values: np.ndarray) -> tensor_pb2.Tensor:
    """A float32 tensor."""
    data = np.ascontiguousarray(values, "<f4")
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=data.shape, data=data.tobytes())


def request(x: np.ndarray | None = None, model: str = "tiny", **fields: Any) -> ex.ExplainRequest:
    """A request for the tiny engine, or another model with one input."""
    x = np.ones((1, 1, 2, 2), np.float32) if x is None else x
    return ex.ExplainRequest(model_name=model, inputs={"": tensor(x)}, **fields)


def details(error: grpc.RpcError) -> dict[str, Any]:
    """google.rpc details of a failed call, by message name."""
    metadata = dict(error.trailing_metadata() or ())  # type: ignore[attr-defined]
    raw = metadata[DETAILS]
    status = status_pb2.Status.FromString(raw)
    assert len(raw) <= 4096
    assert status.code == error.code().value[0]  # type: ignore[attr-defined]
    return unpacked(status)


def unpacked(status: status_pb2.Status) -> dict[str, Any]:
    """Details of a status, by message name."""
    found = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])
        found[packed.TypeName()] = message = kind()
        assert packed.Unpack(message)
    return found


def assembled(events: list[ex.ExplainEvent]) -> dict[int, np.ndarray]:
    """Maps by index, from one answer; checks order, sizes and that chunks follow their map."""
    maps: dict[int, np.ndarray] = {}
    waiting: tuple[ex.LayerFlow, bytearray] | None = None
    for event in apart(events):
        kind = event.WhichOneof("event")
        assert (kind == "chunk") == (waiting is not None), f"{kind} at the wrong place"
        if kind == "layer_flow":
            flow = event.layer_flow
            if flow.byte_size > len(flow.data):
                assert not flow.data
                waiting = flow, bytearray()
            else:
                maps[flow.index] = _array(flow, flow.data)
        elif kind == "chunk" and waiting is not None:
            flow, data = waiting
            assert (event.chunk.index, event.chunk.offset) == (flow.index, len(data))
            data += event.chunk.data
            assert event.chunk.last == (len(data) == flow.byte_size)
            if event.chunk.last:
                maps[flow.index], waiting = _array(flow, bytes(data)), None
    assert waiting is None
    return maps


def apart(events: list[ex.ExplainEvent]) -> Iterator[ex.ExplainEvent]:
    """The same answer with every map in a message of its own."""
    for event in events:
        if event.HasField("layer_flows"):
            for flow in event.layer_flows.flows:
                yield ex.ExplainEvent(request_id=event.request_id, layer_flow=flow)
        else:
            yield event


def _array(flow: ex.LayerFlow, data: bytes) -> np.ndarray:
    assert flow.dtype == tensor_pb2.DATA_TYPE_FLOAT
    assert len(data) == flow.byte_size
    return np.frombuffer(data, "<f4").reshape(flow.shape)


class OneByOne:
    """Events that are never ahead of their reader."""

    def __init__(self, events: AsyncIterator[types.Event]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[types.Event]:
        return self._events

    def waiting(self, room: int) -> tuple[types.LayerFlow, ...]:
        """None."""
        del room
        return ()

    async def gather(self, moment: float) -> None:
        """Nothing to wait for."""


class TinyEngine:
    """Answers without computing: `layers` maps of `side` x `side`, one each time `turn` allows it.

    Attributes:
        released: set to let the layers come; set at first.
        running: explanations admitted and not ended.
        turns: layers made so far, of all requests.
    """

    def __init__(self, layers: int = 4, side: int = 3) -> None:
        self.layers, self.side = layers, side
        self.released = threading.Event()
        self.released.set()
        self.running = self.turns = 0
        self.error: BaseException | None = None
        self.banks = Banks(BankSettings())  # off
        self.models = [types.ModelInfo("tiny", (types.VersionInfo("1", types.State.READY),))]
        self.tell: Callable[[types.ModelInfo], None] = lambda info: None
        self.requests: list[types.ExplainRequest] = []

    async def start(self) -> None:
        """Nothing to start."""

    async def loaded(self) -> None:
        """Nothing to wait for."""

    def drain(self) -> None:
        """Requests are still taken; the server has to see to that."""

    def statistics(self) -> Statistics:
        """Hardly any."""
        return Statistics({"tiny": 0}, self.running, 0, self.running, 7, 3, 2, 0.5, {"cpu:0": 11})

    async def stop(self, grace: float) -> None:
        """Nothing may be running any more."""
        assert self.running == 0

    def on_state_change(self, callback: Callable[[types.ModelInfo], None]) -> None:
        """Remember whom to tell."""
        self.tell = callback

    def list(self) -> list[types.ModelInfo]:
        """All models."""
        return self.models

    def map(self, index: int, x: np.ndarray) -> np.ndarray:
        """The map that a layer will have: depends on the layer and each picture."""
        grid = np.arange(self.side * self.side, dtype=np.float32).reshape(1, self.side, self.side)
        return (grid * (index + 1) + x.reshape(len(x), -1).sum(axis=1)[:, None, None]).astype(np.float32)

    @contextlib.asynccontextmanager
    async def explain(self, request: types.ExplainRequest) -> AsyncIterator[OneByOne]:
        """As the engine's."""
        if request.model != "tiny":
            raise types.EngineError(types.Code.NOT_FOUND, f"no model {request.model!r}", field="model_name")
        if self.error is not None:
            raise self.error
        self.requests.append(request)
        self.running += 1
        try:
            events = self._events(request)
            async with contextlib.aclosing(events):
                yield OneByOne(events)
        finally:
            self.running -= 1

    async def _events(self, request: types.ExplainRequest) -> AsyncIterator[types.Event]:
        (x,) = request.inputs.values()
        count, began = len(x), time.monotonic()
        scores = np.tile(np.arange(3, dtype=np.float32), (count, 1))
        target = np.full(count, 2)
        yield types.Header(
            "tiny",
            "1",
            "0" * 64,
            nf.Prediction("y", scores, scores, "", target, scores[np.arange(count), target]),
            tuple(types.LayerInfo(i, f"t{i}", (count, self.side, self.side)) for i in range(self.layers)),
        )
        for index in reversed(range(self.layers)):
            while not self.released.is_set():
                if request.deadline is not None and time.monotonic() > request.deadline:
                    raise types.EngineError(types.Code.DEADLINE_EXCEEDED, "out of time")
                await asyncio.sleep(0.005)
            await asyncio.sleep(0)
            self.turns += 1
            yield types.LayerFlow(nf.Flow(index, f"t{index}", self.map(index, x), diagnostics(count)))
        seconds = types.Seconds(0.0, 0.0, 0.0, time.monotonic() - began)
        yield types.Summary(self.layers, 0, seconds, 0, count)


def diagnostics(count: int) -> nf.LayerDiagnostics:
    zeros = np.zeros(count)
    return nf.LayerDiagnostics(
        "node", "Relu", (count, 1, 3, 3), "mask", zeros, zeros.astype(int), zeros, zeros == 0, zeros, 0.0
    )
