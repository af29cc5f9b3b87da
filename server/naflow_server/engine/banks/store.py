"""The folder of all banks: one file for each, one server at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from naflow_server.engine.banks import checks, refusals
from naflow_server.engine.banks.frames import DamagedError, Facts
from naflow_server.engine.banks.log import Log
from naflow_server.engine.banks.types import Appended, BankInfo, BankNumbers, Snapshot
from naflow_server.sections import BankSettings

log = logging.getLogger("naflow_server.banks")
LOCK = ".lock"
NEW = ".new-"
SUFFIX = ".bank"
SPARE_BYTES = 64 << 20


class Store:
    """All banks of a folder, from any thread. The folder is locked until `close`.

    Args:
        root: made if it does not exist and its parent does.
        settings: quotas.

    Raises:
        EngineError: the folder cannot be used, or another server uses it.
    """

    def __init__(self, root: Path, settings: BankSettings) -> None:
        self._root, self._settings = root, settings
        self._lock = threading.Lock()  # for the fields below; never held together with a wait for an append
        self._logs: dict[str, Log] = {}  # replaced, not changed: readers need no lock
        self._damaged: dict[str, BankInfo] = {}  # likewise
        self._bytes = 0
        try:
            with contextlib.suppress(FileExistsError):
                root.mkdir(mode=0o700)
                _sync(root.parent)
            self._lock_fd = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise refusals.unusable(root, error.strerror or "fails", "choose a folder of ours") from error
        try:
            self._take()
            self._read_folder()
        except BaseException:
            self.close()
            raise

    def create(self, name: str, dimension: int, model_sha256: str, bank_id: str = "") -> BankInfo:
        """Make an empty bank; the one that is there when name and id are its.

        Args:
            bank_id: 32 hexadecimal digits; a new one when "".

        Raises:
            EngineError: a value is not allowed, the name is taken, or a quota is used up.
        """
        settings = self._settings
        facts = Facts(
            checks.check_name(name),
            checks.check_bank_id(bank_id) or uuid.uuid4().hex,
            checks.check_dimension(dimension, settings),
            checks.check_model(model_sha256),
        )
        with self._lock:
            there = self._logs.get(name)
            if there is not None and there.facts == facts:
                return there.info
            path = self._path(name)
            if there is not None or name in self._damaged or path.exists():
                raise refusals.exists(name)
            if len(self._logs) + len(self._damaged) >= settings.banks:
                raise refusals.quota("banks.banks", f"the server has {settings.banks} banks already")
            try:
                made = self._make(path, facts)
            except OSError as error:
                raise refusals.not_written(error) from error
            self._logs = {**self._logs, name: made}
            self._bytes += made.info.bytes
        log.info("bank %r was created", name)
        return made.info

    def append(
        self,
        name: str,
        embeddings: np.ndarray,
        labels: Sequence[str] = (),
        *,
        model_sha256: str,
        append_id: str = "",
    ) -> Appended:
        """Add embeddings at the end of a bank, and wait until they are on disk.

        Args:
            embeddings: float32 [N, dimension].
            labels: N, "" for those without one; or none at all.
            model_sha256: of the model file that they come from.
            append_id: the same content under the same id is added once, however often it comes.

        Raises:
            EngineError: no such bank, another model, a value that is not allowed, or a quota is used up.
        """
        found = self._find(name)
        settings = self._settings
        model = checks.check_model(model_sha256)
        if model != found.facts.model_sha256:
            raise refusals.other_model(name, found.facts.model_sha256, model)
        checks.check_append_id(append_id)
        checks.check_embeddings(embeddings, found.facts.dimension, settings)
        checks.check_labels(labels, len(embeddings), settings)
        return found.append(embeddings, labels, append_id, self._admit, self._release)

    def list(self) -> tuple[BankInfo, ...]:
        """Every bank, by name; never waits."""
        found = {**self._damaged, **{name: known.info for name, known in self._logs.items()}}
        return tuple(found[name] for name in sorted(found))

    def get(self, name: str) -> BankInfo:
        """One bank; never waits.

        Raises:
            EngineError: no such bank, or not a bank's name.
        """
        damaged = self._damaged.get(checks.check_name(name))
        return damaged if damaged is not None else self._known(name).info

    def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        """What a bank holds at a version, now's when None.

        Raises:
            EngineError: no such bank or version, or its file is damaged.
        """
        return self._find(name).snapshot(version)

    def delete(self, name: str, bank_id: str = "", *, allow_missing: bool = False) -> None:
        """Delete a bank. Snapshots that were taken, or are being taken, are not disturbed.

        Args:
            bank_id: only if this is its id; whichever has the name when "".
            allow_missing: do nothing if it is not there.

        Raises:
            EngineError: no such bank, or it cannot be removed.
        """
        checks.check_bank_id(bank_id)
        with self._lock:
            found = self._logs.get(checks.check_name(name))
            damaged = self._damaged.get(name)
            known = found.facts.id if found is not None else ""
            if (found is None and damaged is None) or (bank_id and known != bank_id):
                if allow_missing:
                    return
                raise refusals.unknown(name)
            try:
                self._path(name).unlink(missing_ok=True)
            except OSError as error:
                raise refusals.not_written(error) from error
            self._logs = {key: value for key, value in self._logs.items() if key != name}
            self._damaged = {key: value for key, value in self._damaged.items() if key != name}
        freed = found.close() if found is not None else damaged.bytes if damaged is not None else 0
        self._release(freed)
        try:
            _sync(self._root)
        except OSError as error:
            raise refusals.not_written(error) from error
        log.info("bank %r was deleted", name)

    def numbers(self) -> BankNumbers:
        """How much all banks hold; never waits."""
        banks = self.list()
        return BankNumbers(len(banks), sum(b.count for b in banks), sum(b.bytes for b in banks))

    def close(self) -> None:
        """Wait for appends that run, close all files and let another server have the folder."""
        with self._lock:
            logs, self._logs = self._logs, {}
        for known in logs.values():
            known.close()
        os.close(self._lock_fd)

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusals.unusable(
                self._root, "another server uses this folder", "give each server a folder of its own"
            ) from None
        except OSError as error:
            hint = "choose a file system with locks"
            raise refusals.unusable(self._root, f"cannot be locked: {error.strerror}", hint) from error

    def _read_folder(self) -> None:
        try:
            for path in sorted(self._root.iterdir()):
                if path.name.startswith(NEW):
                    path.unlink()  # of a creation that was interrupted
                elif path.suffix == SUFFIX and checks.NAME.fullmatch(path.stem):
                    self._read_bank(path)
        except OSError as error:
            raise refusals.unusable(
                self._root, f"cannot be read: {error.strerror}", "mend its permissions"
            ) from error

    def _read_bank(self, path: Path) -> None:
        name = path.stem
        try:
            self._logs[name] = Log(path, name)
            self._bytes += self._logs[name].info.bytes
        except (DamagedError, OSError) as error:
            why = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
            size = path.lstat().st_size
            log.error("bank %r cannot be used: %s", name, why)
            self._damaged[name] = BankInfo(name, bytes=size, reason=why)
            self._bytes += size

    def _make(self, path: Path, facts: Facts) -> Log:
        """A bank's file appears under its name when it is complete."""
        aside = self._root / f"{NEW}{uuid.uuid4().hex}"
        try:
            Log.create(aside, facts)
            aside.rename(path)
            _sync(self._root)
            return Log(path, facts.name)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            raise

    def _admit(self, bank: BankInfo, count: int, size: int) -> None:
        """Set bytes aside for an append, or refuse it."""
        settings = self._settings
        if bank.count + count > settings.embeddings:
            raise refusals.quota(
                "banks.embeddings",
                f"bank {bank.name!r} has {bank.count} embeddings, {count} more are over the limit of "
                f"{settings.embeddings}",
            )
        with self._lock:
            if self._bytes + size > settings.total_bytes:
                raise refusals.quota(
                    "banks.total_bytes",
                    f"the banks take {self._bytes} bytes, {size} more are over the limit of "
                    f"{settings.total_bytes}",
                )
            self._bytes += size
        try:
            full = shutil.disk_usage(self._root).free < size + SPARE_BYTES
        except OSError:
            full = False  # the write will tell
        if full:
            self._release(size)
            raise refusals.no_room()

    def _release(self, size: int) -> None:
        with self._lock:
            self._bytes -= size

    def _find(self, name: str) -> Log:
        damaged = self._damaged.get(checks.check_name(name))
        if damaged is not None:
            raise refusals.damaged(name, damaged.reason)
        return self._known(name)

    def _known(self, name: str) -> Log:
        found = self._logs.get(name)
        if found is None:
            raise refusals.unknown(name)
        return found

    def _path(self, name: str) -> Path:
        return self._root / f"{name}{SUFFIX}"


def _sync(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
