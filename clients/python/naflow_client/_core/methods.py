"""The one table of everything a client can call; sync and async clients are made from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from naflow.v1 import explanation_pb2 as explanation
from naflow.v1 import model_repository_pb2 as repository
from naflow.v1 import reference_bank_pb2 as bank
from naflow_client._core.wire import Request
from naflow_client.errors import ClientError

EXPLANATIONS = "/naflow.v1.ExplanationService/"
REPOSITORY = "/naflow.v1.ModelRepositoryService/"
BANKS = "/naflow.v1.ReferenceBankService/"


@dataclass(frozen=True, slots=True)
class Method:
    """A method on the wire.

    Attributes:
        path: of the method.
        kind: name of the function on a gRPC channel that calls such a method.
        request, response: message types.
        serialise: makes bytes of what is handed over to be sent; None for a message of the request's type.
        again: whether a call that failed before its answer may be made again.
    """

    path: str
    kind: str
    request: Any
    response: Any
    serialise: Callable[[Any], bytes] | None = None
    again: bool = True

    def on(self, channel: Any) -> Any:
        """The callable of a sync or async channel."""
        make = getattr(channel, self.kind)
        return make(
            self.path,
            request_serializer=self.serialise or self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )


METHODS: dict[str, Method] = {
    "explain": Method(
        f"{EXPLANATIONS}Explain",
        "unary_stream",
        explanation.ExplainRequest,
        explanation.ExplainEvent,
        Request.serialised,
    ),
    "explain_many": Method(
        f"{EXPLANATIONS}ExplainStream",
        "stream_stream",
        explanation.ExplainRequest,
        explanation.ExplainEvent,
        Request.serialised,
    ),
    "inspect": Method(
        f"{EXPLANATIONS}InspectModel",
        "unary_unary",
        explanation.InspectModelRequest,
        explanation.InspectModelResponse,
    ),
    "list_models": Method(
        f"{REPOSITORY}ListModels", "unary_unary", repository.ListModelsRequest, repository.ListModelsResponse
    ),
    "load_model": Method(
        f"{REPOSITORY}LoadModel", "unary_unary", repository.LoadModelRequest, repository.LoadModelResponse
    ),
    "unload_model": Method(
        f"{REPOSITORY}UnloadModel",
        "unary_unary",
        repository.UnloadModelRequest,
        repository.UnloadModelResponse,
    ),
    "upload_model": Method(
        f"{REPOSITORY}UploadModel",
        "stream_unary",
        repository.UploadModelRequest,
        repository.UploadModelResponse,
        again=False,  # it may have been taken although the answer was lost
    ),
    "create_bank": Method(
        f"{BANKS}CreateBank", "unary_unary", bank.CreateBankRequest, bank.CreateBankResponse
    ),
    "append_references": Method(
        f"{BANKS}AppendReferences",
        "unary_unary",
        bank.AppendReferencesRequest,
        bank.AppendReferencesResponse,
    ),
    "list_banks": Method(f"{BANKS}ListBanks", "unary_unary", bank.ListBanksRequest, bank.ListBanksResponse),
    "get_bank": Method(f"{BANKS}GetBank", "unary_unary", bank.GetBankRequest, bank.GetBankResponse),
    "delete_bank": Method(
        f"{BANKS}DeleteBank", "unary_unary", bank.DeleteBankRequest, bank.DeleteBankResponse
    ),
}


class Deadline:
    """A point in time, or none.

    Raises:
        ClientError: `seconds` is not above 0.
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not seconds > 0:
            raise ClientError(f"deadline {seconds} must be more than 0 seconds", "leave it out for none")
        self._end = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Seconds left, never negative; None if there is no deadline."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())
