"""The server's certificate, read again when its files change."""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path
from typing import Any

import grpc

from naflow_server.sections import SecuritySettings
from naflow_server.settings import SettingsError

LOG = logging.getLogger(__name__)
PEM = b"-----BEGIN "
LARGEST_FILE = 1 << 20

Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """Certificate, key and clients' authority as files have them now.

    Looked at before each TLS handshake. What cannot be used (half written, key and certificate that do not
    match) is logged once, and the last good files serve on.

    Raises:
        SettingsError: the files cannot be used at the start.
    """

    def __init__(self, settings: SecuritySettings) -> None:
        assert settings.tls_certificate is not None, "settings have both or none"
        assert settings.tls_key is not None, "settings have both or none"
        self._files = {"tls_certificate": settings.tls_certificate, "tls_key": settings.tls_key}
        if settings.client_ca is not None:
            self._files["client_ca"] = settings.client_ca
        self._lock = threading.Lock()
        self._complaint = ""
        try:
            self._stamp = self._stamped()
            self._first = self._read()
        except (OSError, ValueError) as error:
            raise SettingsError(str(error)) from error

    def credentials(self) -> grpc.ServerCredentials:
        """For a listening port."""
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._changed, require_client_authentication="client_ca" in self._files
        )

    def _changed(self) -> Any:
        """What new connections get from now on; None: as before. gRPC calls it on threads of its own."""
        with self._lock:
            try:
                stamp = self._stamped()
                if stamp == self._stamp:
                    return None
                # Kept even where reading fails, so that one broken pair is logged once.
                self._stamp = stamp
                fresh = self._read()
                if self._stamped() != stamp:  # written while it was read: the next connection looks again
                    self._stamp = ()
                    return None
            except (OSError, ValueError) as error:
                self._complain(str(error))
                return None
            LOG.info("TLS files read again", extra={"files": [str(path) for path in self._files.values()]})
            self._complaint = ""
            return fresh

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            LOG.error("TLS files cannot be used, the last good ones stay", extra={"reason": reason})
        self._complaint = reason

    def _stamped(self) -> Stamp:
        found = []
        for field, path in self._files.items():
            try:
                status = path.stat()
            except OSError as error:
                raise ValueError(
                    f"security.{field} {str(path)!r} cannot be read: {error.strerror}"
                ) from error
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)

    def _read(self) -> Any:
        """The files as gRPC takes them, after a check that a handshake would work."""
        content = {field: _pem(field, path) for field, path in self._files.items()}
        certificate, key = self._files["tls_certificate"], self._files["tls_key"]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as error:
            names = f"security.tls_certificate {str(certificate)!r} and security.tls_key {str(key)!r}"
            raise ValueError(f"{names} do not make a pair: {error.reason or 'unreadable'}") from None
        if authority := content.get("client_ca"):
            try:
                context.load_verify_locations(cadata=authority.decode("ascii"))
            except (ssl.SSLError, UnicodeDecodeError):
                named = f"security.client_ca {str(self._files['client_ca'])!r}"
                raise ValueError(f"{named} is not a PEM file of certificates") from None
        return grpc.ssl_server_certificate_configuration(
            [(content["tls_key"], content["tls_certificate"])], root_certificates=authority
        )


def _pem(field: str, path: Path) -> bytes:
    named = f"security.{field} {str(path)!r}"
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"{named} cannot be read: {error.strerror}") from error
    if PEM not in content or len(content) > LARGEST_FILE:
        raise ValueError(f"{named} is not a PEM file")
    return content


def _no_password() -> str:
    """Instead of a question on the terminal."""
    raise ValueError("security.tls_key is encrypted: give a key without a passphrase")
