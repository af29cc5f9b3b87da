"""Traces: OpenTelemetry spans by its standard environment variables, or nothing at all.

Nothing of OpenTelemetry is imported unless the environment asks for it. Spans are handed on explicitly, never
through a thread's or a task's context: a call begins on the event loop and is computed on other threads.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from naflow_server.settings import SettingsError

LOG = logging.getLogger(__name__)
EXPORTERS = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SERVICE = "naflow"
# A server's span is in error for these; the others are the caller's doing.
FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Trace:
    """A span, to be ended once, under which others can be put. Any thread may use it."""

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer, self._span = tracer, span

    def child(self, name: str, attributes: Mapping[str, Any]) -> Trace:
        """A span below this one that begins now."""
        return Trace(self._tracer, self._tracer.start_span(name, self._context(), attributes=attributes))

    def record(
        self, name: str, began: float, ended: float, attributes: Mapping[str, Any], error: str = ""
    ) -> None:
        """A span below this one that is over.

        Args:
            began, ended: `time.monotonic()` seconds.
            error: why it failed; "" when it did not.
        """
        wall, now = time.time_ns(), time.monotonic()
        start, end = (wall - round((now - moment) * 1e9) for moment in (began, ended))
        span = self._tracer.start_span(name, self._context(), attributes=attributes, start_time=start)
        if error:
            span.set_status(_error(error))
        span.end(end)

    def end(self, code: str, attributes: Mapping[str, Any] | None = None) -> None:
        """It is over, with the name of a gRPC status code."""
        self._span.set_attributes({"naflow.code": code, **(attributes or {})})
        if code in FAULTS:
            self._span.set_status(_error(code))
        self._span.end()

    @property
    def recording(self) -> bool:
        """Whether it is sampled: one that is not needs no children."""
        return bool(self._span.is_recording())

    def _context(self) -> Any:
        from opentelemetry import trace

        return trace.set_span_in_context(self._span)


class Tracing:
    """Makes the spans of calls.

    Args:
        provider: an `opentelemetry.sdk.trace.TracerProvider`.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._propagator = provider, TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("naflow_server")

    def call(self, rpc: str, metadata: Mapping[str, Any], request_id: str) -> Trace | None:
        """The span of a call that begins now, below the caller's (W3C `traceparent` in the metadata); None
        when it is not sampled.

        Args:
            rpc: full method name, "/package.Service/Method".
        """
        from opentelemetry.trace import SpanKind

        carrier = {key: value for key in ("traceparent", "tracestate") if (value := metadata.get(key))}
        service, _, method = rpc.lstrip("/").partition("/")
        names = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        span = self._tracer.start_span(
            f"{service}/{method}",
            self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={**names, "naflow.request_id": request_id},
        )
        made = Trace(self._tracer, span)
        return made if made.recording else None

    def close(self, seconds: float) -> None:
        """Send what is left. Blocks for at most `seconds`: a collector that is gone holds nobody up."""
        sending = threading.Thread(target=self._provider.shutdown, name="naflow-traces", daemon=True)
        sending.start()
        sending.join(seconds)
        if sending.is_alive():
            LOG.warning("the last spans were not sent", extra={"waited_seconds": seconds})


def end_call(span: Trace | None, code: str, number: int) -> None:
    """End a call's span, where there is one."""
    if span is not None:
        span.end(code, {"rpc.grpc.status_code": number})


def tracing_from_environment() -> Tracing | None:
    """Tracing as the OTEL_* variables ask for it, or None when they do not.

    On with OTEL_TRACES_EXPORTER (otlp, console) or an OTLP endpoint; off with OTEL_SDK_DISABLED=true or
    OTEL_TRACES_EXPORTER=none. Service name, resource, sampler, batches, limits, headers and certificates
    follow the variables that the OpenTelemetry SDK reads itself.

    Raises:
        SettingsError: an exporter or a protocol that there is not, an impossible value, or tracing is asked
            for and OpenTelemetry is not installed.
    """
    wanted = _exporters()
    if not wanted:
        return None
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import (
            BatchSpanProcessor,
            ConsoleSpanExporter,
            SimpleSpanProcessor,
        )

        named = OTELResourceDetector().detect().attributes.get(SERVICE_NAME)
        provider = TracerProvider(
            resource=Resource.create({} if named else {SERVICE_NAME: SERVICE}), shutdown_on_exit=False
        )
        if "otlp" in wanted:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        if "console" in wanted:
            provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
        tracing = Tracing(provider)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tracing needs {error.name}, which is not installed: pip install 'naflow[tracing]', "
            f"or set OTEL_SDK_DISABLED=true"
        ) from error
    except (ValueError, OSError) as error:
        raise SettingsError(f"an OTEL_* environment variable cannot be used: {error}") from error
    LOG.info("tracing", extra={"exporters": sorted(wanted)})
    return tracing


def _exporters() -> set[str]:
    given = {name: value.strip() for name, value in os.environ.items() if name.startswith("OTEL_")}
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return set()
    wanted = {name.strip() for name in given.get(EXPORTERS, "").split(",")} - {""}
    if not wanted and any(given.get(name) for name in ENDPOINTS):
        wanted = {"otlp"}
    if unknown := wanted - {"otlp", "console", "none"}:
        raise SettingsError(f"{EXPORTERS}: there is no exporter {min(unknown)!r}: otlp, console or none")
    if "none" in wanted:
        return set()
    if "otlp" in wanted:
        name = next((name for name in PROTOCOLS if given.get(name)), None)
        if name is not None and given[name] != "grpc":
            raise SettingsError(f"{name}: {given[name]!r} is not supported, only grpc")
    return wanted


def layer_attributes(tensor: str, flow: Any) -> dict[str, Any]:
    """Attributes of a layer's span.

    Args:
        tensor: where the cascade has arrived.
        flow: the `naflow_core.Flow` of the request's pictures; None where no map was asked for.
    """
    if flow is None:
        return {"naflow.tensor": tensor}
    own = flow.diagnostics
    residual = float(own.relative_residual.max(initial=0))
    return {
        "naflow.tensor": tensor,
        "naflow.index": flow.index,
        "naflow.rule": own.rule,
        "naflow.iterations": int(own.iterations.max(initial=0)),
        "naflow.converged": bool(own.converged.all()),
        "naflow.relative_residual": residual if math.isfinite(residual) else -1.0,
    }


def _error(text: str) -> Any:
    from opentelemetry.trace import Status, StatusCode

    return Status(StatusCode.ERROR, text)
