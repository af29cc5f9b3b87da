"""One request: its events, its errors, and what many at once do to each other."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from naflow_server.engine import (
    Code,
    EngineError,
    ExplainRequest,
    Header,
    LayerFailure,
    LayerFlow,
    Progress,
    Summary,
)
from support.blocks import SPINE, network, picture
from support.engines import flows, install, read, repository, request, run, running, settings, slow, until
from support.timed import timed, within

MODELS = ("residual-1", "inception-2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("models"), *MODELS)


def serially(root: Path, name: str, x: np.ndarray, target: int | str = "top") -> dict[str, np.ndarray]:
    """What the core gives without a server."""
    model = load(root / name / "1" / "model.onnx")
    return {f.tensor: f.map for f in model.explain(x, nf.ClassTarget(target), layers="spine")}


load = functools.cache(nf.load)


def test_a_stream_equals_the_core_bit_for_bit(root: Path) -> None:
    x = picture(5, 2)

    async def work() -> None:
        async with running(settings(root)) as engine:
            events = await read(engine.explain(request(MODELS[0], x, target=nf.ClassTarget(2))))
        header, summary = events[0], events[-1]
        assert isinstance(header, Header)
        assert isinstance(summary, Summary)
        expected = serially(root, MODELS[0], x, 2)
        got = flows(events)
        assert list(got) == list(expected) == list(reversed(SPINE))
        for tensor, map_ in expected.items():
            np.testing.assert_array_equal(got[tensor], map_)
        assert [(layer.index, layer.tensor) for layer in header.layers] == list(enumerate(SPINE))
        assert all(got[layer.tensor].shape == layer.shape for layer in header.layers)
        assert header.prediction.target.tolist() == [2, 2]
        assert (header.model, header.version) == (MODELS[0], "1")
        assert header.sha256 == nf.load(root / MODELS[0] / "1" / "model.onnx").sha256
        assert summary.batch_size == 2
        assert 0 < summary.seconds.first_flow <= summary.seconds.total
        assert summary.seconds.queue + summary.seconds.compute <= summary.seconds.total + 0.1

    run(work)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"model": "nothing"}, Code.NOT_FOUND, "model"),
        ({"model": "../models/residual-1"}, Code.INVALID_ARGUMENT, "model"),
        ({"version": "7"}, Code.NOT_FOUND, "version"),
        ({"version": "../1"}, Code.INVALID_ARGUMENT, "version"),
        ({"inputs": {}}, Code.INVALID_ARGUMENT, "inputs"),
        ({"inputs": {"": np.float32(3)}}, Code.INVALID_ARGUMENT, "inputs"),
        ({"inputs": {"z": picture(0)}}, Code.INVALID_ARGUMENT, "inputs"),
        ({"inputs": {"": picture(0)[:, :2]}}, Code.INVALID_ARGUMENT, "inputs"),
        ({"inputs": {"": picture(0) * np.nan}}, Code.INVALID_ARGUMENT, "inputs"),
        ({"inputs": {"": picture(0, 65)}}, Code.INVALID_ARGUMENT, "inputs"),
        ({"inputs": {"": picture(0), "b": picture(0, 2)}}, Code.INVALID_ARGUMENT, "inputs"),
        ({"target": nf.ClassTarget(4)}, Code.INVALID_ARGUMENT, "target"),
        ({"target": nf.ClassTarget("tabby")}, Code.INVALID_ARGUMENT, "target"),
        ({"layers": ("nowhere",)}, Code.INVALID_ARGUMENT, "layers"),
        ({"layers": ()}, Code.INVALID_ARGUMENT, "layers"),
        ({"top_feature_map": "nowhere"}, Code.INVALID_ARGUMENT, "top_feature_map"),
        ({"explained_input": "nowhere"}, Code.INVALID_ARGUMENT, "explained_input"),
        ({"output": "nowhere"}, Code.INVALID_ARGUMENT, "output"),
        ({"deadline": 0.0}, Code.DEADLINE_EXCEEDED, None),
    ],
)
def test_what_is_wrong_is_named(root: Path, change: dict[str, Any], code: Code, field: str | None) -> None:
    async def work() -> None:
        async with running(settings(root)) as engine:
            wrong = dataclasses.replace(request(MODELS[0]), **change)
            wrong = dataclasses.replace(wrong, inputs={k: np.asarray(v) for k, v in wrong.inputs.items()})
            with pytest.raises(EngineError) as caught:
                await read(engine.explain(wrong))
            assert (caught.value.code, caught.value.field) == (code, field)
            assert "\n" not in str(caught.value)
            assert engine.statistics().calls == 0

    run(work)


def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    model = network("residual")
    model.graph.node[1].op_type = "NoSuchOperator"
    model.graph.node[1].domain = "example.org"
    model.opset_import.add(domain="example.org", version=1)
    install(tmp_path, "strange", model)

    async def work() -> None:
        async with running(settings(tmp_path)) as engine:
            with pytest.raises(EngineError, match="NoSuchOperator") as caught:
                await read(engine.explain(request("strange")))
            assert caught.value.code is Code.UNIMPLEMENTED

    run(work)


def test_32_callers_on_2_models_get_their_own_maps(root: Path) -> None:
    async def one(engine: Any, caller: int) -> None:
        for turn in range(2):
            model, seed = MODELS[caller % 2], caller * 2 + turn
            got = flows(await read(engine.explain(request(model, picture(seed)))))
            for tensor, expected in serially(root, model, picture(seed)).items():
                np.testing.assert_array_equal(got[tensor], expected)

    async def work() -> None:
        async with running(settings(root)) as engine:
            await asyncio.gather(*(one(engine, caller) for caller in range(32)))
            assert engine.statistics().calls == 0

    run(work)


def test_a_full_queue_refuses_before_the_first_event(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root, limits={"queue": 3, "active": 1})) as engine:
            with slow(0.2):
                calls = [engine.explain(request(MODELS[0]))]
                await until(lambda: not engine.statistics().waiting)
                calls += [engine.explain(request(MODELS[0])) for _ in range(3)]
                with pytest.raises(EngineError) as caught:
                    engine.explain(request(MODELS[0]))
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            assert caught.value.retry_after is not None
            assert caught.value.retry_after > 0
            other = engine.explain(request(MODELS[1]))  # each model has a queue of its own
            for call in [*calls, other]:
                flows(await read(call))

    run(work)


@timed
def test_deadlines_hold_in_the_queue_and_while_computing(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root, limits={"active": 1})) as engine:
            await read(engine.explain(request(MODELS[0])))
            with slow(0.05):
                first = engine.explain(request(MODELS[0], deadline=time.monotonic() + 0.12))
                second = engine.explain(request(MODELS[0], deadline=time.monotonic() + 0.06))
                began = time.monotonic()
                with pytest.raises(EngineError) as caught:
                    await read(second)
                assert caught.value.code is Code.DEADLINE_EXCEEDED
                within(time.monotonic() - began, 0.3)
                with pytest.raises(EngineError) as caught:
                    await read(first)
                assert caught.value.code is Code.DEADLINE_EXCEEDED
            await until(lambda: engine.statistics().active == 0)
            assert engine.statistics().calls == 0

    run(work)


@timed
def test_cancelling_frees_the_thread_within_one_layer(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root, limits={"active": 1})) as engine:
            expected = flows(await read(engine.explain(request(MODELS[0]))))
            with slow(0.1) as taken:
                async with engine.explain(request(MODELS[0])) as call:
                    async for event in call:
                        if isinstance(event, LayerFlow):
                            break
                layers, began = len(taken), time.monotonic()
                await until(lambda: engine.statistics().active == 0)
                within(time.monotonic() - began, 0.2)
                assert len(taken) - layers <= 1
                with pytest.raises(EngineError) as caught:
                    await anext(call)
                assert caught.value.code is Code.CANCELLED
            again = flows(await read(engine.explain(request(MODELS[0]))))
            np.testing.assert_array_equal(again["x"], expected["x"])

    run(work)


def test_the_event_loop_is_never_blocked(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root)) as engine:
            late, stop = [0.0], asyncio.Event()

            async def tick() -> None:
                while not stop.is_set():
                    began = time.monotonic()
                    await asyncio.sleep(0.002)
                    late.append(time.monotonic() - began)

            ticking = asyncio.create_task(tick())
            x = np.zeros((1, 3, 5, 5), np.float32)
            await asyncio.gather(*(read(engine.explain(request(MODELS[i % 2], x + i))) for i in range(16)))
            stop.set()
            await ticking
            assert sorted(late)[int(len(late) * 0.95)] < 0.05

    run(work)


def test_a_layer_that_fails_does_not_end_the_stream(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = nf.Explanation.steps

    def broken(self: nf.Explanation) -> Any:
        for step in steps(self):
            finite = np.zeros_like(step.finite) if step.tensor == "b" else step.finite
            yield dataclasses.replace(step, finite=finite)

    async def work() -> None:
        async with running(settings(root)) as engine:
            with monkeypatch.context() as patch:
                kept: dict[int, Any] = {}
                patch.setattr(nf.Explanation, "steps", lambda s: kept.setdefault(id(s), broken(s)))
                events = await read(engine.explain(request(MODELS[0])))
            failure = next(event for event in events if isinstance(event, LayerFailure))
            assert (failure.tensor, failure.index, failure.code) == ("b", SPINE.index("b"), Code.INTERNAL)
            assert sorted(flows(events)) == sorted(set(SPINE) - {"b"})

    run(work)


def test_an_unexpected_failure_ends_only_its_own_stream(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: nf.Explanation) -> Any:
        raise RuntimeError("secret detail")

    async def work() -> None:
        async with running(settings(root)) as engine:
            with monkeypatch.context() as patch:
                patch.setattr(nf.Explanation, "steps", broken)
                with pytest.raises(EngineError, match="RuntimeError") as caught:
                    await read(engine.explain(request(MODELS[0], request_id="r-17")))
            assert caught.value.code is Code.INTERNAL
            assert "secret" not in str(caught.value)
            assert "secret detail" in caplog.text
            assert [getattr(record, "request_id", "") for record in caplog.records] == ["r-17"]
            flows(await read(engine.explain(request(MODELS[0]))))

    run(work)


def test_a_long_silence_is_filled_with_signs_of_life(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root, limits={"progress_seconds": 0.05})) as engine:
            await read(engine.explain(request(MODELS[0])))
            with slow(0.12):
                events = [event async for event in engine.explain(request(MODELS[0]))]
            signs = [event for event in events if isinstance(event, Progress)]
            assert len(signs) >= 4
            assert [sign.done for sign in signs] == sorted(sign.done for sign in signs)
            assert signs[-1].total == len(SPINE)
            assert signs[-1].seconds > signs[0].seconds > 0

    run(work)


@timed
def test_stopping_lets_streams_finish_or_ends_them(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root)) as engine:
            running_one = asyncio.create_task(read(engine.explain(request(MODELS[0]))))
            await asyncio.sleep(0)
            await engine.stop(grace=20.0)
            flows(await running_one)
            with pytest.raises(EngineError) as caught:
                engine.explain(request(MODELS[0]))
            assert caught.value.code is Code.UNAVAILABLE
        async with running(settings(root)) as engine:
            with slow(0.1):
                call = engine.explain(request(MODELS[0]))
                assert isinstance(await anext(call), Header)
                began = time.monotonic()
                await engine.stop(grace=0.05)
                within(time.monotonic() - began, 2.0)
                with pytest.raises(EngineError) as caught:
                    await read(call)
                assert caught.value.code is Code.UNAVAILABLE

    run(work)


def test_a_known_shape_compiles_nothing(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root)) as engine:
            await read(engine.explain(request(MODELS[0], picture(1))))
            before = engine.statistics().programs
            await read(engine.explain(request(MODELS[0], picture(2), target=nf.ClassTarget(1))))
            assert engine.statistics().programs == before

    run(work)


def test_inspection_and_named_inputs(root: Path) -> None:
    async def work() -> None:
        async with running(settings(root)) as engine:
            report = await engine.inspect(MODELS[0], input_shapes={"x": (1, 3, 5, 5)})
            assert report.to_dict()["top_feature_map"] == "top"
            with pytest.raises(EngineError) as caught:
                await engine.inspect("nothing")
            assert caught.value.code is Code.NOT_FOUND
            named = ExplainRequest(MODELS[0], {"x": picture(0)}, layers="spine")
            np.testing.assert_array_equal(
                flows(await read(engine.explain(named)))["r0"],
                flows(await read(engine.explain(request(MODELS[0]))))["r0"],
            )

    run(work)
