"""What the service adds to an explanation: gRPC through the SDK, minus the same in process.

    python benchmarks/service_overhead.py [--repeats 40] [--json FILE]

Five subjects, each answered by a server process on loopback and read by the SDK in this one:

    bare     the messages of `ready`, serialised beforehand, over plain gRPC without a line of ours in the
             server: what the transport and the SDK alone cost on this machine; they hold as many maps as
             the server's queue does
    ready    53 maps of 56x56 that exist beforehand, put into a call's queue by a thread, so that nothing but
             the service is measured
    maps     the same, for a picture of 56x56: the other two send one of 3x224x224 with each request, 600 kB
    relay    a seeded network with 53 layers of 56x56, computed
    digits   the bundled example network, all its spine layers, computed

In process, the first three are the bare loop over the events; the others are `naflow_core`. Both ways take
turns, so that whatever else the machine does meets both. Columns, in milliseconds: the median of each way,
the median of the paired differences, and the quartiles of these.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from service_models import DIGITS, pictures, relay, repository
from service_process import ServerProcess, report

import naflow_core as nf
from naflow.v1.explanation_pb2 import ExplainEvent
from naflow_client import Client
from naflow_server import convert
from naflow_server.app import Server
from naflow_server.convert.events import CHUNK_BYTES
from naflow_server.engine import (
    Call,
    Event,
    EventQueue,
    ExplainRequest,
    Header,
    LayerFlow,
    LayerInfo,
    ModelInfo,
    Seconds,
    State,
    Statistics,
    Summary,
    VersionInfo,
)
from naflow_server.engine.banks import Banks
from naflow_server.sections import BankSettings, LimitSettings
from naflow_server.settings import Settings

MAPS, SIDE = 53, 56
GOAL = 5.0


class Feeder:
    """Hands ready-made events to calls, one call after the other, from a thread as the engine's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Call, Iterable[Event]]] = deque()

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, call: Call, events: Iterable[Event]) -> None:
        """Hand these events to a call."""
        call.on_room = call.on_settled = self._tell
        self._waiting.append((call, events))
        self._tell(call)

    def _tell(self, call: Call) -> None:
        del call
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
            call, events = self._waiting.popleft()
            for event in events:
                if not call.has_room:
                    with self._changed:
                        self._changed.wait_for(lambda: call.has_room or call.settled)  # noqa: B023
                call.put(event)
            call.settle()


class ReadyEngine:
    """Answers every request with the same maps, without computing."""

    def __init__(self) -> None:
        self.banks = Banks(BankSettings())  # off
        self._limits = LimitSettings()
        self._feeder = Feeder()
        random = np.random.default_rng(0)
        zeros = np.zeros(1)
        self.flows = [
            nf.Flow(
                index,
                f"layer/{index}/Relu_output_0",
                random.random((1, SIDE, SIDE), np.float32),
                nf.LayerDiagnostics(
                    f"/layer/{index}/Relu",
                    "Relu",
                    (1, 64, SIDE, SIDE),
                    "identity-on-retained",
                    zeros,
                    zeros.astype(int),
                    zeros,
                    zeros == 0,
                    zeros,
                    0.0,
                ),
            )
            for index in range(MAPS)
        ]
        scores = random.random((1, 1000), np.float32)
        target = scores.argmax(axis=1)
        self._header = Header(
            "ready",
            "1",
            "0" * 64,
            nf.Prediction("y", scores, scores, "", target, scores[[0], target]),
            tuple(LayerInfo(flow.index, flow.tensor, flow.map.shape) for flow in self.flows),
        )

    async def start(self) -> None:
        """Start the thread that hands out."""
        self._feeder.start()

    async def loaded(self) -> None:
        """Nothing to wait for."""

    def drain(self) -> None:
        """Nothing runs for long."""

    async def stop(self, grace: float) -> None:
        """Nothing to stop."""

    def statistics(self) -> Statistics:
        """Always idle."""
        return Statistics({}, 0, 0, 0, 0, 0, 0, 0.0, {})

    def on_state_change(self, callback: Callable[[ModelInfo], None]) -> None:
        """Nothing changes."""

    def list(self) -> list[ModelInfo]:
        """The one model."""
        return [ModelInfo("ready", (VersionInfo("1", State.READY),))]

    def events(self) -> Iterator[Event]:
        """Header, maps, summary."""
        yield self._header
        for flow in reversed(self.flows):
            yield LayerFlow(flow)
        yield Summary(MAPS, 0, Seconds(0.0, 0.0, 0.0, 0.0), 0, 1)

    def explain(self, request: ExplainRequest) -> Call:
        """The same for every request."""
        call = Call(
            request,
            1,
            queue=EventQueue(self._limits.events, self._limits.gather_bytes if request.grouped else 0),
            progress_seconds=self._limits.progress_seconds,
            loop=asyncio.get_running_loop(),
        )
        self._feeder.add(call, self.events())
        return call

    def messages(self, request_id: str) -> Iterator[ExplainEvent]:
        """What a reader gets for whom the queue is full each time."""
        answer = convert.Answer(ExplainRequest("ready", {}, grouped=True, request_id=request_id))
        header, *flows, summary = self.events()
        yield from answer.messages(header)
        waiting = EventQueue(self._limits.events, self._limits.gather_bytes)
        for flow in flows:
            waiting.put(flow)
            if waiting.full or flow is flows[-1]:
                yield from answer.messages(*waiting.take_flows(CHUNK_BYTES))
        yield from answer.messages(summary)


async def serve_ready() -> None:
    """The server process of `ready` and `maps`: says its port, serves until its standard input closes."""
    server = Server(Settings(server={"port": 0, "drain_seconds": 0.0}), ReadyEngine())  # type: ignore[arg-type]
    await server.start()
    print(server.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


async def serve_bare() -> None:
    """The same for `bare`."""
    messages = [message.SerializeToString() for message in ReadyEngine().messages("0" * 32)]

    async def explain(request: bytes, context: Any) -> AsyncIterator[bytes]:
        del request, context
        for message in messages:
            yield message

    methods = {"Explain": grpc.unary_stream_rpc_method_handler(explain)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("naflow.v1.ExplanationService", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


@contextlib.contextmanager
def subject_server(name: str) -> Iterator[str]:
    """Address of a server process that answers with ready-made maps."""
    command = [sys.executable, __file__, "--serve", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def compare(name: str, near: Callable[[], int], far: Callable[[], int], repeats: int) -> dict[str, Any]:
    """One row: both ways by turns, after three rounds that are not counted."""
    times: list[tuple[float, float]] = []
    maps = 0
    for _ in range(repeats + 3):
        began = time.perf_counter()
        maps = near()
        between = time.perf_counter()
        assert far() == maps, "both ways give the same layers"
        times.append((between - began, time.perf_counter() - between))
    ours, theirs = np.array(times[3:]).T * 1e3
    low, middle, high = np.percentile(theirs - ours, (25, 50, 75))
    return {
        "subject": name,
        "maps": maps,
        "in process": round(float(np.median(ours)), 3),
        "gRPC": round(float(np.median(theirs)), 3),
        "overhead": round(float(middle), 3),
        "25 %": round(float(low), 3),
        "75 %": round(float(high), 3),
    }


def ready_made(name: str, repeats: int) -> dict[str, Any]:
    """The row of ready-made maps, through our service or bare."""
    engine = ReadyEngine()
    x = pictures(1, (1, SIDE, SIDE) if name == "maps" else (3, 224, 224))[0]

    with subject_server(name) as address, Client(address, deadline=60) as client:
        result = client.explain("ready", x).collect()
        for flow, made in zip(result.flows, engine.flows, strict=True):
            assert flow.map.tobytes() == made.map.tobytes(), "what arrives is what was made"
        return compare(
            name,
            lambda: sum(isinstance(event, LayerFlow) for event in engine.events()),
            lambda: len(client.explain("ready", x).collect().flows),
            repeats,
        )


def computed(name: str, model: Path, shape: tuple[int, ...], address: str, repeats: int) -> dict[str, Any]:
    """The row of a network that is computed."""
    loaded = nf.load(model)
    x = pictures(1, shape)[0]

    def near() -> int:
        return len(loaded.explain(x, layers="spine").collect().flows)

    with Client(address, deadline=600) as client:

        def far() -> int:
            return len(client.explain(name, x, layers="spine").collect().flows)

        return compare(name, near, far, repeats)


SERVERS = {"bare": serve_bare, "ready": serve_ready, "maps": serve_ready}
SUBJECTS = (*SERVERS, "relay", "digits")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=SUBJECTS, help="one subject instead of all")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(SERVERS[options.serve]())
        return
    wanted = [name for name in SUBJECTS if options.only in (None, name)]
    rows = [ready_made(name, options.repeats) for name in wanted if name in SERVERS]
    if set(wanted) - set(SERVERS):
        with tempfile.TemporaryDirectory() as scratch:
            models = repository(Path(scratch, "models"), relay=relay(MAPS, SIDE), digits=DIGITS)
            shapes = {"relay": (1, SIDE, SIDE), "digits": (1, 64, 64)}
            with ServerProcess(models, Path(scratch, "log")) as server:
                rows += [
                    computed(name, models / name / "1" / "model.onnx", shape, server.address, options.repeats)
                    for name, shape in shapes.items()
                    if name in wanted
                ]
    report("Overhead of the service in milliseconds", rows, options.json, repeats=options.repeats, goal=GOAL)


if __name__ == "__main__":
    main()
