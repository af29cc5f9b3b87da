"""Recent results are kept, up to a limit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from naflow_core.evaluate.memory import Memory, digest


def test_the_oldest_goes_first() -> None:
    memory = Memory(limit=100)
    made: list[str] = []

    def get(name: str, count: int = 10) -> np.ndarray:
        def make() -> dict[str, np.ndarray]:
            made.append(name)
            return {"a": np.zeros(count, np.float32)}

        return memory.get((name,), make)["a"]

    assert get("one") is get("one")
    get("two")
    get("one")  # now younger than two
    get("three")
    get("one")
    assert made == ["one", "two", "three"]
    get("two")
    assert made == ["one", "two", "three", "two"]
    assert len(get("large", 1000)) == len(get("large", 1000)) == 1000  # never kept
    assert made[-2:] == ["large", "large"]


def test_what_several_threads_need_is_made_once() -> None:
    memory, made, begun = Memory(), [], threading.Event()

    def slow() -> np.ndarray:
        begun.set()
        made.append(memory.get(("within",), lambda: 1))  # another key in the meantime
        threading.Event().wait(0.05)
        return np.zeros(3)

    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(memory.get, ("slow",), slow) for _ in range(3)]
        assert begun.wait(30)
        assert memory.get(("other",), lambda: "at once") == "at once"
        first = answers[0].result()
        assert all(answer.result() is first for answer in answers)
    assert made == [1]


def test_a_failure_is_not_kept() -> None:
    memory = Memory()
    with pytest.raises(ZeroDivisionError):
        memory.get(("key",), lambda: 1 // 0)
    assert memory.get(("key",), lambda: 7) == 7


def test_digests_tell_arrays_apart() -> None:
    a = np.arange(6, dtype=np.float32)
    other = [a + 1, a.reshape(2, 3), a.astype(np.float64), a[::-1]]
    assert len({digest(array) for array in [a, *other]}) == 5
    assert digest(a) == digest(a.copy())
    assert digest(a, a) != digest(a)
    assert digest(a.reshape(2, 3).T) == digest(np.ascontiguousarray(a.reshape(2, 3).T))
