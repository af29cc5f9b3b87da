"""Many inputs over one call to the real server, TLS and token on: order, one bad input, leaving, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from naflow_client import AsyncClient, Client, Keyed, Outcome, RequestError, RetryPolicy
from naflow_server.engine import Engine
from support.blocks import network, picture
from support.engines import slow
from support.grpc_server import Running, running
from support.secure_server import Secure, secure_server

COUNT, BAD = 20, 7
PATIENT = RetryPolicy(attempts=40, initial=0.05, maximum=0.2)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    limits = {"stream_requests": 4}
    with secure_server(
        tmp_path_factory.mktemp("server"), {"residual": network("residual")}, limits=limits
    ) as server:
        yield server


@pytest.fixture(scope="module")
def alone(secure: Secure) -> list[dict[str, np.ndarray]]:
    """The maps of each picture, asked for one by one."""
    with Client(secure.address, **secure.access) as client:
        results = [
            client.explain("residual", picture(seed=i), layers="spine").collect() for i in range(COUNT)
        ]
    return [{flow.tensor: flow.map for flow in result.flows} for result in results]


def check(outcome: Outcome, alone: list[dict[str, np.ndarray]]) -> None:
    """The same maps as alone; batches may change the last digits."""
    flows = {flow.tensor: flow.map for flow in outcome.get().flows}
    assert set(flows) == set(alone[outcome.index])
    for tensor, wanted in alone[outcome.index].items():
        np.testing.assert_allclose(flows[tensor], wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("order", ["input", "completion"])
def test_twenty_inputs_one_bad(driver: Any, secure: Secure, alone: Any, order: str) -> None:
    given: list[Any] = [Keyed(f"picture {i}", picture(seed=i)) for i in range(COUNT)]
    given[BAD] = Keyed("bad", picture(seed=BAD)[:, :, :3])
    outcomes = driver.explain_many(
        secure.address, "residual", iter(given), layers="spine", order=order, client=secure.access
    )
    assert sorted(outcome.index for outcome in outcomes) == list(range(COUNT))
    if order == "input":
        assert [outcome.key for outcome in outcomes] == [item.key for item in given]
    for outcome in outcomes:
        if outcome.index == BAD:
            assert isinstance(outcome.error, RequestError)
            assert outcome.error.field.startswith("inputs")
            assert outcome.key == "bad"
        else:
            check(outcome, alone)


def test_leaving_in_the_middle_frees_the_server(secure: Secure) -> None:
    gauge = secure.running.gauge

    def idle() -> bool:
        return gauge("naflow_open_calls") == gauge("naflow_explanations_in_progress") == 0

    given = [picture(seed=i) for i in range(COUNT)]
    with slow(0.02), Client(secure.address, **secure.access) as client:
        for outcome in client.explain_many("residual", given, layers="nodes"):
            assert gauge("naflow_open_calls") == 1
            if outcome.index == 2:
                break
        until(idle)
        with client.explain_many("residual", given, layers="nodes") as stream:
            next(stream.events())
        until(idle)

    async def run() -> None:
        async with (
            AsyncClient(secure.address, **secure.access) as client,
            client.explain_many("residual", given, layers="nodes") as stream,
        ):
            async for outcome in stream:
                if outcome.index == 2:
                    break

    with slow(0.02):
        asyncio.run(run())
        until(idle)


class Restarting:
    """A server that is stopped, and started again on its port, in another thread."""

    def __init__(self, secure: Secure) -> None:
        old = secure.running.server
        port = old.settings.server.model_copy(update={"port": old.port, "grace_seconds": 20.0})
        self.settings = old.settings.model_copy(update={"server": port})
        self.stack = contextlib.ExitStack()
        self.failed: list[BaseException] = []
        self.restarts = 0

    def start(self) -> Running:
        return self.stack.enter_context(running(self.settings, Engine))

    def restart(self) -> None:
        try:
            self.stack.close()
            self.start()
            self.restarts += 1
        except BaseException as error:  # noqa: BLE001  raised in the test
            self.failed.append(error)


def test_restarts_lose_nothing(driver: Any, tmp_path: Any, alone: Any) -> None:
    """The server goes down and comes back twice while 20 inputs are under way."""
    (tmp_path / "a").mkdir()
    with secure_server(tmp_path / "a", {"residual": network("residual")}) as secure:
        restarting, address, access = Restarting(secure), secure.address, secure.access
    restarting.start()
    threads: list[threading.Thread] = []

    def source() -> Iterator[np.ndarray]:
        for i in range(COUNT):
            if i in (8, 16):
                threads.append(threading.Thread(target=restarting.restart))
                if len(threads) > 1:
                    threads[-2].join(30)
                threads[-1].start()
            yield picture(seed=i)

    try:
        outcomes = driver.explain_many(
            address, "residual", source(), layers="spine", client={**access, "retry": PATIENT}
        )
    finally:
        for thread in threads:
            thread.join(60)
        restarting.stack.close()
    assert restarting.failed == []
    assert restarting.restarts == 2
    assert [outcome.index for outcome in outcomes] == list(range(COUNT))
    for outcome in outcomes:
        check(outcome, alone)


def test_the_reference_prediction_comes_when_asked_for(driver: Any, secure: Secure) -> None:
    x = picture(seed=3, count=2)
    plain = driver.explain(secure.address, "residual", x, layers="spine", client=secure.access)
    assert all(prediction.reference is None for prediction in plain.header.predictions)
    asked = driver.explain(
        secure.address,
        "residual",
        x,
        layers="spine",
        reference_prediction=True,
        top_k=3,
        client=secure.access,
    )
    for prediction in asked.header.predictions:
        reference = prediction.reference
        assert len(reference.best) == len(reference.scores) == 3
        assert [row.index for row in reference.best] == [row.index for row in prediction.best]
        assert reference.scores == tuple(row.score for row in reference.best)
        assert reference.scores == pytest.approx([row.score for row in prediction.best], rel=1e-4)
        assert 0 <= reference.largest_difference < 1e-4
    for got, wanted in zip(asked.flows, plain.flows, strict=True):
        assert got.map.tobytes() == wanted.map.tobytes()
