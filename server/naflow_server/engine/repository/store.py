"""Which models are loaded, and in which state each version is."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import naflow_core as nf
from naflow_server.engine import failures
from naflow_server.engine.repository.entry import NOT_READY, Entry, Slot, no_model, not_ready
from naflow_server.engine.repository.layout import (
    Fingerprint,
    LayoutError,
    ModelFolder,
    VersionFolder,
    check_name,
    check_version,
    scan,
    scan_model,
)
from naflow_server.engine.types import Code, EngineError, ModelInfo, State
from naflow_server.engine.version import LoadedVersion
from naflow_server.sections import RepositorySettings

T = TypeVar("T")
log = logging.getLogger("naflow_server.repository")


class Repository:
    """The models of one folder. Lives on one event loop; reading files happens on a thread of its own.

    What is done to one model happens in turn, and waits for no other model: not for its warm-up either. The
    states and what serves change between two awaits, so that they can be read at any time.

    Args:
        settings: see there.
        devices: number of devices that each model is loaded for.
        warm_up: compiles what the settings ask for; awaited before a version is READY.
        in_use: whether some call still needs a version, which is then not evicted.
        changed: called with a model's state after each change.
    """

    def __init__(
        self,
        settings: RepositorySettings,
        *,
        devices: int,
        warm_up: Callable[[LoadedVersion], Awaitable[None]],
        in_use: Callable[[LoadedVersion], bool],
        changed: Callable[[ModelInfo], None],
    ) -> None:
        self._settings, self._devices = settings, devices
        self._warm_up, self._in_use, self._changed = warm_up, in_use, changed
        self._limits = nf.Limits(**settings.limits.model_dump())
        self._entries: dict[str, Entry] = {}
        self._polled: dict[str, str] = {}
        self._looks: dict[str, tuple[Fingerprint, ...]] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._coming: dict[int, int] = {}  # bytes of versions that are being warmed up
        self._came = asyncio.Event()
        self._updates: dict[str, asyncio.Task[None]] = {}
        self._reader = ThreadPoolExecutor(1, "naflow-load")

    @property
    def root(self) -> Path:
        """The folder."""
        return self._settings.path

    def list(self) -> tuple[ModelInfo, ...]:
        """Every model that is known, by name."""
        return tuple(self._entries[name].info() for name in sorted(self._entries))

    def loaded(self) -> tuple[LoadedVersion, ...]:
        """Everything in memory."""
        slots = (slot for entry in self._entries.values() for slot in entry.slots.values())
        return tuple(slot.loaded for slot in slots if slot.loaded is not None)

    async def scan(self) -> None:
        """Bring the list up to date with the folder; loads nothing.

        Raises:
            EngineError: the folder cannot be read.
        """
        await self._scan()

    async def load_wanted(self) -> None:
        """Load what the settings name (after `scan`); failures are in the states."""
        chosen = self._settings.load
        names = list(self._entries) if chosen == "all" else chosen
        await asyncio.gather(*map(self._load_one, names))

    async def _load_one(self, name: str) -> None:
        try:
            await self.load(name)
        except EngineError as error:
            if error.reason != NOT_READY:  # that has been logged
                log.error("model %r is not loaded: %s", name, error)

    async def load(self, name: str, *, force: bool = False) -> ModelInfo:
        """Load the versions that a model's policy asks for; those that are loaded and unchanged stay.

        Args:
            force: read the files again even if they look unchanged.

        Raises:
            EngineError: no such model, or a version could not be loaded. What served before goes on serving.
        """
        check_name(name)
        async with self._turn(name):
            folder = await self._in_thread(lambda: scan_model(self.root, name))
            entry = self._entries.get(name)
            if folder is None:
                if entry is not None:
                    self._forget(entry)
                raise no_model(name)
            entry = self._entries.setdefault(name, Entry(name))
            entry.wanted = True
            failed = await self._update(entry, folder, again=True, force=force)
            if failed is not None:
                raise not_ready(name, failed)
            return entry.info()

    async def unload(self, name: str) -> ModelInfo:
        """Drop a model from memory; calls that run keep it until they end.

        Raises:
            EngineError: no such model.
        """
        async with self._turn(check_name(name)):
            entry = self._known(name)
            entry.wanted = False
            for slot in entry.slots.values():
                slot.loaded, slot.state, slot.reason, slot.seen = None, State.UNLOADED, "", None
            return self._tell(entry)

    async def poll(self) -> None:
        """Look at the folder once: begin to load what is new or changed, drop what is gone.

        Files that still change are left until two looks see the same: somebody writes them.
        """
        try:
            folders = await self._scan()
        except EngineError as error:
            log.error("%s", error)
            return
        last, self._looks = self._looks, {name: folder.look for name, folder in folders.items()}
        for name, folder in folders.items():
            busy = name in self._updates or self._turn(name).locked()
            if self._entries[name].wanted and last.get(name) == folder.look and not busy:
                self._updates[name] = asyncio.ensure_future(self._poll_one(name, folder))

    async def _poll_one(self, name: str, folder: ModelFolder) -> None:
        try:
            async with self._turn(name):
                if (entry := self._entries.get(name)) is not None and entry.wanted:
                    await self._update(entry, folder, again=False, force=False)
        except EngineError as error:
            if error.message != self._polled.get(name):
                log.warning("model %r: %s", name, error)
            self._polled[name] = error.message
        finally:
            del self._updates[name]

    def find(self, name: str, version: str | None) -> LoadedVersion | None:
        """What serves a request, or None where it has to be loaded first (`obtain`).

        Raises:
            EngineError: no such model or version, or it is not loaded.
        """
        slot = self._slot(name, version)
        if slot.loaded is not None:
            slot.loaded.last_used = time.monotonic()
        return slot.loaded

    async def obtain(self, name: str, version: str | None) -> LoadedVersion:
        """What serves a request, loaded again if it was evicted.

        Raises:
            EngineError: as `find`, or it cannot be loaded any more.
        """
        found = self.find(name, version)
        if found is not None:
            return found
        async with self._turn(name):
            slot = self._slot(name, version)
            if slot.loaded is None:
                entry = self._entries[name]
                error = await self._load_slot(entry, slot, slot.folder)
                if isinstance(error, EngineError) and error.code is Code.RESOURCE_EXHAUSTED:
                    slot.state, slot.reason = State.EVICTED, ""  # others are in use: later it may fit
                    error.retry_after = 1.0
                self._tell(entry)
                if slot.state is State.EVICTED and error is not None:
                    raise error
            if slot.loaded is None:
                raise not_ready(name, slot)
            slot.loaded.last_used = time.monotonic()
            return slot.loaded

    def close(self) -> None:
        """Stop the reading thread after what it does now, and drop what polling has begun."""
        for task in self._updates.values():
            task.cancel()
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _turn(self, name: str) -> asyncio.Lock:
        """What is done to a model is done inside."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    async def _scan(self) -> dict[str, ModelFolder]:
        try:
            folders = await self._in_thread(lambda: scan(self.root))
        except LayoutError as error:
            raise EngineError(
                Code.FAILED_PRECONDITION,
                str(error),
                hint="name a folder with models in `repository.path`",
                reason="repository_unreadable",
            ) from None
        for name, folder in folders.items():
            if name not in self._entries:
                chosen = self._settings.load
                entry = Entry(name, wanted=chosen == "all" or name in chosen, reason=folder.reason)
                entry.slots = {v.version: Slot(v.version, v) for v in folder.versions}
                self._entries[name] = entry
        for name in set(self._entries) - set(folders):
            if not self._turn(name).locked():  # else at the next look
                self._forget(self._entries[name])
        return folders

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.name]
        log.info("model %r is gone from the repository", entry.name)
        self._changed(ModelInfo(entry.name, (), "the model is gone from the repository"))

    async def _update(self, entry: Entry, folder: ModelFolder, *, again: bool, force: bool) -> Slot | None:
        """Load what the folder offers; a version that failed, or None.

        Args:
            again: try files once more that have failed before.
            force: read all files again.
        """
        entry.reason = folder.reason
        wanted = {version.version: version for version in folder.versions}
        failed = None
        for version, on_disk in wanted.items():
            slot = entry.slots.setdefault(version, Slot(version, on_disk))
            slot.batch_limit = folder.config.batch_limit
            known = slot.seen == on_disk.fingerprint
            if slot.state is State.EVICTED and not again:
                slot.folder, slot.seen = on_disk, on_disk.fingerprint
            elif force or not known or (again and (slot.loaded is None or slot.reason)):
                await self._load_slot(entry, slot, on_disk)
            if slot.reason:
                failed = slot
        if not wanted:
            self._tell(entry)
            raise EngineError(Code.FAILED_PRECONDITION, folder.reason, reason="model_unusable")
        if failed is None or any(entry.slots[version].loaded for version in wanted):
            for version in set(entry.slots) - set(wanted):  # no longer offered, and not the last good one
                del entry.slots[version]
        self._tell(entry)
        return failed

    async def _load_slot(self, entry: Entry, slot: Slot, on_disk: VersionFolder) -> Exception | None:
        """Read a version, warm it up and let it serve; on failure (returned) what served before goes on."""
        began = time.monotonic()
        before = slot.state, slot.seen
        slot.folder, slot.seen = on_disk, on_disk.fingerprint
        if slot.loaded is None:
            slot.state = State.LOADING
            self._tell(entry)
        try:
            fresh = await self._in_thread(
                lambda: LoadedVersion.read(
                    entry.name,
                    slot.version,
                    on_disk.file,
                    slot.batch_limit,
                    self._limits,
                    self._devices,
                )
            )
            while not self._make_room(fresh, slot):
                await self._came.wait()
            self._coming[id(slot)] = fresh.bytes
            await self._warm_up(fresh)
        except asyncio.CancelledError:  # whoever asked has gone: as if nobody had
            slot.state, slot.seen = before
            self._tell(entry)
            raise
        except (nf.NaflowError, EngineError) as error:
            self._failed(entry, slot, str(error))
            return error
        except Exception as error:
            log.exception("model %r, version %s cannot be loaded", entry.name, slot.version)
            self._failed(entry, slot, str(failures.unexpected(error)))
            return error
        finally:
            if self._coming.pop(id(slot), None) is not None:
                self._came.set()
                self._came = asyncio.Event()
        slot.loaded, slot.state, slot.reason = fresh, State.READY, ""
        seconds = time.monotonic() - began
        log.info("model %r, version %s is ready after %.2f s", entry.name, slot.version, seconds)
        return None

    def _failed(self, entry: Entry, slot: Slot, reason: str) -> None:
        for root in (self.root.resolve(), self.root):  # where the folder lies is not for callers
            reason = reason.replace(f"{root}/", "")
        slot.state = State.FAILED if slot.loaded is None else State.READY
        slot.reason = reason if slot.loaded is None else f"the last good file serves; the new one: {reason}"
        log.warning("model %r, version %s failed to load: %s", entry.name, slot.version, reason)

    def _make_room(self, fresh: LoadedVersion, slot: Slot) -> bool:
        """Evict the least recently used versions until a new one fits the memory budget; False where it may
        fit as soon as some warm-up is over."""
        budget = self._settings.memory_bytes
        if budget is None:
            return True
        others = [
            (e, s) for e in self._entries.values() for s in e.slots.values() if s.loaded and s is not slot
        ]
        taken = sum(s.loaded.bytes for _, s in others if s.loaded) + sum(self._coming.values())
        idle = [(e, s) for e, s in others if s.loaded and not self._in_use(s.loaded)]
        idle.sort(key=lambda pair: pair[1].loaded.last_used if pair[1].loaded else 0.0)
        chosen = []
        for entry, other in idle:
            if taken + fresh.bytes <= budget:
                break
            taken -= other.loaded.bytes if other.loaded else 0
            chosen.append((entry, other))
        if taken + fresh.bytes > budget:
            if self._coming:
                return False
            raise EngineError(
                Code.RESOURCE_EXHAUSTED,
                f"its weights take {fresh.bytes} bytes, the memory budget has {max(0, budget - taken)} left",
                hint="raise repository.memory_bytes, or unload models",
                reason="memory_budget",
            )
        for entry, other in chosen:
            other.loaded, other.state, other.reason = None, State.EVICTED, ""
            log.info("model %r, version %s is evicted: memory budget", entry.name, other.version)
            self._tell(entry)
        return True

    def _known(self, name: str) -> Entry:
        entry = self._entries.get(check_name(name))
        if entry is None:
            raise no_model(name)
        return entry

    def _slot(self, name: str, version: str | None) -> Slot:
        entry = self._known(name)
        if version is not None:
            slot = entry.slots.get(check_version(version))
            if slot is None:
                raise EngineError(
                    Code.NOT_FOUND,
                    f"model {name!r} has no version {version}",
                    hint=f"there is {', '.join(entry.slots) or 'none'}",
                    field="version",
                    reason="version_unknown",
                )
            if slot.loaded is None and slot.state is not State.EVICTED:
                raise not_ready(name, slot)
            return slot
        usable = [s for s in entry.slots.values() if s.loaded is not None or s.state is State.EVICTED]
        if usable:
            return max(usable, key=lambda slot: int(slot.version))
        if entry.slots:
            raise not_ready(name, max(entry.slots.values(), key=lambda slot: int(slot.version)))
        raise EngineError(
            Code.FAILED_PRECONDITION,
            f"model {name!r}: {entry.reason}",
            field="model",
            reason="model_unusable",
        )

    def _tell(self, entry: Entry) -> ModelInfo:
        info = entry.info()
        self._changed(info)
        return info
