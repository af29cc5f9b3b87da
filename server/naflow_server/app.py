"""The server process: listening, lifecycle, and what it is put together from."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
from collections.abc import Callable
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from naflow.v1 import (
    explanation_pb2,
    explanation_pb2_grpc,
    model_repository_pb2,
    model_repository_pb2_grpc,
    reference_bank_pb2,
    reference_bank_pb2_grpc,
)
from naflow_server import logs
from naflow_server.answers import Answers, Explains
from naflow_server.auth import Tokens
from naflow_server.calls import Calls
from naflow_server.certificates import Certificates
from naflow_server.engine.banks import Banks
from naflow_server.engine.engine import Engine
from naflow_server.engine.types import EngineError, ModelInfo, Statistics
from naflow_server.health import SERVING, Health
from naflow_server.metrics import Metrics, MetricsEndpoint
from naflow_server.sections import SecuritySettings
from naflow_server.service import (
    ExplanationService,
    ModelRepositoryService,
    ReferenceBankService,
    Repository,
)
from naflow_server.settings import Settings, SettingsError
from naflow_server.tracing import Tracing, tracing_from_environment

LOG = logging.getLogger(__name__)
SERVICES = (
    explanation_pb2.DESCRIPTOR.services_by_name["ExplanationService"].full_name,
    model_repository_pb2.DESCRIPTOR.services_by_name["ModelRepositoryService"].full_name,
    reference_bank_pb2.DESCRIPTOR.services_by_name["ReferenceBankService"].full_name,
)
LAST_SECONDS = 2.0  # for ended calls to leave
TRACES_SECONDS = 5.0  # for the last spans


class Runs(Explains, Repository, Protocol):
    """What is needed of the engine."""

    @property
    def banks(self) -> Banks:
        """The reference banks."""

    async def start(self) -> None:
        """Begin to load models; requests are taken from now on."""

    async def loaded(self) -> None:
        """Wait for the models that are loaded at the start."""

    def drain(self) -> None:
        """Take no more requests."""

    def statistics(self) -> Statistics:
        """How busy the engine is."""

    async def stop(self, grace: float) -> None:
        """End everything within `grace` seconds."""

    def on_state_change(self, callback: Callable[[ModelInfo], None]) -> None:
        """Call `callback` on the event loop when a model's state has changed."""


class Server:
    """One listening server.

    Attributes:
        port: in use, once started.
        metrics: all numbers.
        health: as clients see it.
    """

    def __init__(self, settings: Settings, engine: Runs, tracing: Tracing | None = None) -> None:
        self.settings, self.engine, self._tracing = settings, engine, tracing
        self.metrics = Metrics()
        self.health = Health((*SERVICES, "grpc.health.v1.Health"))
        self.port = 0
        self._endpoint: MetricsEndpoint | None = None
        limits = settings.limits
        tokens = Tokens(settings.security)
        self._calls = Calls(tokens, limits.calls, self.metrics, tracing)
        answers = Answers(
            engine,
            self.metrics,
            limits.stream_requests,
            limits.deadline_seconds,
            limits.gather_seconds,
            self._calls.closing,
        )
        self._grpc = grpc.aio.server(interceptors=(self._calls,), options=_options(limits.message_bytes))
        explanation_pb2_grpc.add_ExplanationServiceServicer_to_server(
            ExplanationService(answers, engine), self._grpc
        )
        model_repository_pb2_grpc.add_ModelRepositoryServiceServicer_to_server(
            ModelRepositoryService(engine), self._grpc
        )
        reference_bank_pb2_grpc.add_ReferenceBankServiceServicer_to_server(
            ReferenceBankService(engine.banks), self._grpc
        )
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._grpc)
        if settings.server.reflection:
            names = (*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._grpc)
        if not _loopback(settings.server.host):
            _warn(settings.security, tokens.required)

    @property
    def metrics_port(self) -> int | None:
        """Port of the metrics endpoint, or None."""
        return self._endpoint.port if self._endpoint else None

    async def start(self) -> None:
        """Listen as soon as the engine knows its models, as NOT_SERVING until they are loaded.

        Raises:
            SettingsError: an address or a certificate that cannot be used.
        """
        server = self.settings.server
        address = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"
        self.port = _listen(self._grpc, address, self.settings.security)
        if server.metrics_port is not None:
            try:
                self._endpoint = self.metrics.serve(
                    server.metrics_host, server.metrics_port, lambda: self.health.status("") == SERVING
                )
            except OSError as error:
                where = f"{server.metrics_host}:{server.metrics_port} cannot be used"
                raise SettingsError(f"server.metrics_port: {where}: {error.strerror}") from error
        self.engine.on_state_change(self.health.set_model)
        try:
            await self.engine.start()
        except EngineError as error:
            raise SettingsError(str(error)) from error
        self.metrics.read_from(self.engine.statistics)
        for model in self.engine.list():
            self.health.set_model(model)
        # Not before the models are known: NOT_FOUND would be final for a request that comes during a restart.
        await self._grpc.start()
        facts = {"host": server.host, "port": self.port, "metrics_port": self.metrics_port}
        LOG.info("listening", extra={**facts, "tls": self.settings.security.tls_certificate is not None})
        await self.engine.loaded()
        self.health.start()
        LOG.info("serving", extra={"models": [model.name for model in self.engine.list() if model.ready]})

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Stop without losing work: NOT_SERVING, a pause in which calls still come in, then a grace period in
        which running calls finish; what is left gets UNAVAILABLE. `hurry` cuts both short."""
        hurry = hurry or asyncio.Event()
        server = self.settings.server
        self.health.drain()
        LOG.info("draining", extra={"pause_seconds": server.drain_seconds})
        await _first(hurry.wait(), asyncio.sleep(server.drain_seconds))
        self._calls.closing.set()
        self.engine.drain()
        LOG.info("stopping", extra={"grace_seconds": server.grace_seconds})
        stopped = asyncio.create_task(self._grpc.stop(server.grace_seconds + 2 * LAST_SECONDS))
        self.health.end_watches()
        # Not until none is open: calls that are on their way in come after such a moment and have their time.
        await _first(hurry.wait(), asyncio.wait({stopped}, timeout=server.grace_seconds))
        if ended := self._calls.evict():
            LOG.warning("calls ended with UNAVAILABLE", extra={"calls": ended})
            await self._calls.wait_idle(LAST_SECONDS)
        await self._grpc.stop(LAST_SECONDS)
        await stopped
        await self._calls.wait_settled(LAST_SECONDS)
        await self.engine.stop(LAST_SECONDS)
        if self._endpoint is not None:
            await asyncio.to_thread(self._endpoint.close)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close, TRACES_SECONDS)
        LOG.info("stopped")


def main(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; a second one hurries. Returns the exit status, 0.

    Raises:
        SettingsError: settings that cannot be used.
    """
    logs.configure(settings.server.log_level, settings.server.log_format)
    LOG.info("settings", extra={"settings": settings.printable()})
    return asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    asked, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if asked.is_set() else asked).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    server = Server(settings, Engine(settings), tracing_from_environment())
    starting = asyncio.create_task(server.start())
    await _first(asked.wait(), asyncio.shield(starting))
    if starting.done():
        starting.result()
        await asked.wait()
    else:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    await server.stop(hurry)
    return 0


def _listen(server: grpc.aio.Server, address: str, security: SecuritySettings) -> int:
    try:
        if security.tls_certificate is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, Certificates(security).credentials())
    except RuntimeError as error:
        hint = "is the port taken, is the host one of this machine's?"
        raise SettingsError(f"server.host, server.port: cannot listen on {address}; {hint}") from error


def _warn(security: SecuritySettings, tokens: bool) -> None:
    """What is left open on a server that others can reach."""
    if security.tls_certificate is None:
        travels = "bearer tokens travel" if tokens else "everything travels"
        LOG.warning("%s unencrypted: set security.tls_certificate and tls_key", travels)
    if not tokens and security.client_ca is None:
        LOG.warning("everybody who reaches the port may call: set security.tokens_file or client_ca")


def _options(message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", -1),  # maps are chunked; a coverage report may be large
        ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake
        # Clients that vanished without a word are noticed, and those that ping are tolerated.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


async def _first(*waits: object) -> None:
    """Until one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
