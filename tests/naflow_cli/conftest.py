"""One explanation of the demo network, shared by the tests that look at its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import Ended, demo_picture, explain_demo


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(pytestconfig: pytest.Config) -> Iterator[None]:
    """Keep compiled programs in pytest's own folder, never in the user's."""
    cache = pytestconfig.cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAFLOW_COMPILATION_CACHE", str(cache.mkdir("xla")) if cache else "off")
        yield


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """`naflow explain` of one picture with --json: the result folder and how it ended."""
    out = tmp_path_factory.mktemp("one") / "out"
    ended = explain_demo(out, "--json")
    assert ended.status == 0, ended.stderr
    return out, ended


@pytest.fixture(scope="session")
def demo_batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`naflow explain` of three pictures, one by one: the result folder."""
    out = tmp_path_factory.mktemp("three") / "out"
    ended = explain_demo(out, pictures=[demo_picture(3), demo_picture(7), demo_picture(8)])
    assert ended.status == 0, ended.stderr
    return out


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where the results would go; whatever happens there, a failed run leaves nothing behind."""
    place = tmp_path / "place"
    place.mkdir()
    yield place / "deep" / "out"
    assert list(place.iterdir()) == []
