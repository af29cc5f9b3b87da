"""Certificates change under a running server; broken ones change nothing."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2

from naflow_server.certificates import Certificates
from naflow_server.sections import SecuritySettings
from naflow_server.settings import SettingsError
from support.grpc_server import Running, TinyEngine, request, running, settings, stubs
from support.tls import Authority

CODE = grpc.StatusCode
ASK = health_pb2.HealthCheckRequest()


class Files:
    """The files that the server was given, and authorities to make others with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first, self.second = self.authority("first"), self.authority("second")
        self.key, self.certificate, self.ca = (folder / name for name in ("tls.key", "tls.pem", "ca.pem"))
        self.put(self.first)
        self.ca.write_bytes(self.first.certificate.read_bytes())

    def authority(self, name: str) -> Authority:
        (self.folder / name).mkdir()
        return Authority(self.folder / name)

    def put(self, authority: Authority) -> None:
        """A new pair of this authority, moved into place as a deployment does it."""
        for source, target in zip(authority.issue("localhost"), (self.key, self.certificate), strict=True):
            aside = target.with_suffix(".new")
            aside.write_bytes(source.read_bytes())
            aside.replace(target)

    @property
    def security(self) -> dict[str, Path]:
        return {"tls_certificate": self.certificate, "tls_key": self.key}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def server(files: Files) -> Iterator[Running]:
    with running(settings(security=files.security), lambda _: TinyEngine()) as started:
        yield started


def answers(server: Running, trusted: Authority, own: tuple[Path, Path] | None = None) -> bool:
    """Whether a new connection that trusts this authority is served."""
    pair = [path.read_bytes() for path in own] if own else [None, None]
    credentials = grpc.ssl_channel_credentials(trusted.certificate.read_bytes(), *pair)
    with stubs(f"localhost:{server.server.port}", credentials) as stub:
        try:
            return bool(stub.health.Check(ASK, timeout=5).status)
        except grpc.RpcError as error:
            if error.code() not in (CODE.UNAVAILABLE, CODE.DEADLINE_EXCEEDED):  # type: ignore[attr-defined]
                raise
            return False


def serial(server: Running) -> int:
    """Of the certificate that a new connection is shown."""
    shown = ssl.get_server_certificate(("localhost", server.server.port), timeout=5)
    return x509.load_pem_x509_certificate(shown.encode()).serial_number


def on_disk(files: Files) -> int:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number


def test_new_connections_get_the_new_certificate(server: Running, files: Files) -> None:
    trusted = grpc.ssl_channel_credentials(files.first.certificate.read_bytes())
    with stubs(f"localhost:{server.server.port}", trusted) as old:
        assert old.health.Check(ASK, timeout=5).status == 1
        for authority, other in ((files.second, files.first), (files.first, files.second)):
            files.put(authority)
            assert serial(server) == on_disk(files)
            assert answers(server, authority)
            assert not answers(server, other)
            # What was connected stays so.
            assert len(list(old.explanation.Explain(request(), timeout=5))) == 6


@pytest.mark.parametrize("broken", ["mismatch", "half", "empty", "gone", "garbage", "encrypted"])
def test_a_broken_pair_changes_nothing(
    broken: str, server: Running, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    before, key = on_disk(files), files.key.read_bytes()
    match broken:
        case "mismatch":
            files.key.write_bytes(files.second.issue("localhost")[0].read_bytes())
        case "half":
            files.certificate.write_bytes(files.certificate.read_bytes()[:200])
        case "empty":
            files.key.write_bytes(b"")
        case "gone":
            files.key.unlink()
        case "garbage":
            files.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\n")
        case "encrypted":
            plain = serialization.load_pem_private_key(key, None)
            files.key.write_bytes(
                plain.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.BestAvailableEncryption(b"secret"),
                )
            )
    with caplog.at_level(logging.INFO, "naflow_server"):
        for _ in range(3):
            assert serial(server) == before
            assert answers(server, files.first)
    (said,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "security.tls_" in vars(said)["reason"]
    assert key.decode().splitlines()[1] not in str(vars(said))
    files.put(files.second)  # and it gets better again
    assert serial(server) == on_disk(files) != before
    assert answers(server, files.second)


def test_the_clients_authority_changes_too(files: Files) -> None:
    configured = settings(security={**files.security, "client_ca": files.ca})
    with running(configured, lambda _: TinyEngine()) as server:
        first, second = (authority.issue("client") for authority in (files.first, files.second))
        assert answers(server, files.first, first)
        assert not answers(server, files.first, second)
        assert not answers(server, files.first)
        files.ca.write_bytes(files.second.certificate.read_bytes())
        assert answers(server, files.first, second)
        assert not answers(server, files.first, first)
        assert not answers(server, files.first)
        files.ca.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
        assert answers(server, files.first, second)
        assert not answers(server, files.first)


def test_what_cannot_be_used_stops_the_start(files: Files) -> None:
    files.key.write_bytes(files.second.issue("localhost")[0].read_bytes())
    with pytest.raises(SettingsError, match=r"tls\.key' do not make a pair: KEY_VALUES_MISMATCH"):
        Certificates(SecuritySettings(**files.security))
    files.key.write_text("no key")
    with pytest.raises(SettingsError, match=r"security.tls_key .*tls\.key' is not a PEM file"):
        Certificates(SecuritySettings(**files.security))
