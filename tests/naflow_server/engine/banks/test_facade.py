"""Banks on an event loop: a slow disk holds up nothing else, and stopping waits for it."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from naflow_server.engine.banks import Banks
from naflow_server.engine.types import Code, EngineError
from naflow_server.sections import BankSettings
from support.banks import MODEL, opened, rows, same
from support.engines import run, until


def test_a_slow_disk_and_a_caller_who_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go, real = threading.Event(), threading.Event(), os.fsync

    def slow(fd: int) -> None:
        reached.set()
        assert go.wait(30)
        real(fd)

    async def work() -> None:
        banks = Banks(BankSettings(path=tmp_path / "banks"))
        await banks.start()
        await banks.create("a", 4, MODEL)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", slow)
            waiting = asyncio.create_task(banks.append("a", rows(0), model_sha256=MODEL))
            await until(reached.is_set)
            assert banks.get("a").count == banks.list()[0].count == banks.numbers().embeddings == 0
            same(await banks.snapshot("a"), [], [])  # readers do not wait for it
            waiting.cancel()
            stopping = asyncio.create_task(banks.close())
            await asyncio.sleep(0.05)
            assert not stopping.done()
            with pytest.raises(EngineError) as caught:
                await banks.append("a", rows(1), model_sha256=MODEL)
            assert caught.value.code is Code.UNAVAILABLE
            go.set()
            await stopping
        assert banks.numbers().banks == 0

    run(work)
    store = opened(tmp_path / "banks")
    same(store.snapshot("a"), [rows(0)], [""] * 3)  # what had begun was finished
    store.close()


def test_without_a_folder_everything_is_refused() -> None:
    async def work() -> None:
        banks = Banks(BankSettings())
        await banks.start()
        for use in (banks.list, lambda: banks.get("a")):
            with pytest.raises(EngineError) as caught:
                use()
            assert caught.value.code is Code.PERMISSION_DENIED
        with pytest.raises(EngineError, match=r"set banks\.path"):
            await banks.snapshot("a")
        assert banks.numbers().banks == 0
        await banks.close()

    run(work)
