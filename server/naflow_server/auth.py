"""Bearer tokens."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

from naflow_server.sections import SecuritySettings
from naflow_server.settings import SettingsError

LOG = logging.getLogger(__name__)
HEADER = "authorization"
LARGEST_FILE = 1 << 20


class Tokens:
    """Knows which bearer tokens are good. The tokens themselves are kept as digests only.

    A tokens file is read again when it has changed. When it cannot be read any more, the tokens last read
    stay good; when it holds none, nobody gets in.
    """

    def __init__(self, settings: SecuritySettings) -> None:
        self._fixed = [_digest(settings.token.get_secret_value().strip())] if settings.token else []
        self._file = settings.tokens_file
        self._stamp: tuple[int, int, int] | None = None
        self._read: list[bytes] = []
        self._complaint = ""
        if self._file is not None:
            try:
                self._reload(self._file)
            except (OSError, ValueError) as error:
                raise SettingsError(f"security.tokens_file {str(self._file)!r}: {_reason(error)}") from error

    @property
    def required(self) -> bool:
        """Whether calls need a token at all."""
        return bool(self._fixed) or self._file is not None

    def accept(self, header: str | None) -> bool:
        """Whether the value of an authorization header carries a good token; True when none is required.

        Takes the same time for every token that is not good: all known ones are compared, in constant time.
        """
        if not self.required:
            return True
        self._refresh()
        scheme, _, token = (header or "").partition(" ")
        given = _digest(token.strip())
        good = [hmac.compare_digest(given, known) for known in (*self._fixed, *self._read)]
        return any(good) and scheme.lower() == "bearer" and bool(token.strip())

    def _refresh(self) -> None:
        if self._file is None:
            return
        complaint = ""
        try:
            self._reload(self._file)
        except (OSError, ValueError) as error:
            complaint = _reason(error)
            if complaint != self._complaint:  # once, not for every call
                LOG.error("tokens file cannot be read, the last tokens stay", extra={"reason": complaint})
        self._complaint = complaint

    def _reload(self, path: Path) -> None:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        if status.st_size > LARGEST_FILE:
            raise ValueError("is larger than 1 MiB")
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        self._read = [_digest(line) for line in lines if line and not line.startswith("#")]
        self._stamp = stamp
        LOG.info("tokens file read", extra={"tokens": len(self._read)})


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _reason(error: OSError | ValueError) -> str:
    """Why, without anything of the file's content."""
    if isinstance(error, UnicodeError):
        return "is not UTF-8 text"
    return (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
