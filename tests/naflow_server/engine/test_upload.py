"""Models that arrive in chunks."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from naflow_server.engine import Code, Engine, EngineError
from support.blocks import network
from support.engines import install, read, repository, request, run, running, settings, until

MODEL = network("residual", seed=4).SerializeToString()
ON = {"upload": {"enabled": True}, "load": ()}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def send(engine: Engine, name: str, content: bytes = MODEL, *, step: int = 300, **options: Any) -> str:
    announced = {"size": len(content), "sha256": digest(content), **options}
    async with await engine.upload(name, **announced) as upload:
        for begin in range(0, len(content), step):
            await upload.write(content[begin : begin + step])
        return await upload.finish()


def left_over(root: Path) -> list[Path]:
    return list((root / ".uploads").rglob("*"))


def test_off_by_default(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(settings(tmp_path)) as engine:
            with pytest.raises(EngineError) as caught:
                await send(engine, "new")
            assert caught.value.code is Code.PERMISSION_DENIED
            assert list(tmp_path.iterdir()) == []

    run(work)


def test_an_uploaded_model_serves(tmp_path: Path) -> None:
    install(tmp_path, "old", network("residual"), "7", 'default_model_filename: "net.onnx"')
    (tmp_path / "old" / "7" / "model.onnx").rename(tmp_path / "old" / "7" / "net.onnx")

    async def work() -> None:
        async with running(settings(tmp_path, repository=ON)) as engine:
            assert await send(engine, "new") == "1"
            assert (tmp_path / "new" / "1" / "model.onnx").read_bytes() == MODEL
            assert await send(engine, "new") == "2"
            assert await send(engine, "new", version="30") == "30"
            assert await send(engine, "old") == "8"
            for name in ("new", "old"):
                await engine.load(name)
                await read(engine.explain(request(name, layers=("top",))))
            assert left_over(tmp_path) == []

    run(work)


@pytest.mark.parametrize(
    ("content", "options", "field"),
    [
        (MODEL, {"sha256": digest(b"another")}, "sha256"),
        (MODEL, {"sha256": "abc"}, "sha256"),
        (MODEL, {"size": len(MODEL) + 1}, "size"),
        (MODEL, {"size": len(MODEL) - 1}, "data"),
        (MODEL, {"size": 0}, "size"),
        (MODEL, {"size": 1 << 40}, "size"),
        (MODEL, {"version": "01"}, "version"),
        (MODEL, {"version": "../1"}, "version"),
        (MODEL, {"version": "1"}, "version"),
        (b"not a model at all", {}, None),
    ],
)
def test_what_does_not_fit_is_dropped(
    tmp_path: Path, content: bytes, options: dict[str, Any], field: str | None
) -> None:
    repository(tmp_path, "dense-1")

    async def work() -> None:
        async with running(settings(tmp_path, repository=ON)) as engine:
            with pytest.raises(EngineError) as caught:
                await send(engine, "dense-1", content, **options)
            assert caught.value.field == field
            assert str(tmp_path) not in str(caught.value)
            assert [p.name for p in (tmp_path / "dense-1").iterdir()] == ["1"]
            assert left_over(tmp_path) == []
            assert await send(engine, "dense-1") == "2"  # nothing of it blocks the next one

    run(work)


def test_limits(tmp_path: Path) -> None:
    limited = {"enabled": True, "chunk_bytes": 100, "concurrent": 1, "idle_seconds": 0.5}

    async def work() -> None:
        async with running(settings(tmp_path, repository={"upload": limited})) as engine:
            with pytest.raises(EngineError, match="a chunk of 101 bytes"):
                await send(engine, "new", step=101)
            announced = {"size": len(MODEL), "sha256": digest(MODEL)}
            first = await engine.upload("new", **announced)
            with pytest.raises(EngineError) as caught:
                await engine.upload("other", **announced)
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            await first.write(MODEL[:100])
            assert len(left_over(tmp_path)) == 2
            await until(lambda: left_over(tmp_path) == [])  # nothing came for idle_seconds
            with pytest.raises(EngineError, match="the upload has ended"):
                await first.write(MODEL[100:200])
            assert await send(engine, "new", step=100) == "1"

    run(work)


def test_two_at_once_get_two_versions(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(settings(tmp_path, repository=ON)) as engine:
            versions = await asyncio.gather(send(engine, "new"), send(engine, "new"))
            assert sorted(versions) == ["1", "2"]

    run(work)


def test_leaving_early_and_restarting_clean_up(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(settings(tmp_path, repository=ON)) as engine:
            async with await engine.upload("new", size=len(MODEL), sha256=digest(MODEL)) as upload:
                await upload.write(MODEL[:10])
                assert upload.written == 10
            assert left_over(tmp_path) == []
            await engine.upload("new", size=len(MODEL), sha256=digest(MODEL))
            assert left_over(tmp_path) != []
        assert left_over(tmp_path) == []
        (tmp_path / ".uploads" / "interrupted").mkdir()
        async with running(settings(tmp_path, repository=ON)):
            assert left_over(tmp_path) == []

    run(work)


def test_another_servers_uploads_are_left_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(settings(tmp_path, repository=ON)) as first:
            upload = await first.upload("new", size=len(MODEL), sha256=digest(MODEL))
            await upload.write(MODEL[:10])
            async with running(settings(tmp_path, repository=ON)):
                pass
            await upload.write(MODEL[10:])
            assert await upload.finish() == "1"

    run(work)


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def work() -> None:
        async with running(settings(tmp_path, repository=ON)) as engine:
            for where, name in ((os, "fsync"), (Path, "replace"), (tempfile, "mkdtemp")):
                with monkeypatch.context() as patch:
                    patch.setattr(where, name, full)
                    with pytest.raises(EngineError, match="no room") as caught:
                        await send(engine, "new")
                assert caught.value.code is Code.RESOURCE_EXHAUSTED
                assert left_over(tmp_path) == []
                assert not (tmp_path / "new").exists()
            usage = shutil.disk_usage(tmp_path)._replace(free=1000)
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
            with pytest.raises(EngineError, match="no room"):
                await send(engine, "new")

    run(work)


def test_an_upload_that_is_cancelled_at_its_start_leaves_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(settings(tmp_path, repository=ON)) as engine:
            starting = asyncio.create_task(engine.upload("new", size=len(MODEL), sha256=digest(MODEL)))
            await asyncio.sleep(0)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            assert left_over(tmp_path) == []
            await asyncio.gather(send(engine, "new"), send(engine, "new"))  # both places are free

    run(work)


def test_links_are_not_followed(tmp_path: Path) -> None:
    root = repository(tmp_path / "in", "dense-1")
    (tmp_path / "out").mkdir()
    (root / "linked").symlink_to(tmp_path / "out")

    async def work() -> None:
        async with running(settings(root, repository=ON)) as engine:
            with pytest.raises(EngineError, match="leads out of the repository"):
                await send(engine, "linked")
            assert list((tmp_path / "out").iterdir()) == []

    run(work)
