"""Requests that share a cascade."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

import naflow_core as nf
from naflow_server.engine import Code, EngineError, Header, LayerFlow, Summary
from naflow_server.engine.version import batch_sizes, padded
from support.blocks import network, picture
from support.engines import flows, install, read, repository, request, run, running, settings

NAME = "residual-1"
BATCHING = {"pictures": 4, "window_seconds": 0.2, "together": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = repository(tmp_path_factory.mktemp("models"), NAME)
    install(root, "fixed", network("residual", seed=1, batch=1))
    install(root, "two", network("residual", seed=1), config="max_batch_size: 2")
    return root


@pytest.fixture(scope="module")
def model(root: Path) -> nf.Model:
    return nf.load(root / NAME / "1" / "model.onnx")


@pytest.mark.parametrize(("together", "tolerance"), [(True, 1e-5), (False, 0.0)])
def test_a_batch_equals_its_parts(root: Path, model: nf.Model, together: bool, tolerance: float) -> None:
    """Computed one after the other, to the last bit."""
    targets = (nf.ClassTarget(), nf.ClassTarget(0), nf.ClassTarget(3))
    batching = {**BATCHING, "together": together}

    async def work() -> None:
        async with running(settings(root, batching=batching)) as engine:
            calls = [
                engine.explain(request(NAME, picture(seed), target=target, request_id=str(seed)))
                for seed, target in enumerate(targets)
            ]
            for seed, events in enumerate(await asyncio.gather(*(read(call) for call in calls))):
                expected = model.explain(picture(seed), targets[seed], layers="spine").collect()
                header, summary = events[0], events[-1]
                assert isinstance(header, Header)
                assert isinstance(summary, Summary)
                assert summary.batch_size == 3
                assert header.prediction.target.tolist() == expected.prediction.target.tolist()
                np.testing.assert_allclose(
                    header.prediction.scores, expected.prediction.scores, rtol=tolerance, atol=tolerance
                )
                got = flows(events)
                for flow in expected.flows:
                    np.testing.assert_allclose(got[flow.tensor], flow.map, rtol=0, atol=tolerance)
                for event in events:
                    if isinstance(event, LayerFlow):
                        own = event.flow.diagnostics
                        assert event.flow.map.shape[0] == own.shape[0] == len(own.iterations) == 1

    run(work)


def test_requests_of_several_pictures_share_too(root: Path, model: nf.Model) -> None:
    async def work() -> None:
        async with running(settings(root, batching=BATCHING)) as engine:
            xs = [picture(0, 3), picture(1, 1), picture(2, 3)]
            calls = [engine.explain(request(NAME, x)) for x in xs]
            streams = await asyncio.gather(*(read(call) for call in calls))
            sizes = [events[-1].batch_size for events in streams if isinstance(events[-1], Summary)]
            assert sizes == [4, 4, 3]
            for x, events in zip(xs, streams, strict=True):
                got = flows(events)
                for flow in model.explain(x, layers="spine"):
                    np.testing.assert_allclose(got[flow.tensor], flow.map, atol=1e-5)

    run(work)


def test_one_callers_mistake_is_not_the_others(root: Path, model: nf.Model) -> None:
    async def work() -> None:
        async with running(settings(root, batching=BATCHING)) as engine:
            good = engine.explain(request(NAME, picture(0)))
            wrong_class = engine.explain(request(NAME, picture(1), target=nf.ClassTarget(99)))
            not_finite = engine.explain(request(NAME, picture(2) * np.inf))
            got = flows(await read(good))
            for flow in model.explain(picture(0), layers="spine"):
                np.testing.assert_allclose(got[flow.tensor], flow.map, atol=1e-5)
            for call, field in ((wrong_class, "target"), (not_finite, "inputs")):
                with pytest.raises(EngineError) as caught:
                    await read(call)
                assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, field)

    run(work)


def test_what_leaves_a_batch_does_not_disturb_it(root: Path, model: nf.Model) -> None:
    async def work() -> None:
        async with running(settings(root, batching=BATCHING)) as engine:
            leaver, stayer = (engine.explain(request(NAME, picture(seed))) for seed in (0, 1))
            async with leaver:
                await anext(leaver)
            got = flows(await read(stayer))
            for flow in model.explain(picture(1), layers="spine"):
                np.testing.assert_allclose(got[flow.tensor], flow.map, atol=1e-5)

    run(work)


def test_one_after_the_other_only_equal_numbers_of_pictures_are_joined(root: Path, model: nf.Model) -> None:
    """A request's own pictures are computed as they are without a batch."""

    async def work() -> None:
        async with running(settings(root, batching={**BATCHING, "together": False})) as engine:
            xs = [picture(0, 2), picture(1, 1), picture(2, 2), picture(3, 1)]
            calls = [engine.explain(request(NAME, x)) for x in xs]
            streams = await asyncio.gather(*(read(call) for call in calls))
            summaries = [events[-1] for events in streams]
            assert [s.batch_size for s in summaries if isinstance(s, Summary)] == [4, 2, 4, 2]
            for x, events in zip(xs, streams, strict=True):
                got = flows(events)
                for flow in model.explain(x, layers="spine"):
                    np.testing.assert_array_equal(got[flow.tensor], flow.map)

    run(work)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": "blocks"},
        {"method": nf.Method(damping=0.1)},
        {"top_feature_map": "b"},
        {"explained_input": "x"},
        {"model": "two"},
        {"model": "fixed"},
    ],
    ids=str,
)
def test_what_differs_is_not_joined(root: Path, change: dict[str, object]) -> None:
    async def work() -> None:
        async with running(settings(root, batching=BATCHING)) as engine:
            options = {"model": NAME, "x": picture(1), **change}
            calls = [engine.explain(request(NAME, picture(0))), engine.explain(request(**options))]
            for events in await asyncio.gather(*(read(call) for call in calls)):
                assert isinstance(events[-1], Summary)
                assert events[-1].batch_size == 1

    run(work)


def test_the_limit_of_the_model_holds(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root, batching=BATCHING)) as engine:
            calls = [engine.explain(request("two", picture(seed))) for seed in range(3)]
            streams = await asyncio.gather(*(read(call) for call in calls))
            assert sorted(s[-1].batch_size for s in streams if isinstance(s[-1], Summary)) == [1, 2, 2]
            with pytest.raises(EngineError, match=r"more than model 'two' takes") as caught:
                engine.explain(request("two", picture(0, 3)))
            assert caught.value.field == "inputs"
            assert engine.statistics().calls == 0

    run(work)


def test_warm_up_compiles_the_batch_sizes(root: Path) -> None:
    shape = [{"x": (1, 3, 5, 5)}]
    models = {NAME: {"warm_up": shape, "warm_up_layers": "spine"}}

    async def work() -> None:
        async with running(
            settings(root, batching=BATCHING, repository={"models": models, "load": (NAME,)})
        ) as engine:
            before = engine.statistics().programs
            calls = [engine.explain(request(NAME, picture(seed))) for seed in range(3)]
            await asyncio.gather(*(read(call) for call in calls))
            await read(engine.explain(request(NAME, picture(9))))
            assert engine.statistics().programs == before

    run(work)


def test_sizes_are_few() -> None:
    assert [padded(n, 8) for n in range(1, 9)] == [1, 2, 4, 4, 8, 8, 8, 8]
    assert [padded(n, 6) for n in (3, 5, 6)] == [4, 6, 6]
    assert batch_sizes(6) == [2, 4, 6]
    assert batch_sizes(1) == []
