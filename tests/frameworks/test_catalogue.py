"""The list of networks that the tests go by is what the exporters write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from frameworks.catalogue import EXPORTERS, OUTPUTS, SPATIAL


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_every_file_is_listed(exporter: str, exported: Callable[[str], Path]) -> None:
    written = {path.stem for path in exported(exporter).glob("*.onnx")}
    assert written == set(EXPORTERS[exporter].networks)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_every_exporter_has_a_page_and_at_least_three_networks(exporter: str) -> None:
    facts = EXPORTERS[exporter]
    here = Path(__file__).resolve().parent
    assert (here / facts.folder / "export.py").is_file()
    page = (here.parents[1] / "docs" / "frameworks" / f"{facts.folder}.md").read_text(encoding="utf-8")
    assert f"tests/frameworks/{facts.folder}/export.py" in page
    assert len(facts.networks) == len(set(facts.networks)) >= 3


def test_exceptions_name_networks() -> None:
    names = {name for facts in EXPORTERS.values() for name in facts.networks}
    assert {*OUTPUTS, *SPATIAL} <= names
