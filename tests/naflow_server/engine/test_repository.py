"""Which models are there, which are loaded, and what happens when their files change."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

import naflow_core as nf
from naflow_server.engine import Code, Engine, EngineError, Header, ModelInfo, State
from support.blocks import network, picture
from support.engines import flows, install, read, repository, request, run, running, settings, slow, until

NAME = "residual-1"
QUICK = {"layers": ("top",)}


def states(engine: Engine) -> dict[str, dict[str, State]]:
    return {info.name: {v.version: v.state for v in info.versions} for info in engine.list()}


async def answering(engine: Engine, name: str = NAME, version: str | None = None) -> str:
    """The version that answers."""
    header = (await read(engine.explain(request(name, version=version, **QUICK))))[0]
    assert isinstance(header, Header)
    return header.version


@pytest.mark.parametrize(
    ("policy", "offered"),
    [
        ("", ["10"]),
        ("version_policy: { latest: { num_versions: 2 } }", ["9", "10"]),
        ("version_policy { specific { versions: [ 2, 9 ] } }", ["2", "9"]),
        ("version_policy: { all: {} }", ["2", "9", "10"]),
    ],
)
def test_version_policies(tmp_path: Path, policy: str, offered: list[str]) -> None:
    for version in ("2", "9", "10"):
        install(tmp_path, NAME, network("residual"), version, f'name: "{NAME}"\n{policy}')
    (tmp_path / NAME / "notes").mkdir()
    (tmp_path / NAME / "007").mkdir()

    async def work() -> None:
        async with running(settings(tmp_path)) as engine:
            assert states(engine) == {NAME: dict.fromkeys(offered, State.READY)}
            assert await answering(engine) == offered[-1]
            assert await answering(engine, version=offered[0]) == offered[0]

    run(work)


def test_bad_models_do_not_stop_the_good_one(tmp_path: Path) -> None:
    repository(tmp_path, NAME)
    install(tmp_path, "garbage", b"this is not a model")
    install(tmp_path, "liar", network("residual"), config='name: "other"')
    install(tmp_path, "unreadable", network("residual"), config="max_batch_size: {")
    install(tmp_path, "outside", network("residual"), config='default_model_filename: "../../x.onnx"')
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "1").mkdir(parents=True)
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "a b" / "1").mkdir(parents=True)
    (tmp_path / "readme.txt").write_text("models")
    reasons = {
        "garbage": "not an ONNX file",
        "liar": "says name 'other'",
        "unreadable": "line 1",
        "outside": "plain file name",
        "empty": "no version folder",
        "hollow": "model.onnx",
    }

    async def work() -> None:
        async with running(settings(tmp_path)) as engine:
            infos = {info.name: info for info in engine.list()}
            assert set(infos) == {NAME, *reasons}
            assert infos[NAME].ready
            for name, reason in reasons.items():
                assert not infos[name].ready
                with pytest.raises(EngineError, match=reason) as caught:
                    engine.explain(request(name))
                assert caught.value.code is Code.FAILED_PRECONDITION
                assert str(tmp_path) not in str(caught.value)
            assert await answering(engine) == "1"

    run(work)


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "../x", "/etc", "a/b", "a\\b", "a..b", ".hidden", "-x", "a\0b", "a\n", "x" * 129, "é"],
)
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    repository(tmp_path / "in", NAME)
    repository(tmp_path, "dense-1")

    async def work() -> None:
        async with running(
            settings(tmp_path / "in", repository={"upload": {"enabled": True}, "load": ()})
        ) as engine:
            for attempt in (engine.load, engine.unload, engine.reload, engine.inspect):
                with pytest.raises(EngineError) as caught:
                    await attempt(name)
                assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "model")
            with pytest.raises(EngineError) as caught:
                await engine.upload(name, size=1, sha256="0" * 64)
            assert caught.value.code is Code.INVALID_ARGUMENT

    run(work)


def test_links_cannot_leave_the_folder(tmp_path: Path) -> None:
    repository(tmp_path / "out", "residual-1")
    repository(tmp_path / "in", "residual-2")
    root = tmp_path / "in"
    (root / "linked").symlink_to(tmp_path / "out" / "residual-1")
    (root / "version").mkdir()
    (root / "version" / "1").symlink_to(tmp_path / "out" / "residual-1" / "1")
    (root / "file" / "1").mkdir(parents=True)
    (root / "file" / "1" / "model.onnx").symlink_to(tmp_path / "out" / "residual-1" / "1" / "model.onnx")

    async def work() -> None:
        async with running(settings(root)) as engine:
            ready = {info.name for info in engine.list() if info.ready}
            assert ready == {"residual-2"}
            for name in ("linked", "version", "file"):
                with pytest.raises(EngineError, match="leads out of the repository"):
                    engine.explain(request(name))

    run(work)


def test_load_unload_and_states(tmp_path: Path) -> None:
    repository(tmp_path, NAME, "dense-1")
    told: list[ModelInfo] = []

    async def work() -> None:
        async with running(settings(tmp_path, repository={"load": ()})) as engine:
            engine.on_state_change(told.append)
            assert states(engine)[NAME] == {"1": State.UNLOADED}
            with pytest.raises(EngineError, match=r"not ready \(unloaded\)") as caught:
                engine.explain(request(NAME))
            assert caught.value.code is Code.FAILED_PRECONDITION
            info = await engine.load(NAME)
            assert info.ready
            assert info.versions[0].bytes > 0
            assert info.versions[0].sha256 == nf.load(tmp_path / NAME / "1" / "model.onnx").sha256
            assert [t.versions[0].state for t in told] == [State.LOADING, State.READY]
            assert await answering(engine) == "1"
            call = engine.explain(request(NAME))
            await engine.unload(NAME)
            flows(await read(call))  # what runs is not disturbed
            assert states(engine)[NAME] == {"1": State.UNLOADED}
            assert told[-1].versions[0].state is State.UNLOADED
            assert engine.statistics().model_bytes == 0
            with pytest.raises(EngineError) as missing:
                await engine.load("nothing")
            assert missing.value.code is Code.NOT_FOUND
        async with running(settings(tmp_path, repository={"load": (), "explicit": False})) as engine:
            with pytest.raises(EngineError) as caught:
                await engine.load(NAME)
            assert caught.value.code is Code.PERMISSION_DENIED

    run(work)


def test_reload_takes_the_new_file_and_keeps_the_last_good_one(tmp_path: Path) -> None:
    install(tmp_path, NAME, network("residual", seed=1))

    async def work() -> None:
        async with running(settings(tmp_path)) as engine:
            first = flows(await read(engine.explain(request(NAME))))
            install(tmp_path, NAME, b"broken")
            with pytest.raises(EngineError, match="not an ONNX file"):
                await engine.reload(NAME)
            (info,) = engine.list()
            assert info.versions[0].state is State.READY
            assert "last good file serves" in info.versions[0].reason
            np.testing.assert_array_equal(flows(await read(engine.explain(request(NAME))))["x"], first["x"])
            install(tmp_path, NAME, network("residual", seed=2))
            info = await engine.reload(NAME)
            assert info.versions[0].reason == ""
            assert not np.array_equal(flows(await read(engine.explain(request(NAME))))["x"], first["x"])

    run(work)


def test_polling_follows_the_folder(tmp_path: Path) -> None:
    repository(tmp_path, NAME)

    async def work() -> None:
        async with running(settings(tmp_path, repository={"poll_seconds": 0.05})) as engine:
            install(tmp_path, "dense-1", network("dense", seed=1))
            await until(lambda: states(engine).get("dense-1") == {"1": State.READY})
            install(tmp_path, NAME, b"broken", "2")
            await until(lambda: states(engine)[NAME] == {"1": State.READY, "2": State.FAILED})
            assert await answering(engine) == "1"  # the last good one
            install(tmp_path, NAME, network("residual", seed=3), "2")
            await until(lambda: states(engine)[NAME] == {"2": State.READY})
            assert await answering(engine) == "2"
            os.rename(tmp_path / "dense-1", tmp_path.parent / "gone")  # noqa: PTH104
            await until(lambda: "dense-1" not in states(engine))
            with pytest.raises(EngineError) as caught:
                engine.explain(request("dense-1"))
            assert caught.value.code is Code.NOT_FOUND
            await engine.unload(NAME)
            await asyncio.sleep(0.15)
            assert states(engine)[NAME] == {"2": State.UNLOADED}

    run(work)


def test_the_least_recently_used_are_evicted_and_come_back(tmp_path: Path) -> None:
    names = [f"residual-{seed}" for seed in range(3)]
    repository(tmp_path, *names)
    size = sum(a.nbytes for a in nf.load(network("residual")).loaded.graph.constants.values())

    async def work() -> None:
        budget = {"memory_bytes": 2 * size, "load": tuple(names[:2])}
        async with running(settings(tmp_path, repository=budget)) as engine:
            first = flows(await read(engine.explain(request(names[1], picture(1)))))
            await answering(engine, names[0])
            await engine.load(names[2])
            assert [s["1"] for s in states(engine).values()] == [State.READY, State.EVICTED, State.READY]
            assert engine.statistics().model_bytes == 2 * size
            assert all(info.ready for info in engine.list())
            again = flows(await read(engine.explain(request(names[1], picture(1)))))
            np.testing.assert_array_equal(again["x"], first["x"])
            assert [s["1"] for s in states(engine).values()] == [State.EVICTED, State.READY, State.READY]
            # Nothing that a call needs is evicted.
            busy = [engine.explain(request(name)) for name in names[1:]]
            with pytest.raises(EngineError, match="memory budget") as caught:
                await read(engine.explain(request(names[0])))
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            assert caught.value.retry_after is not None
            for call in busy:
                flows(await read(call))
            assert await answering(engine, names[0]) == "1"

    run(work)


def test_a_model_is_ready_after_its_warm_up(tmp_path: Path) -> None:
    repository(tmp_path, NAME, "dense-1", "inception-1")
    models = {
        NAME: {"warm_up": [{"x": (1, 3, 5, 5)}], "warm_up_layers": "spine"},
        "dense-1": {"warm_up": [{"x": (1, 2, 5, 5)}]},
    }

    async def work() -> None:
        async with running(settings(tmp_path, repository={"models": models})) as engine:
            assert states(engine)[NAME] == {"1": State.READY}
            assert states(engine)["dense-1"] == {"1": State.FAILED}  # it cannot take what is asked for
            assert states(engine)["inception-1"] == {"1": State.READY}
            before = engine.statistics().programs
            flows(await read(engine.explain(request(NAME))))
            assert engine.statistics().programs == before

    run(work)


WARM = {NAME: {"warm_up": [{"x": (1, 3, 5, 5)}], "warm_up_layers": "spine"}}


def test_a_warm_up_that_is_given_up_leaves_no_trace(tmp_path: Path) -> None:
    repository(tmp_path, NAME)

    async def work() -> None:
        async with running(settings(tmp_path, repository={"models": WARM, "load": ()})) as engine:
            with slow(0.2) as taken:
                warming = asyncio.create_task(engine.load(NAME))
                await until(lambda: len(taken) > 0)
                warming.cancel()
                await asyncio.gather(warming, return_exceptions=True)
                assert states(engine)[NAME] == {"1": State.UNLOADED}
            assert (await engine.load(NAME)).ready
            with slow(0.2) as taken:
                again = asyncio.create_task(engine.reload(NAME))
                await until(lambda: len(taken) > 0)
                again.cancel()
                await asyncio.gather(again, return_exceptions=True)
                assert states(engine)[NAME] == {"1": State.READY}
            assert await answering(engine) == "1"

    run(work)


def test_the_budget_counts_what_is_being_warmed_up(tmp_path: Path) -> None:
    names = ("residual-1", "residual-2")
    repository(tmp_path, *names)
    size = sum(a.nbytes for a in nf.load(network("residual")).loaded.graph.constants.values())
    options = {"models": dict.fromkeys(names, WARM[NAME]), "memory_bytes": size}

    async def work() -> None:
        async with running(settings(tmp_path, repository=options)) as engine:
            found = sorted(state["1"].value for state in states(engine).values())
            assert found == ["EVICTED", "READY"]
            assert engine.statistics().model_bytes == size

    run(work)


def test_files_that_still_change_are_left_alone(tmp_path: Path) -> None:
    repository(tmp_path, NAME)
    content = network("residual", seed=2).SerializeToString()

    async def work() -> None:
        async with running(settings(tmp_path)) as engine:
            file = tmp_path / NAME / "2" / "model.onnx"
            file.parent.mkdir()
            for end in range(1000, len(content), 1000):  # a slow copy
                file.write_bytes(content[:end])
                await engine.repository.poll()
                await asyncio.sleep(0.01)
                assert states(engine)[NAME] == {"1": State.READY}
            file.write_bytes(content)
            for _ in range(2):
                assert await answering(engine) == "1"
                await engine.repository.poll()
            await until(lambda: states(engine)[NAME] == {"2": State.READY})
            assert await answering(engine) == "2"

    run(work)


def test_a_broken_configuration_leaves_the_last_good_version(tmp_path: Path) -> None:
    repository(tmp_path, NAME)
    config = tmp_path / NAME / "config.pbtxt"

    async def work() -> None:
        async with running(settings(tmp_path, repository={"poll_seconds": 0.02})) as engine:
            for broken in ("max_batch_size: {", "version_policy: { specific: { versions: [9] } }"):
                config.write_text(broken)
                await until(lambda: bool(engine.list()[0].reason))
                assert states(engine)[NAME] == {"1": State.READY}
                assert await answering(engine) == "1"
                with pytest.raises(EngineError):
                    await engine.load(NAME)
                assert await answering(engine) == "1"
                config.write_text("max_batch_size: 2")
                await until(lambda: not engine.list()[0].reason)
            assert await answering(engine) == "1"

    run(work)


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    async def work() -> None:
        with pytest.raises(EngineError, match="nowhere"):
            await Engine(settings(tmp_path / "nowhere")).start()

    run(work)
