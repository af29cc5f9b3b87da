"""Models that arrive in chunks: written aside, verified, moved into the repository in one step."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import naflow_core as nf
from naflow_server.engine import failures
from naflow_server.engine.repository.layout import (
    LayoutError,
    check_name,
    check_version,
    read_config,
    scan_model,
)
from naflow_server.engine.types import Code, EngineError
from naflow_server.sections import UploadSettings

log = logging.getLogger("naflow_server.repository")
ASIDE = ".uploads"
SPARE_BYTES = 64 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")


class Uploads:
    """Uploads into one repository folder.

    Args:
        root: the repository.
        settings: off by default; limits.
        limits: what a model may cost.
    """

    def __init__(self, root: Path, settings: UploadSettings, limits: nf.Limits) -> None:
        self._root, self._settings, self._limits = root, settings, limits
        self._open: set[Upload] = set()

    async def clean(self) -> None:
        """Remove what interrupted uploads have left; not those of another server on the same folder."""
        if self._settings.enabled:
            await asyncio.to_thread(_remove_dead, self._root / ASIDE)

    async def begin(self, name: str, *, size: int, sha256: str, version: str | None = None) -> Upload:
        """Start an upload.

        Args:
            size: of the file in bytes.
            sha256: its digest, hexadecimal.
            version: to become; the next free one when None.

        Raises:
            EngineError: uploads are off, a name, size or digest is not allowed, the version is there already,
                too many uploads run, or the disk is full.
        """
        settings = self._settings
        if not settings.enabled:
            raise EngineError(
                Code.PERMISSION_DENIED,
                "uploads are switched off on this server",
                hint="set repository.upload.enabled",
                reason="upload_disabled",
            )
        check_name(name)
        if version is not None:
            check_version(version)
        if not SHA256.fullmatch(sha256.lower()):
            raise _invalid("sha256", "sha256 must be 64 hexadecimal digits")
        if not 1 <= size <= settings.bytes:
            raise _invalid("size", f"size {size} must lie between 1 and {settings.bytes} bytes")
        if len(self._open) >= settings.concurrent:
            raise EngineError(
                Code.RESOURCE_EXHAUSTED,
                f"{len(self._open)} uploads are under way",
                hint="try again later",
                retry_after=1.0,
                reason="too_many_uploads",
            )
        upload = Upload(self, name, version, size, sha256.lower())
        self._open.add(upload)
        preparing = asyncio.ensure_future(asyncio.to_thread(upload.prepare))
        try:
            await asyncio.shield(preparing)
        except BaseException:
            await asyncio.gather(
                preparing, return_exceptions=True
            )  # the thread goes on when we are cancelled
            await upload.abort()
            raise
        return upload

    async def close(self) -> None:
        """Drop every upload that is under way."""
        for upload in list(self._open):
            await upload.abort()

    def closed(self, upload: Upload) -> None:
        """An upload has ended."""
        self._open.discard(upload)

    @property
    def root(self) -> Path:
        """The repository."""
        return self._root

    @property
    def settings(self) -> UploadSettings:
        """Limits."""
        return self._settings

    @property
    def limits(self) -> nf.Limits:
        """What a model may cost."""
        return self._limits


class Upload:
    """One upload: `write` chunks in order, then `finish`. Leaving `async with upload` earlier drops it."""

    def __init__(self, owner: Uploads, name: str, version: str | None, size: int, sha256: str) -> None:
        self.name, self.version = name, version
        self._owner, self._size, self._sha256 = owner, size, sha256
        self._digest = hashlib.sha256()
        self._written = 0
        self._folder = Path()
        self._file: BinaryIO | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._filename = "model.onnx"
        self._lock = asyncio.Lock()

    @property
    def written(self) -> int:
        """Bytes that have arrived."""
        return self._written

    def prepare(self) -> None:
        """Open the file aside. Runs on a thread."""
        root = self._owner.root
        model = root / self.name
        try:
            if model.exists():
                scanned = scan_model(root, self.name)
                if scanned is not None and "out of the repository" in scanned.reason:
                    raise EngineError(Code.FAILED_PRECONDITION, scanned.reason, reason="model_unusable")
                self._filename = read_config(model).filename
            if self.version is not None and (model / self.version).exists():
                raise self._exists(self.version)
            if shutil.disk_usage(root).free < self._size + SPARE_BYTES:
                raise EngineError(
                    Code.RESOURCE_EXHAUSTED, "the repository's disk has no room for it", reason="disk_full"
                )
            aside = root / ASIDE
            aside.mkdir(mode=0o700, exist_ok=True)
            if aside.is_symlink():
                raise EngineError(
                    Code.FAILED_PRECONDITION, f"{ASIDE} is a link", hint="remove it", reason="model_unusable"
                )
            self._folder = Path(tempfile.mkdtemp(dir=aside))
            try:
                self._file = (self._folder / self._filename).open("xb")
            except OSError:
                self._folder.rmdir()
                raise
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # tells other servers that it is alive
        except LayoutError as error:
            raise EngineError(Code.FAILED_PRECONDITION, str(error), reason="model_unusable") from None
        except OSError as error:
            raise _not_written(error) from error

    async def write(self, chunk: bytes) -> None:
        """Append a chunk.

        Raises:
            EngineError: it is too large, more than was announced, or cannot be written. The upload is
                dropped.
        """
        async with self._lock:
            largest = self._owner.settings.chunk_bytes
            try:
                if self._file is None:
                    raise _dropped()
                if len(chunk) > largest:
                    raise _invalid("data", f"a chunk of {len(chunk)} bytes is over the limit of {largest}")
                if self._written + len(chunk) > self._size:
                    raise _invalid("data", f"more than the announced {self._size} bytes arrived")
                await asyncio.to_thread(self._append, chunk)
            except BaseException:
                await self._drop()
                raise
            self._watch()

    async def finish(self) -> str:
        """Verify what has arrived and move it into the repository; the new version.

        Raises:
            EngineError: size or digest differ, it is not a usable model, or the version is there already. The
                upload is dropped.
        """
        async with self._lock:
            try:
                if self._file is None:
                    raise _dropped()
                if self._written != self._size:
                    raise _invalid("size", f"{self._written} of the announced {self._size} bytes arrived")
                if self._digest.hexdigest() != self._sha256:
                    raise _invalid("sha256", f"the file has sha256 {self._digest.hexdigest()}")
                return await asyncio.to_thread(self._install)
            finally:
                await self._drop()

    async def abort(self) -> None:
        """Drop what has arrived. Does nothing after `finish`."""
        async with self._lock:
            await self._drop()

    async def __aenter__(self) -> Upload:
        self._watch()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.abort()

    def _watch(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._owner.settings.idle_seconds, self._expire)

    def _expire(self) -> None:
        log.warning("upload of model %r is dropped: nothing arrived for a while", self.name)
        self._expiry = asyncio.ensure_future(self.abort())

    def _append(self, chunk: bytes) -> None:
        assert self._file is not None, "checked by write"
        try:
            self._file.write(chunk)
        except OSError as error:
            raise _not_written(error) from error
        self._digest.update(chunk)
        self._written += len(chunk)

    def _install(self) -> str:
        assert self._file is not None, "checked by finish"
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            nf.load(self._folder / self._filename, limits=self._owner.limits)
            model = self._owner.root / self.name
            model.mkdir(exist_ok=True)
            while True:
                version = self.version or self._next_version(model)
                try:
                    (model / version).mkdir()  # taken by one upload, whatever else goes on
                    break
                except FileExistsError:
                    if self.version is not None:
                        raise self._exists(version) from None
            self._folder.chmod(0o755)
            try:
                self._folder.replace(model / version)  # an empty folder is replaced in one step
            except OSError:
                (model / version).rmdir()
                with contextlib.suppress(OSError):
                    model.rmdir()  # unless it has other versions
                raise
        except nf.NaflowError as error:
            raise failures.from_core(error) from error
        except OSError as error:
            raise _not_written(error) from error
        log.info("model %r, version %s was uploaded (%d bytes)", self.name, version, self._size)
        return version

    def _next_version(self, model: Path) -> str:
        numbers = [int(p.name) for p in model.iterdir() if p.name.isdecimal() and len(p.name) <= 18]
        return str(max(numbers, default=0) + 1)

    def _exists(self, version: str) -> EngineError:
        return EngineError(
            Code.FAILED_PRECONDITION,
            f"model {self.name!r} has a version {version} already",
            hint="choose another version, or none",
            field="version",
            reason="version_exists",
        )

    async def _drop(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._file is not None:
            self._file.close()
            self._file = None
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        self._owner.closed(self)


def _invalid(field: str, message: str) -> EngineError:
    return EngineError(Code.INVALID_ARGUMENT, message, field=field, reason="upload_invalid")


def _dropped() -> EngineError:
    return EngineError(
        Code.FAILED_PRECONDITION, "the upload has ended", hint="start it again", reason="upload_ended"
    )


def _remove_dead(aside: Path) -> None:
    """Remove the folders of uploads whose server has ended: their file's lock is free."""
    if aside.is_symlink() or not aside.is_dir():
        return
    for folder in aside.iterdir():
        with contextlib.suppress(OSError):
            for file in folder.iterdir():
                with file.open("rb") as opened:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _not_written(error: OSError) -> EngineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EngineError(
            Code.RESOURCE_EXHAUSTED, "the repository's disk has no room for it", reason="disk_full"
        )
    return EngineError(
        Code.INTERNAL, f"the repository cannot be written: {error.strerror}", reason="repository_unwritable"
    )
