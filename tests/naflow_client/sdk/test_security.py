"""TLS, mTLS and tokens of both clients."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from naflow_client import AccessError, AsyncClient, Client, ClientError, RetryPolicy, Tls, UnavailableError
from naflow_client.security import Token
from support.explanation_server import MODEL, Scripted, ScriptedError, answer, maps, serving
from support.tls import Authority

Server = tuple[Scripted, str]
X = np.zeros((1, 1, 3, 4), np.float32)


def test_tls_mtls_and_token(driver: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    key, certificate = authority.issue("localhost")
    client_key, client_certificate = authority.issue("me")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authority.certificate.read_bytes(), True
    )
    servicer = Scripted()
    tls = Tls(ca=authority.certificate, certificate=client_certificate, key=client_key)
    (tmp_path / "token").write_text("from-a-file\n", encoding="utf-8")
    with serving(servicer, credentials) as target:
        servicer.play(answer(maps(2)))
        settings = {"tls": tls, "token": "s3cret"}
        assert len(driver.explain(target, MODEL, X, client=settings).flows) == 2
        assert driver.call(target, "list_models", client={"tls": tls, "token_file": tmp_path / "token"})
        assert servicer.tokens == ["Bearer s3cret", "Bearer from-a-file"]
        by_number = target.replace("localhost", "127.0.0.1")
        named = dataclasses.replace(tls, server_name="localhost")
        assert driver.call(by_number, "list_models", client={"tls": named})
        once = {"retry": RetryPolicy(attempts=1)}
        for wrong in (Tls(ca=authority.certificate), True, False):
            with pytest.raises(UnavailableError):
                driver.call(target, "list_models", client={"tls": wrong, **once})


def test_unauthenticated(driver: Any, server: Server) -> None:
    servicer, target = server
    servicer.play(ScriptedError(grpc.StatusCode.UNAUTHENTICATED, "no token"))
    with pytest.raises(AccessError, match=r"no token \(give a token"):
        driver.explain(target, MODEL, X)


@pytest.mark.parametrize(
    "target", ["example.com:1", "10.0.0.1:8001", "localhost.example.com:1", "127.0.0.1.nip.io:1"]
)
def test_a_token_never_goes_out_unencrypted(target: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ClientError, match="unencrypted"):
            kind(target, token="s3cret")


@pytest.mark.parametrize(
    "target", ["localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/tmp/x", "ipv4:127.0.0.1:1"]
)
def test_on_this_machine_it_may(target: str) -> None:
    Client(target, token="s3cret").close()


def test_tokens_are_checked_and_not_shown(tmp_path: Path) -> None:
    assert "s3cret" not in repr(Token("s3cret"))
    for wrong in ("", "two words", "line\nbreak", "Übel"):
        with pytest.raises(ClientError) as caught:
            Client("localhost:1", token=wrong)
        assert not wrong or wrong not in str(caught.value)
    (tmp_path / "empty").write_text("")
    for file in ("empty", "missing"):
        with (
            Client("localhost:1", token_file=tmp_path / file) as client,
            pytest.raises(ClientError, match=file),
        ):
            client.list_models()
    with pytest.raises(ClientError, match="exclude"):
        Client("localhost:1", token="a", token_file="b")


def test_tls_files_are_checked(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("hello")
    for wrong in (Tls(ca=tmp_path / "no.pem"), Tls(ca=tmp_path / "missing.pem")):
        with pytest.raises(ClientError, match=r"\.pem"):
            Client("localhost:1", tls=wrong)
    with pytest.raises(ClientError, match="both"):
        Tls(certificate=tmp_path / "no.pem")
