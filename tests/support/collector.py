"""An OTLP collector on loopback that keeps what it is sent."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """The servicer.

    Attributes:
        address: "http://127.0.0.1:port", as OTEL_EXPORTER_OTLP_ENDPOINT takes it.
        resources: attributes of the senders.
    """

    address: str = ""
    resources: list[dict[str, Any]] = field(default_factory=list)
    _spans: list[Span] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def Export(self, request: service.ExportTraceServiceRequest, context: Any) -> Any:
        with self._lock:
            for group in request.resource_spans:
                self.resources.append(values(group.resource.attributes))
                for scope in group.scope_spans:
                    self._spans += scope.spans
        return service.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        """The spans of that name that have come so far, in order of time."""
        with self._lock:
            found = [span for span in self._spans if span.name == name]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def wait(self, name: str, count: int, seconds: float = 20) -> list[Span]:
        """Wait until so many spans of that name are there."""
        end = time.monotonic() + seconds
        while len(found := self.named(name)) < count:
            assert time.monotonic() < end, f"{len(found)} spans {name!r} came, not {count}"
            time.sleep(0.01)
        return found

    def clear(self) -> None:
        """Forget all spans."""
        with self._lock:
            self._spans.clear()


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    found = {}
    for pair in attributes:
        kind = pair.value.WhichOneof("value")
        found[pair.key] = getattr(pair.value, kind) if kind else None
    return found


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """Start one."""
    made = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    made.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield made
    finally:
        server.stop(None).wait(10)
