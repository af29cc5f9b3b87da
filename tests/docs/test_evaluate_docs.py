"""docs/evaluate.md lists every measure and every method, each where it belongs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from naflow_core.evaluate import METHODS, METRICS, rivals

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")


def row(start: str) -> str:
    """The table row that begins with a text."""
    found = re.search(rf"^\| {re.escape(start)} \|(.*)$", TEXT, re.MULTILINE)
    assert found is not None, start
    return found[1]


def names(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_measures_are_marked_as_they_are_registered() -> None:
    listed = re.findall(r"`([a-z-]+)`( \*)?", "".join(re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)))
    assert {name for name, _ in listed} == {m.name for m in METRICS if not m.stability}
    assert {name for name, mark in listed if mark} == {m.name for m in METRICS if m.faithfulness}


@pytest.mark.parametrize(("start", "better"), [("`road` *", "higher"), ("`deletion-layer-mask` *", "lower")])
def test_directions(start: str, better: str) -> None:
    assert row(start).split("|")[0].strip() == better
    assert METRICS[start.strip("`* ")].better == better


def test_methods_are_listed_where_they_belong() -> None:
    usual, controls, others = (
        names(row(start)) for start in ("by default", "controls, by default", "on request")
    )
    assert usual | controls == set(METHODS)
    assert controls == {name for name in rivals.REGISTRY.names() if rivals.find(name).control}
    assert others == set(rivals.REGISTRY.names()) - set(METHODS)
