"""Tokens, TLS and client certificates on every kind of call, and big maps in checked chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from naflow.v1 import model_repository_pb2 as repo
from naflow_server.auth import Tokens
from naflow_server.sections import SecuritySettings
from naflow_server.settings import SettingsError
from support.grpc_server import (
    Running,
    Stubs,
    TinyEngine,
    assembled,
    details,
    request,
    running,
    settings,
    stubs,
)
from support.tls import Authority

CODE = grpc.StatusCode
TOKEN = "correct-horse"


def bearer(token: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {token}"),), "timeout": 10}


CALLS = {
    "Explain": lambda stub, **options: list(stub.explanation.Explain(request(), **options)),
    "ExplainStream": lambda stub, **options: list(
        stub.explanation.ExplainStream(iter([request()]), **options)
    ),
    "ListModels": lambda stub, **options: stub.repository.ListModels(repo.ListModelsRequest(), **options),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Authority, Path]]:
    """A server with TLS, client certificates and a tokens file."""
    folder = tmp_path_factory.mktemp("keys")
    authority = Authority(folder)
    key, certificate = authority.issue("localhost")
    tokens = folder / "tokens"
    tokens.write_text(f"# the only one\n{TOKEN}\n")
    security = {
        "tls_certificate": certificate,
        "tls_key": key,
        "client_ca": authority.certificate,
        "tokens_file": tokens,
    }
    with running(settings(security=security), lambda _: TinyEngine()) as server:
        server.address = server.address.replace("127.0.0.1", "localhost")
        yield server, authority, tokens


@pytest.fixture(scope="module")
def stub(guarded: tuple[Running, Authority, Path]) -> Iterator[Stubs]:
    server, authority, _ = guarded
    key, certificate = authority.issue("client")
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(), key.read_bytes(), certificate.read_bytes()
    )
    with stubs(server.address, credentials) as made:
        yield made


@pytest.mark.parametrize("rpc", CALLS)
def test_a_call_with_the_token_is_answered(rpc: str, stub: Stubs) -> None:
    assert CALLS[rpc](stub, **bearer(TOKEN))


@pytest.mark.parametrize("rpc", CALLS)
@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"]
)
def test_a_call_without_it_is_not(rpc: str, header: str | None, stub: Stubs) -> None:
    metadata = () if header is None else (("authorization", header),)
    with pytest.raises(grpc.RpcError) as caught:
        CALLS[rpc](stub, metadata=metadata, timeout=10)
    assert caught.value.code() == CODE.UNAUTHENTICATED
    assert details(caught.value)["google.rpc.ErrorInfo"].reason == "UNAUTHENTICATED"
    assert TOKEN not in caught.value.details()


def test_health_needs_no_token(stub: Stubs) -> None:
    assert stub.health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
    assert next(stub.health.Watch(health_pb2.HealthCheckRequest(), timeout=10)).status == 1


def test_tokens_change_without_a_restart(guarded: tuple[Running, Authority, Path], stub: Stubs) -> None:
    tokens = guarded[2]
    try:
        tokens.write_text("a-newer-one\nand-another\n")
        assert CALLS["Explain"](stub, **bearer("and-another"))
        with pytest.raises(grpc.RpcError) as caught:
            CALLS["Explain"](stub, **bearer(TOKEN))
        assert caught.value.code() == CODE.UNAUTHENTICATED
    finally:
        tokens.write_text(f"{TOKEN}\n")


def test_clients_without_certificate_do_not_get_in(guarded: tuple[Running, Authority, Path]) -> None:
    server, authority, _ = guarded
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    for own in (credentials, None):
        with stubs(server.address, own) as outside, pytest.raises(grpc.RpcError) as caught:
            outside.health.Check(health_pb2.HealthCheckRequest(), timeout=3)
        assert caught.value.code() == CODE.UNAVAILABLE


def test_a_missing_tokens_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"security.tokens_file .*absent"):
        Tokens(SecuritySettings(tokens_file=tmp_path / "absent"))


def test_an_unreadable_file_keeps_the_last_tokens_and_an_empty_one_shuts_the_door(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("one\n")
    tokens = Tokens(SecuritySettings(tokens_file=path))
    assert tokens.accept("Bearer one")
    path.unlink()
    assert tokens.accept("bearer one")
    path.write_bytes(b"\xff\xfe\n")
    assert tokens.accept("Bearer one")
    path.write_text("# nobody\n")
    os.utime(path, ns=(1, 1))
    assert not tokens.accept("Bearer one")
    assert not tokens.accept("Bearer # nobody")
    assert not tokens.accept(None)


def test_an_unreadable_file_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tokens"
    path.write_text("one\n")
    tokens = Tokens(SecuritySettings(tokens_file=path))
    for _ in range(2):
        path.unlink()
        assert all(tokens.accept("Bearer one") for _ in range(5))
        path.write_text("one\n")
        assert tokens.accept("Bearer one")
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 2


def test_without_settings_no_token_is_needed() -> None:
    assert Tokens(SecuritySettings()).accept(None)


@pytest.mark.parametrize(("side", "chunks"), [(512, 0), (513, 2), (725, 3)])
def test_maps_over_1_mib_come_in_checked_chunks(side: int, chunks: int) -> None:
    engine = TinyEngine(layers=3, side=side)
    x = np.full((1, 1, 2, 2), 0.25, np.float32)
    with running(settings(), lambda _: engine) as server, stubs(server.address) as stub:
        events = list(stub.explanation.Explain(request(x)))
    pieces = [event.chunk for event in events if event.HasField("chunk")]
    assert len(pieces) == 3 * chunks
    assert all(piece.crc32c == google_crc32c.value(piece.data) for piece in pieces)
    assert all(len(piece.data) <= 1 << 20 for piece in pieces)
    maps = assembled(events)
    for index in range(3):
        np.testing.assert_array_equal(maps[index], engine.map(index, x))
