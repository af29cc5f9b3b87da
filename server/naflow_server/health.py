"""grpc.health.v1: the server (""), each service, and each model as "model/NAME"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from naflow_server.engine.types import ModelInfo

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
MODEL = "model/"
MOST_WATCHERS = 256


class Health(health_pb2_grpc.HealthServicer):
    """Answers from what it was last told, without locks: no watcher can hold up another, or a stop.

    Nothing serves until `start`.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = ("", *services)
        self._models: dict[str, bool] = {}
        self._started = self._stopping = self._ended = False
        self._changed = asyncio.Event()
        self._watchers = 0

    def start(self) -> None:
        """The services answer from now on."""
        self._started = True
        self._notify()

    def set_model(self, model: ModelInfo) -> None:
        """What became of a model; one that is gone stays known and does not serve."""
        self._models[model.name] = model.ready
        self._notify()

    def drain(self) -> None:
        """Nothing serves any more."""
        self._stopping = True
        self._notify()

    def end_watches(self) -> None:
        """End all Watch calls, after their last change was sent."""
        self._ended = True
        self._notify()

    def status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        """The status of a service by name."""
        if service.startswith(MODEL) and service.removeprefix(MODEL) in self._models:
            serves = self._models[service.removeprefix(MODEL)]
        elif service in self._services:
            serves = True
        else:
            return UNKNOWN
        return SERVING if serves and self._started and not self._stopping else NOT_SERVING

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a name that means nothing here."""
        status = self.status(request.service)
        if status == UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service or model")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and after each change."""
        if self._watchers >= MOST_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MOST_WATCHERS} watchers")
        self._watchers += 1
        try:
            last = None
            while True:
                changed = self._changed
                status = self.status(request.service)
                if status != last:
                    yield health_pb2.HealthCheckResponse(status=status)
                    last = status
                    continue
                if self._ended:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
                await changed.wait()
        finally:
            self._watchers -= 1

    def _notify(self) -> None:
        """Wake everybody who watches; those who come later wait for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()
