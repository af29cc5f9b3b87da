"""Prometheus metrics, on their own port; whether the server is ready, for probes that only know HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from naflow_server.engine.types import Event, LayerFailure, LayerFlow, Statistics, Summary

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
PICTURES = (1, 2, 4, 8, 16, 32, 64)
ITERATIONS = (0, 10, 30, 100, 300, 1000, 3000, 10000)


class Metrics:
    """All numbers of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._calls = Counter(
            "naflow_calls", "Finished gRPC calls (health aside)", ["rpc", "code"], registry=self.registry
        )
        self._call_seconds = Histogram(
            "naflow_call_seconds", "Duration of gRPC calls", ["rpc"], buckets=SECONDS, registry=self.registry
        )
        self.open_calls = Gauge("naflow_open_calls", "Open gRPC calls", registry=self.registry)
        self.explaining = Gauge(
            "naflow_explanations_in_progress", "Explanations admitted and not ended", registry=self.registry
        )
        self._explanations = Counter(
            "naflow_explanations", "Ended explanations", ["model", "code"], registry=self.registry
        )
        self._stages = Histogram(
            "naflow_explanation_seconds",
            "Where complete explanations spent their time",
            ["model", "stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._layers = Counter(
            "naflow_layers", "Layers by outcome", ["model", "outcome"], registry=self.registry
        )
        self._sent_of: dict[str, Counter] = {}
        self._pictures = Histogram(
            "naflow_batch_pictures",
            "Pictures computed together",
            ["model"],
            buckets=PICTURES,
            registry=self.registry,
        )
        self._iterations = Histogram(
            "naflow_solver_iterations",
            "Least-squares iterations of an explanation",
            ["model"],
            buckets=ITERATIONS,
            registry=self.registry,
        )

    def call(self, rpc: str, code: str, seconds: float) -> None:
        """A call ended."""
        self._calls.labels(rpc, code).inc()
        self._call_seconds.labels(rpc).observe(seconds)

    def event(self, model: str, event: Event, more: int = 0) -> None:
        """An event of an explanation of a model that exists was sent, and with a map as many more."""
        match event:
            case LayerFlow():
                self._sent(model).inc(1 + more)
            case LayerFailure():
                self._layers.labels(model, "failed").inc()
            case Summary():
                for stage in ("queue", "compute", "first_flow", "total"):
                    self._stages.labels(model, stage).observe(getattr(event.seconds, stage))
                self._pictures.labels(model).observe(event.batch_size)
                self._iterations.labels(model).observe(event.iterations)

    def _sent(self, model: str) -> Counter:
        """The counter of a model's maps, looked up once: there is one event for each map."""
        counter = self._sent_of.get(model)
        if counter is None:
            counter = self._sent_of[model] = self._layers.labels(model, "sent")
        return counter

    def ended(self, model: str, code: str) -> None:
        """An explanation ended; `model` is "" where the request named none that exists."""
        self._explanations.labels(model, code).inc()

    def read_from(self, statistics: Callable[[], Statistics]) -> None:
        """Ask the engine for its numbers at each scrape."""
        self.registry.register(_EngineNumbers(statistics))

    def serve(self, host: str, port: int, ready: Callable[[], bool]) -> MetricsEndpoint:
        """Answer GET /metrics, and GET /ready with 200 or 503, over HTTP.

        Raises:
            OSError: the address cannot be listened on.
        """
        metrics = make_wsgi_app(self.registry)

        def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            match environment["PATH_INFO"]:
                case "/metrics":
                    return metrics(environment, start)
                case "/ready":
                    status, text = ("200 OK", b"ready\n") if ready() else ("503 Not Ready", b"not ready\n")
                case _:
                    status, text = "404 Not Found", b"/metrics, /ready\n"
            start(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
            return [text]

        return MetricsEndpoint(host, port, answer)


class _Handler(WSGIRequestHandler):
    timeout = 10  # a client that sends nothing holds its thread no longer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Requests are not logged."""


class MetricsEndpoint:
    """The listening endpoint."""

    def __init__(self, host: str, port: int, answer: Callable[..., Iterable[bytes]]) -> None:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]

        class Listener(ThreadingMixIn, WSGIServer):
            address_family = family
            daemon_threads = True

        self._server = make_server(host, port, answer, Listener, _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="naflow-metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use."""
        return self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _EngineNumbers:
    def __init__(self, statistics: Callable[[], Statistics]) -> None:
        self._statistics = statistics

    def describe(self) -> list[Metric]:
        """Nothing: the engine is asked at scrapes only."""
        return []

    def collect(self) -> list[Metric]:
        """The numbers of now."""
        now = self._statistics()
        waiting = GaugeMetricFamily("naflow_queue_length", "Requests not yet computed", labels=["model"])
        for model, count in now.waiting.items():
            waiting.add_metric([model], count)
        memory = GaugeMetricFamily("naflow_device_memory_bytes", "Device memory in use", labels=["device"])
        for device, size in now.device_bytes.items():
            memory.add_metric([device], size)
        return [
            waiting,
            memory,
            GaugeMetricFamily("naflow_explanations_active", "Computed in turns", now.active),
            GaugeMetricFamily("naflow_explanations_stalled", "Waiting for their reader", now.stalled),
            GaugeMetricFamily("naflow_model_bytes", "Weights of all loaded models", now.model_bytes),
            CounterMetricFamily("naflow_compilations", "Programs compiled", now.programs),
            CounterMetricFamily(
                "naflow_compilation_cache_hits", "Programs taken from the cache folder", now.cache_hits
            ),
            CounterMetricFamily("naflow_compilation_seconds", "Time spent compiling", now.compile_seconds),
            GaugeMetricFamily("naflow_programs_held", "Compiled programs in memory", now.programs_held),
            CounterMetricFamily(
                "naflow_program_drops", "Times that all programs were dropped", now.program_drops
            ),
            GaugeMetricFamily("naflow_banks", "Reference banks", now.banks),
            GaugeMetricFamily("naflow_bank_embeddings", "Embeddings in all banks", now.bank_embeddings),
            GaugeMetricFamily("naflow_bank_bytes", "Size of all banks on disk", now.bank_bytes),
        ]
