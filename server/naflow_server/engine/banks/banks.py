"""The banks of a server, for one event loop: disk work runs on threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from naflow_server.engine.banks import refusals
from naflow_server.engine.banks.store import Store
from naflow_server.engine.banks.types import Appended, BankInfo, BankNumbers, Snapshot
from naflow_server.sections import BankSettings

THREADS = 4  # a slow disk holds up banks, and nothing else
T = TypeVar("T")


class Banks:
    """Banks under `settings.path`; everything is refused with PERMISSION_DENIED when that is None.

    What each method does, and raises, stands in `Store`.
    """

    def __init__(self, settings: BankSettings) -> None:
        self._settings = settings
        self._store: Store | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    async def start(self) -> None:
        """Open every bank, and cut off what a crash has left of an append.

        Raises:
            EngineError: the folder cannot be used, or another server uses it.
        """
        if self._settings.path is None:
            return
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="naflow-banks")
        self._store = await self._run(partial(Store, self._settings.path, self._settings))

    async def close(self) -> None:
        """Finish the appends that run, and let another server have the folder."""
        self._closed = True
        store, self._store = self._store, None
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        if store is not None:
            await asyncio.to_thread(store.close)

    async def create(self, name: str, dimension: int, model_sha256: str, bank_id: str = "") -> BankInfo:
        """Make an empty bank."""
        return await self._run(partial(self._open().create, name, dimension, model_sha256, bank_id))

    async def append(
        self,
        name: str,
        embeddings: np.ndarray,
        labels: Sequence[str] = (),
        *,
        model_sha256: str,
        append_id: str = "",
    ) -> Appended:
        """Add embeddings, float32 [N, dimension]; they are on disk when this returns. A caller that is
        cancelled does not stop what has begun."""
        add = partial(self._open().append, name, embeddings, labels)
        return await self._run(partial(add, model_sha256=model_sha256, append_id=append_id))

    def list(self) -> tuple[BankInfo, ...]:
        """Every bank, by name."""
        return self._open().list()

    def get(self, name: str) -> BankInfo:
        """One bank."""
        return self._open().get(name)

    async def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        """What a bank holds at a version, now's when None."""
        return await self._run(partial(self._open().snapshot, name, version))

    async def delete(self, name: str, bank_id: str = "", *, allow_missing: bool = False) -> None:
        """Delete a bank."""
        await self._run(partial(self._open().delete, name, bank_id, allow_missing=allow_missing))

    def numbers(self) -> BankNumbers:
        """How much all banks hold together."""
        return self._store.numbers() if self._store is not None else BankNumbers()

    def _open(self) -> Store:
        if self._store is not None:
            return self._store
        raise refusals.switched_off() if self._settings.path is None else refusals.stopping()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._threads is None or self._closed:
            raise refusals.stopping()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
