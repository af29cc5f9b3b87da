"""Where a client connects to, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from naflow_client.errors import ClientError
from naflow_client.retry import RetryPolicy
from naflow_client.security import PathLike, Tls, Token, check_token_is_safe

MAX_MESSAGE = 64 << 20


@dataclass(frozen=True, slots=True)
class Connection:
    """Settings of a client.

    Attributes:
        target: "host:port", or any other gRPC name.
        tls: None for an unencrypted connection.
        deadline: of every call that is not given one of its own, in seconds; None for none.
    """

    target: str
    tls: Tls | None
    token: Token
    deadline: float | None
    retry: RetryPolicy
    options: list[tuple[str, Any]] = field(default_factory=list)

    @classmethod
    def checked(
        cls,
        target: str,
        tls: Tls | bool,
        token: str | None,
        token_file: PathLike | None,
        deadline: float | None,
        retry: RetryPolicy | None,
    ) -> Connection:
        """From a client's arguments.

        Raises:
            ClientError: no target, an impossible token, or one that would go out unencrypted.
        """
        if not target:
            raise ClientError("the server's address is empty", "give HOST:PORT")
        chosen = Tls() if tls is True else tls or None
        bearer = Token(token, token_file)
        check_token_is_safe(target, chosen, bearer)
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", -1),
            # the reader waits on gRPC itself, not on a thread that does: about a tenth less work
            ("SingleThreadedUnaryStream", 1),
            # gRPC's own waits up to two minutes before it looks for a restarted server again
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        if chosen and chosen.server_name:
            options.append(("grpc.ssl_target_name_override", chosen.server_name))
        return cls(target, chosen, bearer, deadline, retry or RetryPolicy(), options)
