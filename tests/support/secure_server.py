"""The real server with TLS and a token on, over a folder of models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from naflow_client import Tls
from naflow_server.engine import Engine
from support.engines import install
from support.grpc_server import Running, running, settings
from support.tls import Authority

TOKEN = "a-token-for-tests"


@dataclass(frozen=True)
class Secure:
    """How to reach it.

    Attributes:
        address: "localhost:port", as in the certificate.
        ca, token_file: files for clients.
    """

    running: Running
    address: str
    ca: Path
    token_file: Path

    @property
    def access(self) -> dict[str, Any]:
        """Arguments of a client that is let in."""
        return {"tls": Tls(ca=self.ca), "token_file": self.token_file, "deadline": 120}


@contextlib.contextmanager
def secure_server(
    folder: Path, models: Mapping[str, ModelProto | bytes], **sections: Mapping[str, Any]
) -> Iterator[Secure]:
    """Start it, with version 1 of each model."""
    (folder / "models").mkdir()
    for name, model in models.items():
        install(folder / "models", name, model)
    authority = Authority(folder)
    key, certificate = authority.issue("localhost")
    token_file = folder / "token"
    token_file.write_text(f"{TOKEN}\n", encoding="utf-8")
    repository = {"path": folder / "models", **sections.pop("repository", {})}
    security = {"tls_certificate": certificate, "tls_key": key, "tokens_file": token_file}
    with running(settings(security=security, repository=repository, **sections), Engine) as started:
        address = f"localhost:{started.server.port}"
        yield Secure(started, address, authority.certificate, token_file)
