"""Compiling ahead changes when programs are made, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest

import naflow_core as nf
from naflow_core import ahead
from support.blocks import network, picture


def compile_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("naflow-compile")}


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a new process on a machine with several cores; no thread of ours is left afterwards."""
    monkeypatch.setattr(ahead, "_compiled", set())
    monkeypatch.setattr(ahead.os, "cpu_count", lambda: 4)
    before = compile_threads()
    yield
    give_up = time.monotonic() + 120
    while compile_threads() - before and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not compile_threads() - before


def explain(rows: str = "retained") -> list[np.ndarray]:
    model = nf.load(network("residual"))
    return [flow.map for flow in model.explain(picture(1), method=nf.Method(rows=rows), layers="spine")]


@pytest.mark.parametrize("rows", ["retained", "active"])
def test_flows_are_the_same_as_one_after_the_other(rows, monkeypatch, nothing_compiled):
    together = explain(rows)
    monkeypatch.setattr(ahead, "MOST_THREADS", 1)
    for a, b in zip(together, explain(rows), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_compiled_is_not_compiled_again(monkeypatch, nothing_compiled):
    explain()
    made = set(ahead._compiled)
    assert made
    compiled: list[object] = []
    monkeypatch.setattr(ahead, "_compile", lambda key, *_: compiled.append(key))
    explain()
    assert compiled == []


def test_a_plan_whose_programs_are_there_is_not_searched_until_they_are_dropped(
    monkeypatch, nothing_compiled
):
    searched: list[object] = []
    real = ahead._missing
    monkeypatch.setattr(ahead, "_missing", lambda *rest: searched.append(1) or real(*rest))
    model = nf.load(network("residual"))

    def searches() -> int:
        searched.clear()
        model.explain(picture(1), layers="spine").collect()
        return len(searched)

    assert [searches() for _ in range(4)] == [1, 1, 0, 0]  # compiles, finds that nothing is missing, knows it
    ahead.drop_programs()
    assert [searches() for _ in range(3)] == [1, 1, 0]


def test_an_abandoned_explanation_leaves_no_thread(nothing_compiled):
    explanation = nf.load(network("residual")).explain(picture(1), layers="spine")
    next(explanation)
    del explanation


def test_a_failure_while_compiling_reaches_the_caller(monkeypatch, nothing_compiled):
    def fail(*_):
        raise RuntimeError("no compiler today")

    monkeypatch.setattr(ahead, "_compile", fail)
    with pytest.raises(RuntimeError, match="no compiler today"):
        explain()


def test_programs_are_for_the_callers_device(nothing_compiled):
    device = jax.devices()[0]
    with jax.default_device(device):
        explain()
    chosen = set(ahead._compiled)
    assert {key[0] for key in chosen} == {device}
    explain()
    assert {key[0] for key in ahead._compiled - chosen} == {None}
