"""The engine: admits requests, finds their models, and hands them to the compute threads."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from typing import Any

import jax

import naflow_core as nf
from naflow_server.engine import failures
from naflow_server.engine.banks import Banks
from naflow_server.engine.call import Call
from naflow_server.engine.compilation import COMPILATIONS, use_cache
from naflow_server.engine.event_queue import EventQueue
from naflow_server.engine.job import WarmUp
from naflow_server.engine.programs import ProgramLimit
from naflow_server.engine.repository import Repository, Upload, Uploads
from naflow_server.engine.scheduler import Scheduler, stopping
from naflow_server.engine.targets import Lookup, check
from naflow_server.engine.types import BankQuery, Code, EngineError, ExplainRequest, ModelInfo, Statistics
from naflow_server.engine.version import LoadedVersion, batch_sizes
from naflow_server.settings import Settings

log = logging.getLogger("naflow_server.engine")


class Engine:
    """Explains, from the models of a repository. Use it from one event loop; nothing here blocks it.

    Args:
        settings: see `naflow_server.settings`.
        devices: JAX devices to compute on, one thread each; all local ones when None.
    """

    def __init__(self, settings: Settings, *, devices: Sequence[Any] | None = None) -> None:
        self.settings = settings
        self._devices = list(jax.local_devices() if devices is None else devices)
        self._limits = settings.limits
        self._batch, together = settings.batching.pictures, settings.batching.together
        self._together = self._devices[0].platform != "cpu" if together is None else together
        self._programs = ProgramLimit(
            settings.compilation.programs, lambda: COMPILATIONS.programs, nf.drop_programs
        )
        self._scheduler = Scheduler(
            self._devices,
            settings.limits,
            settings.batching.window_seconds,
            self._together,
            self._programs,
        )
        self._listeners: list[Callable[[ModelInfo], None]] = []
        self.repository = Repository(
            settings.repository,
            devices=len(self._devices),
            warm_up=self._warm_up,
            in_use=lambda version: any(c.loaded is version for c in self._scheduler.open_calls()),
            changed=self._changed,
        )
        limits = nf.Limits(**settings.repository.limits.model_dump())
        self._uploads = Uploads(settings.repository.path, settings.repository.upload, limits)
        self.banks = Banks(settings.banks)
        self._lookup = Lookup(self.banks, settings.banks.memory_bytes, settings.banks.search)
        self._tasks: set[asyncio.Task[None]] = set()
        self._first_load: asyncio.Task[None] | None = None
        self._draining = False

    # Lifecycle

    async def start(self) -> None:
        """Start the compute threads and begin to load models; `loaded` waits for those.

        Raises:
            EngineError: the repository, the banks or the cache folder cannot be used.
        """
        COMPILATIONS.watch()
        use_cache(self.settings.compilation)
        await self.repository.scan()
        await self._uploads.clean()
        await self.banks.start()
        self._scheduler.start()
        self._first_load = self._spawn(self.repository.load_wanted())
        if self.settings.repository.poll_seconds is not None:
            self._spawn(self._poll(self.settings.repository.poll_seconds))

    async def loaded(self) -> None:
        """Wait until every model that is loaded at the start is ready or has failed."""
        if self._first_load is not None:
            await asyncio.shield(self._first_load)

    def drain(self) -> None:
        """Take no more requests; those that run go on."""
        self._draining = True

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the engine stops."""
        return self._draining

    async def stop(self, grace: float = 0.0) -> None:
        """Take no more requests, give those that run `grace` seconds, end the rest with UNAVAILABLE."""
        self.drain()
        end = time.monotonic() + grace
        while self._scheduler.load().calls and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for task in list(self._tasks):
            task.cancel()
        await self._uploads.close()
        await self.banks.close()
        self.repository.close()
        if not await asyncio.to_thread(self._scheduler.close, 10.0):
            log.warning("a compute thread is still inside a layer; it ends with the process")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _poll(self, seconds: float) -> None:
        await self.loaded()
        while True:
            await asyncio.sleep(seconds)
            await self.repository.poll()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Explaining

    def explain(self, request: ExplainRequest) -> Call:
        """Admit a request. Its events come from iterating over the call, which must be cancelled (or left as
        a context manager) if it is not read to its end.

        Raises:
            EngineError: it is not admitted: the server stops, no such model, a limit or an expired deadline,
                or too many requests wait (RESOURCE_EXHAUSTED with `retry_after`).
        """
        if self._draining:
            raise stopping()
        pictures = self._check(request)
        now = time.monotonic()
        if request.deadline is None and self._limits.deadline_seconds is not None:
            request = dataclasses.replace(request, deadline=now + self._limits.deadline_seconds)
        if request.deadline is not None and request.deadline <= now:
            raise EngineError(Code.DEADLINE_EXCEEDED, "the deadline had passed when the request arrived")
        loaded = self.repository.find(request.model, request.version)
        call = Call(
            request,
            pictures,
            queue=EventQueue(self._limits.events, self._limits.gather_bytes if request.grouped else 0),
            progress_seconds=self._limits.progress_seconds,
            loop=asyncio.get_running_loop(),
        )
        self._scheduler.admit(call)
        if loaded is None or isinstance(request.target, BankQuery):
            self._spawn(self._submit_when_ready(call))
            return call
        try:
            self._submit(call, loaded)
        except EngineError as error:
            call.settle(error)
            raise
        return call

    async def _submit_when_ready(self, call: Call) -> None:
        request = call.request
        try:
            loaded = await self.repository.obtain(request.model, request.version)
            if isinstance(request.target, BankQuery):
                call.bank = await self._lookup.find(request.target, loaded.sha256)
                call.request = dataclasses.replace(request, target=call.bank.target)
            self._submit(call, loaded)
        except EngineError as error:
            call.settle(error)
        except BaseException:
            call.settle(stopping())
            raise

    def _submit(self, call: Call, loaded: LoadedVersion) -> None:
        limit = loaded.batch_limit
        if limit is not None and call.pictures > limit:
            raise EngineError(
                Code.INVALID_ARGUMENT,
                f"{call.pictures} pictures are more than model {loaded.name!r} takes at once ({limit})",
                hint="send several requests",
                field="inputs",
                reason="too_many_pictures",
            )
        call.loaded = loaded
        call.batch_pictures = min(self._batch, limit or self._batch)
        same = isinstance(call.request.target, nf.ClassTarget)  # a similarity is explained on its own
        if same and loaded.batches and call.pictures < call.batch_pictures:
            # one after the other, a request's own pictures stay together, as they are without a batch
            alike = None if self._together else call.pictures
            call.batch_key = (alike, *_batch_key(call.request, loaded))
        self._scheduler.submit(call)

    def _check(self, request: ExplainRequest) -> int:
        """Cheap limits, before anything is queued; the number of pictures."""
        sizes = {len(value) if value.ndim else 0 for value in request.inputs.values()}
        if len(sizes) != 1:
            count = "no inputs" if not sizes else "inputs with different numbers of pictures"
            raise _invalid("inputs", f"the request has {count}", "give one array for each input, [N, ...]")
        pictures = sizes.pop()
        if not 1 <= pictures <= self._limits.pictures:
            raise _invalid(
                "inputs",
                f"{pictures} pictures in one request",
                f"from 1 to {self._limits.pictures}; send several requests",
            )
        total = sum(value.nbytes for value in request.inputs.values())
        if total > self._limits.input_bytes:
            raise _invalid(
                "inputs",
                f"the input has {total} bytes",
                f"at most {self._limits.input_bytes}; send fewer or smaller pictures",
            )
        if not isinstance(request.layers, str) and not 1 <= len(request.layers) <= self._limits.layers:
            raise _invalid(
                "layers", f"{len(request.layers)} layers are asked for", f"from 1 to {self._limits.layers}"
            )
        check(request.target, pictures, self._limits)
        self._lookup.check(request.target)
        return pictures

    async def inspect(
        self,
        model: str,
        version: str | None = None,
        *,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        output: str | None = None,
        top_feature_map: str | None = None,
        explained_input: str | None = None,
    ) -> nf.CoverageReport:
        """What would happen to a model.

        Raises:
            EngineError: no such model, or a shape or name does not fit.
        """
        loaded = await self.repository.obtain(model, version)
        try:
            return await asyncio.to_thread(
                loaded.models[0].inspect,
                input_shapes=input_shapes,
                output=output,
                top_feature_map=top_feature_map,
                explained_input=explained_input,
            )
        except nf.NaflowError as error:
            raise failures.from_core(error) from error

    # Repository

    def list(self) -> tuple[ModelInfo, ...]:
        """Every model with its versions and their states."""
        return self.repository.list()

    async def load(self, name: str) -> ModelInfo:
        """Load a model; see `Repository.load`.

        Raises:
            EngineError: loading on request is off, or it fails.
        """
        self._check_explicit()
        return await self.repository.load(name)

    async def reload(self, name: str) -> ModelInfo:
        """Read a model's files again. What serves goes on until the new one is ready, and if that fails.

        Raises:
            EngineError: loading on request is off, or it fails.
        """
        self._check_explicit()
        return await self.repository.load(name, force=True)

    async def unload(self, name: str) -> ModelInfo:
        """Drop a model from memory.

        Raises:
            EngineError: loading on request is off, or no such model.
        """
        self._check_explicit()
        return await self.repository.unload(name)

    async def upload(self, name: str, *, size: int, sha256: str, version: str | None = None) -> Upload:
        """Begin an upload; see `Uploads.begin`.

        Raises:
            EngineError: not allowed, or not possible.
        """
        if self._draining:
            raise stopping()
        return await self._uploads.begin(name, size=size, sha256=sha256, version=version)

    def on_state_change(self, listener: Callable[[ModelInfo], None]) -> None:
        """Call `listener` on the event loop after each change of a model's state (no versions: gone)."""
        self._listeners.append(listener)

    def _changed(self, info: ModelInfo) -> None:
        for listener in self._listeners:
            listener(info)

    def _check_explicit(self) -> None:
        if not self.settings.repository.explicit:
            raise EngineError(
                Code.PERMISSION_DENIED,
                "loading and unloading on request is switched off on this server",
                hint="set repository.explicit",
                reason="explicit_disabled",
            )

    async def _warm_up(self, loaded: LoadedVersion) -> None:
        """Compile what the settings ask for, on every device, batches included."""
        wanted = self.settings.repository.models.get(loaded.name)
        if wanted is None:
            return
        loop = asyncio.get_running_loop()
        limit = min(self._batch, loaded.batch_limit or self._batch) if loaded.batches else 1
        limit = limit if self._together else 1
        for shapes in wanted.warm_up:
            one = all(shape[0] == 1 for shape in shapes.values())
            for size in [None, *(batch_sizes(limit) if one else ())]:
                sized = {n: tuple(s) if size is None else (size, *s[1:]) for n, s in shapes.items()}
                waiting = []
                for device in range(len(self._devices)):
                    future: asyncio.Future[None] = loop.create_future()
                    done = _resolver(loop, future)
                    self._scheduler.add(WarmUp(loaded, device, sized, wanted.warm_up_layers, done), device)
                    waiting.append(future)
                await asyncio.gather(*waiting)

    # Metrics

    def statistics(self) -> Statistics:
        """How busy the engine is now."""
        load, banks = self._scheduler.load(), self.banks.numbers()
        memory = {}
        for device in self._devices:
            told = device.memory_stats()
            if told:
                memory[str(device)] = int(told.get("bytes_in_use", 0))
        return Statistics(
            load.waiting,
            load.active,
            load.stalled,
            load.calls,
            sum(version.bytes for version in self.repository.loaded()),
            COMPILATIONS.programs,
            COMPILATIONS.hits,
            COMPILATIONS.seconds,
            memory,
            self._programs.held,
            self._programs.drops,
            banks.banks,
            banks.embeddings,
            banks.bytes,
        )


def _batch_key(request: ExplainRequest, loaded: LoadedVersion) -> tuple[Hashable, ...]:
    """Requests with equal keys can share a cascade; their targets may differ."""
    shapes = tuple(sorted((n, v.shape[1:], v.dtype.str) for n, v in request.inputs.items()))
    return (
        id(loaded),
        shapes,
        request.method,
        request.output,
        request.top_feature_map,
        request.explained_input,
        request.layers,
    )


def _resolver(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]
) -> Callable[[BaseException | None], None]:
    """Hands the end of a warm-up from the compute thread to whoever awaits it."""

    def on_loop(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def done(error: BaseException | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_loop, error)

    return done


def _invalid(field: str, message: str, hint: str) -> EngineError:
    return EngineError(Code.INVALID_ARGUMENT, message, hint=hint, field=field)
