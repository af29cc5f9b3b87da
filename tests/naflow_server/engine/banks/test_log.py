"""A bank's file: what survives a crash, what is torn, what is damaged."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naflow_server.engine.banks import frames, view
from naflow_server.engine.banks.frames import DamagedError, Facts
from naflow_server.engine.banks.log import Log
from naflow_server.engine.types import Code, EngineError
from support.banks import MODEL, rows, same

FACTS = Facts("faces", "0" * 32, 4, MODEL)
APPENDS = [(rows(0), ["a", "", "ü"], "first"), (rows(1, 1), [], ""), (rows(2, 2), ["b", "b"], "third")]


def admit(*_: Any) -> None:
    """Everything."""


def fill(log: Log, appends: list[Any]) -> list[int]:
    """Append all; where the file ended before the first and after each."""
    ends = [log.info.bytes]
    for embeddings, labels, append_id in appends:
        ends.append(log.append(embeddings, labels, append_id, admit, admit).bank.bytes)
    return ends


def content(appends: list[Any]) -> tuple[list[np.ndarray], list[str]]:
    labels = [label for e, given, _ in appends for label in given or [""] * len(e)]
    return [e for e, _, _ in appends], labels


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that open hundreds of files and look at no disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Log.create(tmp_path / "faces.bank", FACTS)
    return tmp_path / "faces.bank"


@pytest.fixture
def ends(path: Path) -> list[int]:
    log = Log(path, "faces")
    try:
        return fill(log, APPENDS)
    finally:
        log.close()


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        yield
        return
    before = len(list(folder.iterdir()))
    yield
    assert len(list(folder.iterdir())) == before


def test_what_was_appended_is_there_at_every_version(path: Path, ends: list[int]) -> None:
    log = Log(path, "faces")
    info = log.info
    assert (info.version, info.count, info.labelled, info.bytes) == (3, 6, 4, ends[-1])
    assert path.stat().st_size == ends[-1]
    for version in range(4):
        same(log.snapshot(version), *content(APPENDS[:version]))
    same(log.snapshot(), *content(APPENDS))
    for wrong in (-1, 4):
        with pytest.raises(EngineError, match=f"no version {wrong}"):
            log.snapshot(wrong)
    log.close()


@pytest.mark.usefixtures("no_waiting")
def test_a_torn_end_is_cut_at_every_byte(path: Path, ends: list[int]) -> None:
    """Whatever of the last appends is missing, what was whole before is there, and appending goes on."""
    raw = path.read_bytes()
    for size in range(ends[0], len(raw)):
        path.write_bytes(raw[:size])
        kept = max(i for i, end in enumerate(ends) if end <= size)
        log = Log(path, "faces")
        assert path.stat().st_size == ends[kept]
        same(log.snapshot(), *content(APPENDS[:kept]))
        fill(log, APPENDS[kept:])
        same(log.snapshot(), *content(APPENDS))
        log.close()


@pytest.mark.parametrize("filler", [b"\0", b"\xff"])
@pytest.mark.usefixtures("no_waiting")
def test_a_tail_of_the_right_length_but_not_written_is_cut(
    path: Path, ends: list[int], filler: bytes
) -> None:
    """A file system may lengthen the file before the content is there."""
    raw = path.read_bytes()
    for written in range(ends[2], ends[3]):
        garbled = raw[:written] + filler * (ends[3] - written)
        if garbled == raw:
            continue
        path.write_bytes(garbled)
        log = Log(path, "faces")
        same(log.snapshot(), *content(APPENDS[:2]))
        log.close()
        assert path.stat().st_size == ends[2]


@pytest.mark.usefixtures("no_waiting")
def test_harm_in_the_middle_is_reported_and_nothing_is_cut(path: Path, ends: list[int]) -> None:
    raw, reported = path.read_bytes(), 0
    for at in range(ends[2]):
        damaged = bytearray(raw)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        try:
            log = Log(path, "faces")
        except DamagedError:
            reported += 1
        else:  # in a payload, which is checked when it is read
            with pytest.raises(EngineError, match="damaged at byte") as caught:
                log.snapshot()
            assert caught.value.reason == "bank_damaged"
            log.close()
        assert path.read_bytes() == bytes(damaged)
    assert reported == ends[0] + 2 * frames.HEADER_BYTES


def test_an_embedding_cannot_pass_for_a_frame(path: Path, ends: list[int]) -> None:
    """A torn append whose content is another bank's file is torn, not damaged."""
    inner = path.read_bytes()
    inner += bytes(-len(inner) % 16)
    other = path.with_name("other.bank")
    Log.create(other, Facts("other", "1" * 32, 4, MODEL))
    log = Log(other, "other")
    (start, _, _) = fill(log, [(rows(5), [], ""), (np.frombuffer(inner, "<f4").reshape(-1, 4), [], "")])
    kept = log.snapshot(1).embeddings
    first_end = start + frames.HEADER_BYTES + kept.nbytes
    log.close()
    raw = bytearray(other.read_bytes())
    raw[first_end : first_end + frames.HEADER_BYTES] = bytes(frames.HEADER_BYTES)
    other.write_bytes(raw)
    log = Log(other, "other")
    assert log.info.version == 1
    log.close()


@pytest.mark.parametrize("text", [b"", b"NAFBANK1", b"something else entirely, and long enough to be one"])
def test_other_files_are_no_banks(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(DamagedError):
        Log(path, "faces")


def test_a_renamed_file_is_refused(path: Path) -> None:
    with pytest.raises(DamagedError, match="'faces', rename it back"):
        Log(path.rename(path.with_name("x.bank")), "x")


def test_a_link_is_not_followed(path: Path) -> None:
    link = path.with_name("link.bank")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        Log(link, "faces")


def test_the_same_append_is_added_once(path: Path, ends: list[int]) -> None:
    for _ in range(2):  # before and after a restart
        log = Log(path, "faces")
        again = log.append(*APPENDS[2], admit, admit)
        assert (again.repeated, again.version, again.first, again.bank.version) == (True, 3, 4, 3)
        with pytest.raises(EngineError, match="'first' with other content") as caught:
            log.append(*APPENDS[0][:1], ["a", "", "u"], "first", admit, admit)
        assert (caught.value.code, caught.value.field) == (Code.FAILED_PRECONDITION, "append_id")
        same(log.snapshot(), *content(APPENDS))
        log.close()
    log = Log(path, "faces")
    assert not log.append(*APPENDS[1], admit, admit).repeated  # without an id it is another one
    assert log.info.count == 7
    log.close()


def test_a_whole_append_that_was_not_acknowledged_is_not_doubled(path: Path) -> None:
    """The server died between disk and answer; the caller comes again."""
    log = Log(path, "faces")
    fill(log, APPENDS)
    log.close()
    log = Log(path, "faces")
    assert log.append(*APPENDS[2], admit, admit).repeated
    assert log.info.count == 6
    log.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    log = Log(path, "faces")
    fill(log, APPENDS[:1])
    size, real, freed = path.stat().st_size, os.pwrite, []

    def partly(fd: int, data: Any, offset: int) -> int:
        if len(data) < 60:
            raise OSError(number, os.strerror(number))
        return real(fd, data[:40], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", partly)
        with pytest.raises(EngineError) as caught:
            log.append(*APPENDS[2], admit, freed.append)
    assert caught.value.reason == ("disk_full" if number == errno.ENOSPC else "bank_unwritable")
    assert path.stat().st_size == size
    assert len(freed) == 1
    same(log.snapshot(), *content(APPENDS[:1]))
    fill(log, APPENDS[1:])
    same(log.snapshot(), *content(APPENDS))
    log.close()


def test_after_a_failed_fsync_nothing_more_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(path, "faces")
    fill(log, APPENDS[:1])

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(EngineError, match="cannot be written"):
            log.append(*APPENDS[1], admit, admit)
    with pytest.raises(EngineError, match="takes no more appends"):
        log.append(*APPENDS[1], admit, admit)
    assert log.append(*APPENDS[0], admit, admit).repeated  # what is there can still be acknowledged
    same(log.snapshot(), *content(APPENDS[:1]))
    log.close()
    log = Log(path, "faces")
    fill(log, APPENDS[1:])
    log.close()


def test_an_append_is_on_disk_before_it_shows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(path, "faces")
    seen = []
    real = os.fsync

    def look(fd: int) -> None:
        seen.append((log.info.version, path.stat().st_size > log.info.bytes))
        real(fd)

    monkeypatch.setattr(os, "fsync", look)
    fill(log, APPENDS[:2])
    assert seen == [(0, True), (1, True)]
    log.close()


def test_a_disk_that_cannot_be_read_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(path, "faces")
    fill(log, APPENDS)

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        for use in (log.snapshot, lambda: log.append(*APPENDS[0], admit, admit)):
            with pytest.raises(EngineError, match="cannot be read: Input/output error") as caught:
                use()
            assert caught.value.reason == "bank_damaged"
    path.write_bytes(path.read_bytes()[:-1])  # a foreign hand, while the bank is open
    with pytest.raises(EngineError, match="damaged at byte"):
        log.snapshot()
    same(log.snapshot(2), *content(APPENDS[:2]))
    log.close()


def test_harm_before_a_large_append_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next frame is looked for across pieces."""
    log = Log(path, "faces")
    (start, _, _) = fill(log, [(rows(0, 70), [], ""), (rows(1), [], "")])
    log.close()
    raw = bytearray(path.read_bytes())
    raw[start + 20] ^= 1
    path.write_bytes(raw)
    for piece in range(1, 20):
        monkeypatch.setattr(view, "PIECE", piece)
        with pytest.raises(DamagedError, match=f"byte {start}"):
            Log(path, "faces")


def test_a_closed_bank_is_gone(path: Path) -> None:
    log = Log(path, "faces")
    assert log.close() == log.close() == path.stat().st_size
    for use in (lambda: log.append(*APPENDS[0], admit, admit), log.snapshot):
        with pytest.raises(EngineError) as caught:
            use()
        assert caught.value.code is Code.NOT_FOUND
