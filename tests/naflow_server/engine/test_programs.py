"""How many compiled programs stay in memory, and what comes back from the cache folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naflow_core import ahead
from naflow_server.engine.programs import ProgramLimit
from support.engines import flows, read, repository, request, run, running, settings

NAME = "residual-1"
PROGRAM = """
import asyncio, json, sys, warnings
from pathlib import Path
import numpy as np
from naflow_server import logs
from naflow_server.engine import Engine
from naflow_server.settings import Settings
from support.blocks import picture
from support.engines import flows, read, request

async def work():
    engine = Engine(Settings(repository={"path": sys.argv[1]}, compilation={"cache": sys.argv[2]}))
    await engine.start()
    await engine.loaded()
    maps = flows(await read(engine.explain(request("residual-1"))))
    now = engine.statistics()
    sums = {name: float(values.sum()) for name, values in maps.items()}
    print(json.dumps({"programs": now.programs, "hits": now.cache_hits, "maps": sums}))
    await engine.stop()

logs.configure("info", "json")
asyncio.run(work())
"""


def in_a_process(root: Path, cache: Path) -> tuple[dict[str, Any], str]:
    """What a fresh process has compiled for one request, and its log."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), str(cache)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_restart_compiles_nothing_and_survives_a_damaged_cache(tmp_path: Path) -> None:
    root, cache = repository(tmp_path / "models", NAME), tmp_path / "cache"
    first, _ = in_a_process(root, cache)
    assert first["programs"] > 0
    assert first["hits"] < first["programs"]
    second, _ = in_a_process(root, cache)
    assert second == {**first, "hits": first["programs"]}
    entries = sorted(cache.glob("*-cache"))
    for number, entry in enumerate(entries):
        content = entry.read_bytes()
        damaged = [b"", content[: len(content) // 2], b"\xff" * 300, content[:-8] + b"\0" * 8]
        entry.write_bytes(damaged[number % len(damaged)])
    third, log = in_a_process(root, cache)
    assert third["maps"] == first["maps"]
    assert third["hits"] < first["programs"]
    assert "persistent compilation cache" in log
    for line in log.splitlines():
        json.loads(line)


def test_programs_are_dropped_and_come_back(tmp_path: Path) -> None:
    """Also from under the threads that compile ahead of the next turns."""
    root = repository(tmp_path, NAME)
    ahead.drop_programs()  # those that other tests made

    async def work() -> None:
        async with running(settings(root, compilation={"programs": 12})) as engine:
            first = flows(await read(engine.explain(request(NAME))))
            again = flows(await read(engine.explain(request(NAME))))
            for tensor, values in first.items():
                np.testing.assert_array_equal(again[tensor], values)
            now = engine.statistics()
            assert now.program_drops >= 1
            assert now.programs_held <= 12

    run(work)


def test_never_in_the_middle_of_a_turn() -> None:
    """Eight threads that make programs in their turns: at every drop none of them is inside one."""
    inside, made, seen = [0], [0], []
    lock = threading.Lock()

    def drop() -> None:
        seen.append(inside[0])
        time.sleep(0.002)
        seen.append(inside[0])

    limit = ProgramLimit(10, lambda: made[0], drop)

    def work(_: int) -> None:
        for _ in range(40):
            with limit.turn():
                with lock:
                    inside[0] += 1
                    made[0] += 1
                time.sleep(0.0005)
                with lock:
                    inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8), timeout=60))
    assert set(seen) == {0}
    assert limit.drops == len(seen) // 2
    assert 320 / (10 + 8) - 1 <= limit.drops <= 320 / 10
    assert limit.held <= 10


def test_a_turn_that_fails_counts_as_over() -> None:
    made, drops = [0], []
    limit = ProgramLimit(1, lambda: made[0], lambda: drops.append(made[0]))

    def failing() -> None:
        with limit.turn():
            made[0] = 2
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert drops == [2]
    with limit.turn():
        pass
    assert (limit.drops, limit.held) == (1, 0)


def test_without_a_limit_nothing_is_dropped() -> None:
    limit = ProgramLimit(None, lambda: 10**9, lambda: pytest.fail("dropped"))
    with limit.turn():
        pass
    assert limit.drops == 0
