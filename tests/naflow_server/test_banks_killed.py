"""kill -9 of a real server, again and again, while clients append: what it acknowledged is there, once.

The environment variable NAFLOW_KILLS sets how often, for example to 50.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from naflow_client import Client, RetryPolicy
from naflow_server.engine.banks import Snapshot
from support.banks import MODEL, after_a_crash, rows
from support.server_process import ServerProcess, server_process

KILLS = int(os.environ.get("NAFLOW_KILLS", "5"))
WRITERS = 3
DIMENSION = 64
SIZES = (1, 3, 40, 2000)  # rows; the largest take half a MiB
PATIENT = RetryPolicy(attempts=10_000, initial=0.02, maximum=0.2)
BANK = "references"
# A disk that takes 4 KiB at a time, and its time for it: kills hit in the middle of appends.
SLOW_DISK = """
import os, time
pwrite = os.pwrite
def piecewise(fd, data, offset):
    time.sleep(0.0005)
    return pwrite(fd, data[:4096], offset)
os.pwrite = piecewise
"""


def one(writer: int, turn: int) -> np.ndarray:
    """What a writer appends in its n-th turn."""
    return rows(writer * 1_000_000 + turn, SIZES[(writer + turn) % len(SIZES)], DIMENSION)


class Writer(threading.Thread):
    """Appends until it is told to stop; the SDK retries over restarts.

    Attributes:
        acknowledged: position of the first row by turn.
    """

    def __init__(self, number: int, target: str) -> None:
        super().__init__(daemon=True)
        self.number, self.target = number, target
        self.acknowledged: dict[int, int] = {}
        self.enough = threading.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with Client(self.target, retry=PATIENT, deadline=120) as client:
                while not self.enough.is_set():
                    turn = len(self.acknowledged)
                    table = one(self.number, turn)
                    labels = [f"{self.number}/{turn}"] * len(table)
                    done = client.append_references(BANK, table, labels, model_sha256=MODEL)
                    first = int(done.positions[0])
                    assert done.positions.tolist() == list(range(first, first + len(table)))
                    self.acknowledged[turn] = first
        except Exception as error:  # noqa: BLE001 (raised in the test's own thread)
            self.failure = error


def check(found: Snapshot, writers: list[Writer], acknowledged: list[dict[int, int]]) -> None:
    """All that was acknowledged is where it was said to be, and all that is there is whole and there once."""
    at, seen = 0, set()
    while at < len(found.labels):
        label = found.labels[at]
        writer, turn = map(int, label.split("/"))
        table = one(writer, turn)
        end = at + len(table)
        assert found.labels[at:end] == (label,) * len(table), f"append {label} is not whole"
        assert found.embeddings[at:end].tobytes() == table.tobytes(), f"append {label} has other content"
        assert label not in seen, f"append {label} is there twice"
        seen.add(label)
        at = end
    assert found.version == len(seen)
    for thread, known in zip(writers, acknowledged, strict=True):
        for turn, first in known.items():
            label = f"{thread.number}/{turn}"
            assert found.labels[first : first + 1] == (label,), f"append {label} was acknowledged and is lost"
        assert sum(label.startswith(f"{thread.number}/") for label in seen) <= len(known) + 1


def test_what_was_acknowledged_survives(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"NAFLOW_BANKS__PATH": str(tmp_path / "banks"), "NAFLOW_SERVER__PORT": str(port)}
    target, chance = f"127.0.0.1:{port}", random.Random(1)
    writers = [Writer(number, target) for number in range(WRITERS)]

    def start(stack: ExitStack) -> ServerProcess:
        made = stack.enter_context(server_process(tmp_path / "models", SLOW_DISK, **environment))
        made.log_until("serving")
        return made

    def acknowledged() -> list[dict[int, int]]:
        return [dict(writer.acknowledged) for writer in writers]

    def count() -> int:
        return sum(len(writer.acknowledged) for writer in writers)

    last_count, last_size = -1, 0

    def in_a_large_append() -> bool:
        """The file has grown since the last answer by more than all smaller appends together."""
        nonlocal last_count, last_size
        if count() != last_count:
            last_count, last_size = count(), file.stat().st_size
        return 100_000 < file.stat().st_size - last_size < 400_000

    def wait_until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert not [writer.failure for writer in writers if writer.failure]
            assert time.monotonic() < end
            time.sleep(0.001)

    def wait_for_answers(more: int) -> None:
        enough = count() + more
        wait_until(lambda: count() >= enough)

    file, torn = tmp_path / "banks" / f"{BANK}.bank", 0
    with ExitStack() as last:
        for kill in range(KILLS):
            with ExitStack() as stack:
                process = start(stack).process
                if not kill:
                    with Client(target) as client:
                        client.create_bank(BANK, DIMENSION, MODEL)
                    for writer in writers:
                        writer.start()
                wait_for_answers(3)
                if kill % 2:
                    wait_until(in_a_large_append)
                else:
                    time.sleep(chance.uniform(0, 0.1))
                process.kill()
                process.wait(30)
                known, size = acknowledged(), file.stat().st_size
                store = after_a_crash(tmp_path / "banks", tmp_path / "found")
                check(store.snapshot(BANK), writers, known)
                torn += store.get(BANK).bytes < size
                store.close()
        final = start(last)
        for writer in writers:
            writer.enough.set()
        for writer in writers:
            writer.join(60)
            assert writer.failure is None
            assert not writer.is_alive()
        assert final.stop() == 0
    store = after_a_crash(tmp_path / "banks", tmp_path / "found")
    found = store.snapshot(BANK)
    check(found, writers, acknowledged())
    assert found.version == count() > 3 * KILLS
    assert torn >= KILLS // 2, "kills that should have hit an append did not"
    store.close()
