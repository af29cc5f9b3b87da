"""A scripted server, and a driver that runs the same call through the sync and the async client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from naflow_client import AsyncClient, Client, Outcome, Result, RetryPolicy
from support.explanation_server import Scripted, serving

QUICK = RetryPolicy(attempts=4, initial=0.01, maximum=0.05)


@dataclass(frozen=True)
class Driver:
    """One way to call the server."""

    kind: str

    def explain(self, address: str, *arguments: Any, client: Any = None, **options: Any) -> Result:
        """`explain(...).collect()`."""
        settings = {"retry": QUICK, **(client or {})}
        if self.kind == "sync":
            with Client(address, **settings) as made:
                return made.explain(*arguments, **options).collect()

        async def run() -> Result:
            async with AsyncClient(address, **settings) as made:
                return await made.explain(*arguments, **options).collect()

        return asyncio.run(run())

    def explain_many(
        self, address: str, *arguments: Any, client: Any = None, **options: Any
    ) -> list[Outcome]:
        """All outcomes of `explain_many`."""
        settings = {"retry": QUICK, **(client or {})}
        if self.kind == "sync":
            with Client(address, **settings) as made:
                return list(made.explain_many(*arguments, **options))

        async def run() -> list[Outcome]:
            async with AsyncClient(address, **settings) as made:
                return [outcome async for outcome in made.explain_many(*arguments, **options)]

        return asyncio.run(run())

    def call(self, address: str, name: str, *arguments: Any, client: Any = None, **options: Any) -> Any:
        """Any other method, by name."""
        settings = {"retry": QUICK, **(client or {})}
        if self.kind == "sync":
            with Client(address, **settings) as made:
                return getattr(made, name)(*arguments, **options)

        async def run() -> Any:
            async with AsyncClient(address, **settings) as made:
                return await getattr(made, name)(*arguments, **options)

        return asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest) -> Driver:
    return Driver(request.param)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Scripted, str]]:
    servicer = Scripted()
    with serving(servicer) as target:
        yield servicer, target
