"""What stands in the logs, and what must not."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import grpc
import pytest

from naflow.v1 import model_repository_pb2 as repo
from naflow_server.logs import JsonFormatter, TextFormatter
from support.grpc_server import stubs
from support.server_process import server_process
from support.tls import Authority


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_never_logged(form: str, tmp_path: Path) -> None:
    """At the lowest level, with good calls and bad ones, and with broken files."""
    (tmp_path / "models").mkdir()
    authority = Authority(tmp_path)
    key, certificate = authority.issue("localhost")
    tokens = tmp_path / "tokens"
    tokens.write_text("token-of-the-file\n")
    variables = {
        "NAFLOW_SECURITY__TOKEN": "token-of-the-environment",
        "NAFLOW_SECURITY__TOKENS_FILE": str(tokens),
        "NAFLOW_SECURITY__TLS_KEY": str(key),
        "NAFLOW_SECURITY__TLS_CERTIFICATE": str(certificate),
        "NAFLOW_SERVER__LOG_LEVEL": "debug",
        "NAFLOW_SERVER__LOG_FORMAT": form,
    }
    secrets = ["token-of-the-file", "token-of-the-environment", "token-of-nobody"]
    secrets += key.read_text().splitlines()[1:-1]
    with server_process(tmp_path / "models", **variables) as started:
        assert started.process.stderr is not None
        for line in started.process.stderr:
            started.lines.append(line)
            if "listening" in line:
                break
        found = re.search(r"\bport\W+(\d+)", started.lines[-1])
        assert found
        address = f"localhost:{found[1]}"
        trusted = grpc.ssl_channel_credentials(authority.certificate.read_bytes())

        def ask(token: str) -> str:
            bearer = (("authorization", f"Bearer {token}"),)
            with stubs(address, trusted) as stub:
                try:
                    stub.repository.ListModels(repo.ListModelsRequest(), metadata=bearer, timeout=20)
                except grpc.RpcError as error:
                    return str(error.code().name)  # type: ignore[attr-defined]
            return "OK"

        assert [ask(token) for token in secrets[:3]] == ["OK", "OK", "UNAUTHENTICATED"]
        key.write_text(key.read_text()[:-60])
        tokens.write_bytes(b"token-of-the-file\xff")
        assert ask(secrets[0]) == "OK"
        assert started.stop() == 0
    log = "".join(started.lines)
    for message in ("call refused", "the last good ones stay", "the last tokens stay", "**********"):
        assert message in log
    for secret in secrets:
        assert secret not in log


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "n", "levelname": "INFO", "levelno": 20, "msg": message})
    vars(made).update(extra)
    return made


def test_a_value_cannot_pass_for_another_line() -> None:
    line = TextFormatter().format(record("call", model="a\n2026-01-01 info all is well\x1b[2J"))
    assert "\n" not in line
    assert "\x1b" not in line
    line = JsonFormatter().format(record("call", model="a\nb"))
    assert "\n" not in line
    assert json.loads(line)["model"] == "a\nb"
