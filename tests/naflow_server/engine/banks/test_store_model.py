"""Whatever is done with banks, in whichever order and with crashes in between, a dict would have said."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from naflow_server.engine.types import EngineError
from support.banks import MODEL, opened, rows, same

NAMES = st.sampled_from(["a", "b", "c"])
IDS = st.sampled_from(["", "1", "2", "3"])
MOST = 2


@dataclass
class Expected:
    """A bank as it should be."""

    id: str
    appends: list[tuple[int, int, bool]] = field(default_factory=list)  # seed, rows, labelled
    ids: dict[str, int] = field(default_factory=dict)

    def embeddings(self, version: int) -> list[np.ndarray]:
        return [rows(seed, count) for seed, count, _ in self.appends[:version]]

    def labels(self, version: int) -> list[str]:
        return [str(s) if named else "" for s, n, named in self.appends[:version] for _ in range(n)]


class Machine(RuleBasedStateMachine):
    """A store beside its model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.root = self.folder / "banks"
        self.banks: dict[str, Expected] = {}
        self.store = opened(self.root, banks=MOST)

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        if name in self.banks or len(self.banks) == MOST:
            with pytest.raises(EngineError):
                self.store.create(name, 4, MODEL)
        else:
            self.banks[name] = Expected(self.store.create(name, 4, MODEL).id)

    @rule(name=NAMES, seed=st.integers(0, 9), count=st.integers(1, 3), named=st.booleans(), key=IDS)
    def append(self, name: str, seed: int, count: int, named: bool, key: str) -> None:
        bank, one = self.banks.get(name), (seed, count, named)
        labels = [str(seed)] * count if named else []

        def send() -> tuple[int, bool]:
            done = self.store.append(name, rows(seed, count), labels, model_sha256=MODEL, append_id=key)
            return done.version, done.repeated

        if bank is None or (key in bank.ids and bank.appends[bank.ids[key] - 1] != one):
            with pytest.raises(EngineError):
                send()
        elif key in bank.ids:
            assert send() == (bank.ids[key], True)
        else:
            bank.appends.append(one)
            if key:
                bank.ids[key] = len(bank.appends)
            assert send() == (len(bank.appends), False)

    @precondition(lambda self: self.banks)
    @rule(data=st.data())
    def read_an_older_version(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.banks)))
        bank = self.banks[name]
        version = data.draw(st.integers(0, len(bank.appends)))
        same(self.store.snapshot(name, version), bank.embeddings(version), bank.labels(version))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if self.banks.pop(name, None) is None:
            with pytest.raises(EngineError):
                self.store.delete(name)
        else:
            self.store.delete(name)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = opened(self.root, banks=MOST)

    @precondition(lambda self: any(bank.appends for bank in self.banks.values()))
    @rule(data=st.data())
    def crash_in_an_append(self, data: st.DataObject) -> None:
        """The last append got to disk in part, and nobody was told that it had got there."""
        name = data.draw(st.sampled_from(sorted(n for n, bank in self.banks.items() if bank.appends)))
        bank = self.banks[name]
        self.store.close()
        file = self.root / f"{name}.bank"
        seed, count, named = bank.appends.pop()
        bank.ids = {key: at for key, at in bank.ids.items() if at <= len(bank.appends)}
        text = len(str([str(seed)] * count)) if named else 0
        lost = data.draw(st.integers(1, 80 + count * 16 + text))
        file.write_bytes(file.read_bytes()[:-lost])
        self.store = opened(self.root, banks=MOST)

    @invariant()
    def as_expected(self) -> None:
        listed = {bank.name: bank for bank in self.store.list()}
        assert listed.keys() == self.banks.keys()
        for name, bank in self.banks.items():
            version, found = len(bank.appends), listed[name]
            same(self.store.snapshot(name), bank.embeddings(version), bank.labels(version))
            assert (found.id, found.version, found.count) == (bank.id, version, len(bank.labels(version)))
            assert found.labelled == sum(map(bool, bank.labels(version)))
        assert self.store.numbers().bytes == sum(p.stat().st_size for p in self.root.glob("*.bank"))

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


TestStore = Machine.TestCase
TestStore.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
