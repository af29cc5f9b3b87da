"""Readers that stop reading hold little, and hold nobody up."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from naflow_server.engine import Call, Code, EngineError, Header, LayerFlow
from support.blocks import picture
from support.engines import flows, read, repository, request, run, running, settings, slow, until
from support.timed import timed, within

NAME = "residual-1"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("models"), NAME)


def held() -> int:
    """Bytes of all arrays on the device."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


@timed
def test_others_go_on_and_the_stalled_resume_where_they_were(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root, limits={"active": 2})) as engine:
            expected = flows(await read(engine.explain(request(NAME))))
            stalled = [engine.explain(request(NAME)) for _ in range(24)]
            await until(lambda: engine.statistics().stalled == 24)
            load = engine.statistics()
            assert (load.active, sum(load.waiting.values())) == (0, 0)
            for _ in range(3):
                began = time.monotonic()
                flows(await read(engine.explain(request(NAME))))
                within(time.monotonic() - began, 1.0)
            for call in stalled:
                for tensor, map_ in flows(await read(call)).items():
                    np.testing.assert_array_equal(map_, expected[tensor])
            assert engine.statistics().calls == 0

    run(work)


def test_maps_of_a_message_wait_ahead_of_the_events_only_for_readers_of_groups(root: Path) -> None:
    two_maps = 2 * 5 * 5 * 4

    async def work() -> None:
        async with running(settings(root, limits={"events": 2, "gather_bytes": two_maps})) as engine:
            for grouped, maps in ((False, 1), (True, 3)):  # and the header
                call = engine.explain(request(NAME, grouped=grouped))
                await until(lambda: engine.statistics().stalled == 1)
                assert call.position.done == maps
                call.cancel()
                await until(lambda: engine.statistics().stalled == 0)

    run(work)


def test_a_stalled_reader_gives_the_activations_back(root: Path) -> None:
    x = picture(0, 64)

    async def work() -> None:
        async with running(settings(root)) as engine:
            await read(engine.explain(request(NAME, x)))
            before = held()
            calls = [engine.explain(request(NAME, x)) for _ in range(6)]
            await until(lambda: engine.statistics().stalled == 6)
            await asyncio.sleep(0.7)
            each = (held() - before) / len(calls)
            # Input, three arrays of one layer, and top; not the activations of every layer.
            assert each < 12 * x.nbytes
            for call in calls:
                call.cancel()
            await until(lambda: engine.statistics().stalled == 0)

    run(work)


def test_a_reader_that_never_comes_back_is_ended(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root, limits={"stalled_seconds": 0.2})) as engine:
            call = engine.explain(request(NAME))
            await until(lambda: engine.statistics().calls == 0)
            with pytest.raises(EngineError, match="took no event") as caught:
                await read(call)
            assert caught.value.code is Code.RESOURCE_EXHAUSTED

    run(work)


def test_a_deadline_ends_a_stalled_call(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root)) as engine:
            await read(engine.explain(request(NAME)))
            call = engine.explain(request(NAME, deadline=time.monotonic() + 0.3))
            await until(lambda: engine.statistics().stalled == 1)
            await until(lambda: engine.statistics().calls == 0)
            with pytest.raises(EngineError) as caught:
                await read(call)
            assert caught.value.code is Code.DEADLINE_EXCEEDED

    run(work)


@pytest.mark.parametrize("read_first", [0, 1, 2])
def test_a_batch_goes_on_without_its_stalled_reader(root: Path, read_first: int) -> None:
    batching = {"pictures": 4, "window_seconds": 0.2}

    async def work() -> None:
        async with running(settings(root, batching=batching, limits={"events": 3})) as engine:
            calls = [engine.explain(request(NAME, picture(seed))) for seed in range(4)]
            begun = [await anext(calls[0]) for _ in range(read_first)]
            others = await asyncio.gather(*(read(call) for call in calls[1:]))
            together = [flows(events) for events in others]
            alone = [flows(await read(engine.explain(request(NAME, picture(seed))))) for seed in range(4)]
            for got, expected in zip(together, alone[1:], strict=True):
                compare(got, expected)
            assert engine.statistics().stalled == 1
            late = flows([*begun, *await read(calls[0])])
            compare(late, alone[0])

    run(work)


def test_turns_are_shared_between_explanations(root: Path) -> None:
    """A short request that comes second is done before a long one that came first."""

    async def work() -> None:
        async with running(settings(root)) as engine:
            await read(engine.explain(request(NAME)))
            done: list[str] = []

            async def one(label: str, call: Call) -> None:
                await read(call)
                done.append(label)

            with slow(0.05):
                long = engine.explain(request(NAME))
                header = await anext(long)
                assert isinstance(header, Header)
                short = engine.explain(request(NAME, layers=("top", "b")))
                await asyncio.gather(one("long", long), one("short", short))
            assert done == ["short", "long"]

    run(work)


def test_events_wait_for_the_reader(root: Path) -> None:
    """The queue is bounded: nothing beyond it is computed."""

    async def work() -> None:
        async with running(settings(root, limits={"events": 2})) as engine:
            with slow(0.0) as taken:
                call = engine.explain(request(NAME))
                await until(lambda: engine.statistics().stalled == 1)
                assert taken == []  # Header and the top layer fill it
                await anext(call)
                assert isinstance(await anext(call), LayerFlow)
                await until(lambda: len(taken) == 2 and engine.statistics().stalled == 1)
                call.cancel()

    run(work)


def compare(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(got) == list(expected)
    for tensor, map_ in got.items():
        np.testing.assert_allclose(map_, expected[tensor], atol=1e-5)
