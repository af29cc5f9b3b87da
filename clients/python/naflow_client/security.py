"""Transport security and tokens: how a client proves who it is and checks whom it talks to."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import grpc

from naflow_client.errors import ClientError

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings; all files are PEM.

    Attributes:
        ca: certificates to trust; the ones that come with gRPC when None.
        certificate, key: this client's own, for servers that ask for one (mTLS); both or none.
        server_name: name to expect in the server's certificate where the address does not carry it.
    """

    ca: PathLike | None = None
    certificate: PathLike | None = None
    key: PathLike | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ClientError("a client certificate needs its key, and a key its certificate", "give both")

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            ClientError: naming a file that cannot be read or is not PEM.
        """
        return grpc.ssl_channel_credentials(
            _pem(self.ca, "CERTIFICATE"), _pem(self.key, "PRIVATE KEY"), _pem(self.certificate, "CERTIFICATE")
        )


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, given or in a file that is read again for every call, so that it may be renewed.

    Attributes:
        value: the token; never shown by `repr`.
        file: where it stands.
    """

    value: str | None = None
    file: PathLike | None = None

    def __post_init__(self) -> None:
        if self.value is not None and self.file is not None:
            raise ClientError("token and token_file exclude each other", "give one of them")
        if self.value is not None:
            _checked(self.value, "token")

    def __repr__(self) -> str:
        return "Token(...)" if self else "Token()"

    def __bool__(self) -> bool:
        return self.value is not None or self.file is not None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The header of a call.

        Raises:
            ClientError: the file cannot be read, or holds something that cannot be a token.
        """
        if self.file is not None:
            text = _read(self.file).decode("utf-8", "replace").strip()
            return (("authorization", f"Bearer {_checked(text, os.fspath(self.file))}"),)
        return (("authorization", f"Bearer {self.value}"),) if self.value is not None else ()


def check_token_is_safe(target: str, tls: Tls | None, token: Token) -> None:
    """A token over a connection that others can read is given away.

    Raises:
        ClientError: there is a token, no TLS, and the server is not this machine.
    """
    if token and tls is None and not _is_local(target):
        raise ClientError(
            f"a token would go to {target} unencrypted", "use TLS (tls=Tls(...)), or connect to localhost"
        )


def _is_local(target: str) -> bool:
    """Whether an address stays on this machine. Whatever is not understood does not."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = target.removeprefix("dns:///").removeprefix("ipv4:").removeprefix("ipv6:")
    host = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(text: str, where: str) -> str:
    if not text or not all("!" <= item <= "~" for item in text):
        raise ClientError(
            f"{where}: empty, or holds characters that a token cannot have",
            "a token is one line of visible ASCII without spaces",
        )
    return text


def _pem(path: PathLike | None, kind: str) -> bytes | None:
    if path is None:
        return None
    data = _read(path)
    if f"{kind}-----".encode() not in data:
        raise ClientError(f"{os.fspath(path)}: holds no PEM {kind.lower()}", "give a PEM file")
    return data


def _read(path: PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ClientError(
            f"{os.fspath(path)}: cannot be read: {error.strerror or error}", "check the path"
        ) from error
