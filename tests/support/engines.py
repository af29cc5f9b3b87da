"""A running engine over a folder of tiny models."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from naflow_core import cascade
from naflow_server.engine import (
    Call,
    Engine,
    Event,
    ExplainRequest,
    Header,
    LayerFailure,
    LayerFlow,
    Progress,
    Summary,
)
from naflow_server.settings import Settings
from support.blocks import network, picture

PATIENCE = 240.0


def install(root: Path, name: str, model: ModelProto | bytes, version: str = "1", config: str = "") -> Path:
    """Put a model into a repository folder; the path of its file."""
    folder = root / name / version
    folder.mkdir(parents=True, exist_ok=True)
    content = model if isinstance(model, bytes) else model.SerializeToString()
    # Written aside and moved, as a deployment does it: a poll never sees half a file.
    aside = folder / "model.onnx.new"
    aside.write_bytes(content)
    aside.replace(folder / "model.onnx")
    if config:
        (root / name / "config.pbtxt").write_text(config, encoding="utf-8")
    return folder / "model.onnx"


def repository(root: Path, *names: str) -> Path:
    """A folder with one tiny network for each name; the names choose block and seed, e.g. "residual-1"."""
    for name in names:
        block, _, seed = name.rpartition("-")
        install(root, name, network(block, seed=int(seed)))
    return root


def settings(root: Path, **sections: Mapping[str, Any]) -> Settings:
    """Settings for a repository folder; `limits.events` counts, however small the maps of a tiny network."""
    own = {name: dict(values) for name, values in sections.items()}
    own["limits"] = {"gather_bytes": 0, **own.get("limits", {})}
    own["repository"] = {**own.get("repository", {}), "path": root}
    return Settings(**own)


@asynccontextmanager
async def running(configured: Settings) -> AsyncIterator[Engine]:
    """An engine with its models loaded; stopped at the end."""
    engine = Engine(configured)
    await engine.start()
    try:
        await engine.loaded()
        yield engine
    finally:
        await engine.stop()


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine with a bound on its time."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await work()

    asyncio.run(bounded())


def request(model: str, x: np.ndarray | None = None, **options: Any) -> ExplainRequest:
    """A request for every spine layer of one picture."""
    return ExplainRequest(model, {"": picture(0) if x is None else x}, **{"layers": "spine", **options})


async def read(call: Call) -> list[Event]:
    """All events but signs of life."""
    return [event async for event in call if not isinstance(event, Progress)]


def flows(events: list[Event]) -> dict[str, np.ndarray]:
    """Maps by tensor, after checking that the stream is complete and in order."""
    assert isinstance(events[0], Header)
    assert isinstance(events[-1], Summary)
    between = events[1:-1]
    layers = [event.flow for event in between if isinstance(event, LayerFlow)]
    failures = [event for event in between if isinstance(event, LayerFailure)]
    assert len(layers) + len(failures) == len(between) == events[0].total
    assert events[-1].layers == len(layers)
    assert events[-1].failed == len(failures)
    order = [
        e.flow.index if isinstance(e, LayerFlow) else e.index for e in between if not isinstance(e, Header)
    ]
    assert order == sorted(order, reverse=True)
    return {flow.tensor: flow.map for flow in layers}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens on another thread."""
    while not condition():
        await asyncio.sleep(0.005)


@contextmanager
def slow(seconds: float) -> Iterator[list[str]]:
    """Each step of every cascade takes that much longer; gives the list of the tensors that were reached."""
    real, taken = cascade.step, []

    def step(plan: Any, segment: Any, *rest: Any) -> Any:
        taken.append(segment.source)
        time.sleep(seconds)
        return real(plan, segment, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "step", step)
        yield taken


@contextmanager
def held() -> Iterator[tuple[threading.Event, threading.Event]]:
    """The next step of any cascade waits: gives the event that says it has come, and the one to let it go."""
    real, came, go = cascade.step, threading.Event(), threading.Event()

    def step(*given: Any) -> Any:
        came.set()
        assert go.wait(PATIENCE)
        return real(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "step", step)
        try:
            yield came, go
        finally:
            go.set()
