"""One bank's file: appended to by one thread at a time, read by any number."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from naflow_server.engine.banks import frames, refusals
from naflow_server.engine.banks.frames import DamagedError, Facts, Frame
from naflow_server.engine.banks.types import Appended, BankInfo, Snapshot
from naflow_server.engine.banks.view import FileView

log = logging.getLogger("naflow_server.banks")


@dataclass(frozen=True, slots=True)
class State:
    """What readers see of a bank; replaced as a whole once an append is on disk."""

    version: int = 0
    count: int = 0
    labelled: int = 0
    end: int = 0

    def after(self, count: int, labelled: int, end: int) -> State:
        """With one more append, which ends there."""
        return State(self.version + 1, self.count + count, self.labelled + labelled, end)


class Log:
    """An open bank. `create` makes its file, the constructor opens it and cuts off what a crash has left.

    Args:
        path: of the file.
        name: that the bank must have.

    Raises:
        DamagedError: the file is not as it was written, apart from a torn end.
        OSError: it cannot be opened, read or cut.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._append_lock, self._file_lock = threading.Lock(), threading.Lock()
        self._keys: dict[bytes, int] = {}  # of appends with an id: where their frame begins
        self._unwritable = ""
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.facts, self._marker, self._start, self._state = self._recover(self._fd, name)
        except BaseException:
            os.close(self._fd)
            raise

    @staticmethod
    def create(path: Path, facts: Facts) -> None:
        """Write the file of an empty bank and wait until it is on disk. The path must be free.

        Raises:
            OSError: it cannot be written.
        """
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, frames.prologue(facts, secrets.token_bytes(frames.MARKER_BYTES)), 0)
            os.fsync(fd)
        finally:
            os.close(fd)

    @property
    def info(self) -> BankInfo:
        """The bank as it is now; never waits."""
        return self._info(self._state)

    def append(
        self,
        embeddings: np.ndarray,
        labels: Sequence[str],
        append_id: str,
        admit: Callable[[BankInfo, int, int], None],
        release: Callable[[int], None],
    ) -> Appended:
        """Add embeddings, and wait until they are on disk.

        Args:
            embeddings: checked, float32 [N, dimension].
            labels: checked, N or none.
            append_id: see `Appended.repeated`; "" is never repeated.
            admit: called with the bank, the embeddings and the bytes to come; refuses by raising.
            release: takes the bytes back when nothing came of it.

        Raises:
            EngineError: refused, another append had this id, the bank was deleted, or the disk failed.
        """
        payload, key = frames.pack(embeddings, labels), frames.key_of(append_id)
        with self._append_lock:
            fd, state = self._open_file(), self._state
            if key in self._keys:
                return self._repeated(self._keys[key], payload.digest, append_id)
            if self._unwritable:
                raise refusals.unwritable(self.facts.name, self._unwritable)
            raw = frames.frame(self._marker, payload, version=state.version + 1, first=state.count, key=key)
            admit(self._info(state), payload.count, len(raw))
            try:
                self._write_through(fd, raw, state.end)
            except BaseException as error:
                release(len(raw))
                if isinstance(error, OSError):
                    raise refusals.not_written(error) from error
                raise
            if key != frames.NO_ID:
                self._keys[key] = state.end
            self._state = state.after(payload.count, payload.labelled, state.end + len(raw))
            return Appended(self.info, self._state.version, state.count)

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The content at a version, now's when None. Appends and deletion meanwhile do not show.

        Raises:
            EngineError: the bank was deleted, has no such version, or its file is damaged.
        """
        state = self._state
        wanted = state.version if version is None else version
        if not 0 <= wanted <= state.version:
            raise refusals.no_version(self.facts.name, wanted, state.version)
        with self._view(state.end) as view:
            return self._read(view, wanted)

    def close(self) -> int:
        """Close the file when the append that runs has ended; how long the file was."""
        with self._append_lock, self._file_lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            return self._state.end

    def _recover(self, fd: int, name: str) -> tuple[Facts, bytes, int, State]:
        size = os.fstat(fd).st_size
        view = FileView(fd, size)
        facts, marker, start = frames.read_prologue(view)
        if facts.name != name:
            raise DamagedError(f"the file is that of bank {facts.name!r}, rename it back")
        state = State(end=start)
        for found in frames.frames(view, start, marker, facts.dimension):
            state = state.after(found.count, found.labelled, found.end)
            if found.key != frames.NO_ID:
                self._keys[found.key] = found.offset
        if state.end < size:
            log.warning(
                "bank %r: %d bytes of an append that was not acknowledged are cut off", name, size - state.end
            )
            os.ftruncate(fd, state.end)
        os.fsync(fd)  # the last append may be whole, and yet not on disk
        return facts, marker, start, state

    def _read(self, view: FileView, version: int) -> Snapshot:
        chosen: list[Frame] = []
        offset = self._start
        while len(chosen) < version:
            found = frames.header_at(view, offset, self._marker)
            if found is None:
                raise DamagedError(f"the file is damaged at byte {offset}")
            chosen.append(found)
            offset = found.end
        count = sum(found.count for found in chosen)
        embeddings = np.empty((count, self.facts.dimension), np.float32)
        labels: list[str] = []
        for found in chosen:
            content = frames.payload_of(view, found)
            if content is None:
                raise DamagedError(f"the file is damaged at byte {found.payload}")
            part, names = frames.unpack(content, found)
            embeddings[found.first : found.first + found.count] = part
            labels += names
        embeddings.flags.writeable = False
        return Snapshot(self.facts.id, self.facts.model_sha256, version, embeddings, tuple(labels))

    @contextmanager
    def _view(self, end: int) -> Iterator[FileView]:
        """The file up to `end`, on a descriptor of its own, so that a deletion disturbs nobody.

        Raises:
            EngineError: the bank was deleted; or for what goes wrong within.
        """
        with self._file_lock:
            fd = os.dup(self._open_file())
        try:
            yield FileView(fd, end)
        except DamagedError as error:
            raise refusals.damaged(self.facts.name, str(error)) from error
        except OSError as error:
            why = f"the file cannot be read: {error.strerror}"
            raise refusals.damaged(self.facts.name, why) from error
        finally:
            os.close(fd)

    def _open_file(self) -> int:
        if self._fd is None:
            raise refusals.unknown(self.facts.name)
        return self._fd

    def _repeated(self, offset: int, digest: bytes, append_id: str) -> Appended:
        with self._view(self._state.end) as view:
            found = frames.header_at(view, offset, self._marker)
            if found is None:
                raise DamagedError(f"the file is damaged at byte {offset}")
        if found.digest != digest:
            raise refusals.id_taken(self.facts.name, append_id)
        return Appended(self.info, found.version, found.first, repeated=True)

    def _write_through(self, fd: int, raw: bytes, end: int) -> None:
        """Write a frame to disk; what a failure leaves is cut off, as a crash's would be."""
        try:
            _write(fd, raw, end)
        except BaseException:
            self._cut(fd, end)
            raise
        try:
            os.fsync(fd)
        except OSError as error:
            # The system may have dropped what it could not write, and would not say so a second time.
            self._unwritable = error.strerror or "the disk failed"
            self._cut(fd, end)
            raise

    def _cut(self, fd: int, end: int) -> None:
        try:
            os.ftruncate(fd, end)
        except OSError as error:
            self._unwritable = error.strerror or "the disk failed"

    def _info(self, state: State) -> BankInfo:
        facts = self.facts
        return BankInfo(
            facts.name,
            facts.id,
            facts.dimension,
            facts.model_sha256,
            state.version,
            state.count,
            state.labelled,
            state.end,
        )


def _write(fd: int, raw: bytes, offset: int) -> None:
    rest = memoryview(raw)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written
