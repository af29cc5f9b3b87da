"""The folder of banks: names, quotas, checks, locks, and many callers at once."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naflow_server.engine.banks.log import Log
from naflow_server.engine.banks.store import Store
from naflow_server.engine.types import Code, EngineError
from support.banks import MODEL, OTHER, after_a_crash, opened, rows, same


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "banks"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    made = opened(root)
    yield made
    made.close()


def add(store: Store, name: str, seed: int = 0, **options: Any) -> Any:
    return store.append(name, rows(seed), **{"model_sha256": MODEL, **options})


def test_banks_outlive_a_restart(root: Path) -> None:
    store = opened(root)
    made = store.create("b", 4, MODEL.upper())
    assert (made.version, made.count, made.model_sha256) == (0, 0, MODEL)
    store.create("a", 7, OTHER)
    done = add(store, "b", labels=["x", "", "y"])
    assert (done.version, done.first, done.bank.count, done.bank.labelled) == (1, 0, 3, 2)
    before = store.list()
    assert [bank.name for bank in before] == ["a", "b"]
    store.close()
    again = opened(root)
    assert again.list() == before
    same(again.snapshot("b"), [rows(0)], ["x", "", "y"])
    same(again.snapshot("a"), [], [], 7)
    again.close()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/a", ".hidden", "-a", "a\0b", "a\n", "ü", "x" * 129]
)
def test_names_cannot_leave_the_folder(root: Path, store: Store, name: str) -> None:
    for use in (
        lambda: store.create(name, 4, MODEL),
        lambda: add(store, name),
        lambda: store.get(name),
        lambda: store.snapshot(name),
        lambda: store.delete(name, allow_missing=True),
    ):
        with pytest.raises(EngineError) as caught:
            use()
        assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "bank_name")
    assert [path.name for path in root.parent.iterdir()] == ["banks"]
    assert [path.name for path in root.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("a", 0, MODEL), "dimension"),
        (("a", 16_385, MODEL), "dimension"),
        (("a", 4, "ab"), "model_sha256"),
        (("a", 4, ""), "model_sha256"),
        (("a", 4, MODEL, "1"), "bank_id"),
        (("a", 4, MODEL, "A" * 32), "bank_id"),
    ],
)
def test_impossible_banks(store: Store, arguments: Any, field: str) -> None:
    with pytest.raises(EngineError) as caught:
        store.create(*arguments)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, field)
    assert store.list() == ()


def with_row(row: int, *values: float) -> np.ndarray:
    table = rows(0)
    table[row] = values
    return table


@pytest.mark.parametrize(
    ("embeddings", "field", "said"),
    [
        (with_row(1, 0, np.nan, 0, 0), "embeddings[1]", "number 1 is nan"),
        (with_row(2, 0, 1, -np.inf, 0), "embeddings[2]", "number 2 is -inf"),
        (with_row(0, 0, 0, 0, 0), "embeddings[0]", "zero"),
        (with_row(1, 1e-30, 0, 0, 0), "embeddings[1]", "too small"),
        (with_row(1, 1e30, 0, 0, 0), "embeddings[1]", "too large"),
        (rows(0, 3, 5), "embeddings.shape", r"\[3, 5\] is not \[N, 4\]"),
        (rows(0)[0], "embeddings.shape", r"\[4\]"),
        (rows(0)[:0], "embeddings.shape", r"\[0, 4\]"),
        (rows(0).astype(np.float64), "embeddings.dtype", "float64"),
        (rows(0, 65), "embeddings", "1040 bytes"),
    ],
)
def test_impossible_embeddings_name_the_row(root: Path, embeddings: Any, field: str, said: str) -> None:
    store = opened(root, append_bytes=1024)
    store.create("a", 4, MODEL)
    with pytest.raises(EngineError, match=said) as caught:
        store.append("a", embeddings, model_sha256=MODEL)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, field)
    store.append("a", rows(0, 64), model_sha256=MODEL)
    assert store.get("a").version == 1
    store.close()


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        (["a"], "labels"),
        (["a", "b" * 1025, "c"], "labels[1]"),
        (["a", "b", "c\n"], "labels[2]"),
        (["\ud800", "b", "c"], "labels[0]"),
    ],
)
def test_impossible_labels_name_the_row(store: Store, labels: list[str], field: str) -> None:
    store.create("a", 4, MODEL)
    with pytest.raises(EngineError) as caught:
        add(store, "a", labels=labels)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, field)


def test_another_models_embeddings_and_strange_ids_are_refused(store: Store) -> None:
    store.create("a", 4, MODEL)
    with pytest.raises(EngineError, match=f"{MODEL}.*{OTHER}") as caught:
        add(store, "a", model_sha256=OTHER)
    assert (caught.value.code, caught.value.field) == (Code.FAILED_PRECONDITION, "model_sha256")
    add(store, "a", model_sha256=MODEL.upper())
    for wrong in ("x" * 129, "ü", "a\nb"):
        with pytest.raises(EngineError) as caught:
            add(store, "a", append_id=wrong)
        assert caught.value.field == "append_id"
    with pytest.raises(EngineError) as caught:
        add(store, "none")
    assert caught.value.reason == "bank_unknown"


def test_creating_and_deleting_again_is_harmless(store: Store) -> None:
    first = store.create("a", 4, MODEL, "1" * 32)
    assert store.create("a", 4, MODEL, "1" * 32) == first
    add(store, "a")
    for other in (("a", 4, MODEL), ("a", 4, MODEL, "2" * 32), ("a", 5, MODEL, "1" * 32)):
        with pytest.raises(EngineError) as caught:
            store.create(*other)
        assert caught.value.reason == "bank_exists"
    with pytest.raises(EngineError) as caught:
        store.delete("a", "2" * 32)
    assert caught.value.reason == "bank_unknown"
    store.delete("a", "2" * 32, allow_missing=True)
    assert store.get("a").count == 3
    store.delete("a", "1" * 32)
    store.delete("a", "1" * 32, allow_missing=True)
    with pytest.raises(EngineError):
        store.delete("a")
    assert store.numbers().bytes == 0
    assert store.create("a", 4, MODEL).id != first.id


def test_quotas(root: Path) -> None:
    store = opened(root, banks=2, embeddings=5, total_bytes=700)
    store.create("a", 4, MODEL)
    store.create("b", 4, MODEL)
    with pytest.raises(EngineError, match="2 banks already") as caught:
        store.create("c", 4, MODEL)
    assert (caught.value.code, caught.value.reason) == (Code.RESOURCE_EXHAUSTED, "bank_quota")
    assert caught.value.retry_after is None
    add(store, "a", append_id="once")
    with pytest.raises(EngineError, match="3 more are over the limit of 5"):
        add(store, "a")
    assert add(store, "a", append_id="once").repeated  # takes no room
    store.append("a", rows(9, 2), model_sha256=MODEL)
    taken = store.numbers().bytes
    assert taken == sum(p.stat().st_size for p in root.glob("*.bank"))
    with pytest.raises(EngineError, match=f"the banks take {taken} bytes") as caught:
        store.append("b", rows(1, 5), ["x" * 30] * 5, model_sha256=MODEL)
    assert "banks.total_bytes" in caught.value.hint
    store.delete("a")
    store.append("b", rows(1, 5), ["x" * 30] * 5, model_sha256=MODEL)
    store.close()
    again = opened(root, banks=1, embeddings=1, total_bytes=1)  # what is there stays
    assert again.get("b").count == 5
    again.close()


def test_a_full_disk_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("a", 4, MODEL)
    before = store.numbers()
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage("/")._replace(free=1000)
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(EngineError, match="no room") as caught:
            add(store, "a")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "pwrite"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(EngineError, match="no room"):
                store.create("b", 4, MODEL)
    assert store.numbers() == before
    assert store.create("b", 4, MODEL).count == 0


def test_a_creation_that_was_interrupted_leaves_nothing(root: Path, tmp_path: Path) -> None:
    store = opened(root)
    whole = (root / "done.bank", store.create("done", 4, MODEL))
    (root / ".new-0123").write_bytes(whole[0].read_bytes()[:20])
    (root / "notes.txt").write_text("not ours")
    found = after_a_crash(root, tmp_path / "copy")
    assert found.list() == (whole[1],)
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == [".lock", "done.bank", "notes.txt"]
    found.close()
    store.close()


def test_a_damaged_bank_is_listed_and_the_others_serve(root: Path) -> None:
    store = opened(root)
    for name in ("good", "bad"):
        store.create(name, 4, MODEL)
        add(store, name)
    store.close()
    file = root / "bad.bank"
    file.write_bytes(b"?" + file.read_bytes()[1:])
    store = opened(root)
    bad, good = store.list()
    assert (bad.name, bad.bytes, bad.reason) == ("bad", file.stat().st_size, "the file is not a bank")
    assert (good.reason, good.count) == ("", 3)
    assert store.get("bad") == bad
    for use in (lambda: add(store, "bad"), lambda: store.snapshot("bad")):
        with pytest.raises(EngineError, match="not a bank") as caught:
            use()
        assert caught.value.reason == "bank_damaged"
    with pytest.raises(EngineError):
        store.create("bad", 4, MODEL)
    store.delete("bad")
    assert store.create("bad", 4, MODEL).count == 0
    assert store.numbers().bytes == sum(p.stat().st_size for p in root.glob("*.bank"))
    store.close()


HOLD = """
import sys
from naflow_server.engine.banks.store import Store
from naflow_server.sections import BankSettings
from pathlib import Path
Store(Path(sys.argv[1]), BankSettings())
print("open", flush=True)
sys.stdin.read()
"""


def test_one_server_at_a_time(root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(EngineError, match=r"banks\.path .*another server uses this folder") as caught:
            opened(root)
        assert "\n" not in str(caught.value)
        other.kill()
    opened(root).close()  # the lock died with its process


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "no" / "parent"):
        with pytest.raises(EngineError, match=f"banks.path '{path}'"):
            opened(path)


def test_many_callers_at_once(store: Store) -> None:
    """Every append is whole and in one place, and every reader sees a beginning of the same sequence."""
    store.create("a", 4, MODEL)
    firsts: dict[int, int] = {}
    seen: list[Any] = []
    done = threading.Event()

    def write(worker: int) -> None:
        for turn in range(8):
            seed = worker * 8 + turn
            one = add(store, "a", seed, labels=[str(seed)] * 3, append_id=str(seed))
            firsts[seed] = one.first
            assert add(store, "a", seed, labels=[str(seed)] * 3, append_id=str(seed)).first == one.first

    def read() -> None:
        while not done.is_set():
            seen.append(store.snapshot("a"))

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    reader.join(60)
    final = store.snapshot("a")
    assert (final.version, len(final.embeddings)) == (32, 96)
    assert sorted(firsts.values()) == list(range(0, 96, 3))
    for seed, first in firsts.items():
        assert final.embeddings[first : first + 3].tobytes() == rows(seed).tobytes()
        assert final.labels[first : first + 3] == (str(seed),) * 3
    assert [s.version for s in seen] == sorted(s.version for s in seen)
    for one in seen:
        assert one.embeddings.tobytes() == final.embeddings[: 3 * one.version].tobytes()


def test_a_deletion_disturbs_no_reader(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("a", 4, MODEL)
    add(store, "a")
    real = Log._read

    def slow(log: Log, *given: Any) -> Any:
        store.delete("a")
        store.create("a", 4, MODEL)
        add(store, "a", 1)
        return real(log, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "_read", slow)
        same(store.snapshot("a"), [rows(0)], [""] * 3)
    same(store.snapshot("a"), [rows(1)], [""] * 3)
