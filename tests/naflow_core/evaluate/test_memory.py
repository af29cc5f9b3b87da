"""Recent results are kept, up to a limit."""

from __future__ import annotations

import numpy as np

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


def test_digests_tell_arrays_apart() -> None:
    a = np.arange(6, dtype=np.float32)
    other = [a + 1, a.reshape(2, 3), a.astype(np.float64), a[::-1]]
    assert len({digest(array) for array in [a, *other]}) == 5
    assert digest(a) == digest(a.copy())
    assert digest(a, a) != digest(a)
    assert digest(a.reshape(2, 3).T) == digest(np.ascontiguousarray(a.reshape(2, 3).T))
