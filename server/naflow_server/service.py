"""The gRPC services: each method hands over to the engine or to `answers`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import grpc

import naflow_core as nf
from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import explanation_pb2_grpc, model_repository_pb2_grpc, reference_bank_pb2_grpc
from naflow.v1 import model_repository_pb2 as repo
from naflow.v1 import reference_bank_pb2 as rb
from naflow_server import convert
from naflow_server.answers import Answers
from naflow_server.calls import CURRENT
from naflow_server.engine.banks import Banks
from naflow_server.engine.repository.upload import Upload
from naflow_server.engine.types import EngineError, ModelInfo

Context: TypeAlias = grpc.aio.ServicerContext


class Repository(Protocol):
    """What is needed of the engine here."""

    async def inspect(
        self,
        model: str,
        version: str | None = None,
        *,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        output: str | None = None,
        top_feature_map: str | None = None,
        explained_input: str | None = None,
    ) -> nf.CoverageReport:
        """What would happen to a model."""

    def list(self) -> Sequence[ModelInfo]:
        """All models."""

    async def load(self, name: str) -> ModelInfo:
        """Load a model."""

    async def reload(self, name: str) -> ModelInfo:
        """Read a model's files again."""

    async def unload(self, name: str) -> ModelInfo:
        """Unload a model."""

    async def upload(self, name: str, *, size: int, sha256: str, version: str | None = None) -> Upload:
        """Begin an upload."""


class ExplanationService(explanation_pb2_grpc.ExplanationServiceServicer):
    """naflow.v1.ExplanationService."""

    def __init__(self, answers: Answers, repository: Repository) -> None:
        self._answers, self._repository = answers, repository

    async def Explain(self, request: ex.ExplainRequest, context: Context) -> AsyncIterator[ex.ExplainEvent]:
        call = CURRENT.get()
        request_id = convert.checked_id(request.request_id, call.id)
        async with contextlib.aclosing(self._answers.one(request, call, request_id)) as answer:
            async for event in answer:
                yield event

    async def ExplainStream(
        self, request_iterator: AsyncIterator[ex.ExplainRequest], context: Context
    ) -> AsyncIterator[ex.ExplainEvent]:
        async with contextlib.aclosing(self._answers.many(request_iterator, CURRENT.get())) as answers:
            async for event in answers:
                yield event

    async def InspectModel(
        self, request: ex.InspectModelRequest, context: Context
    ) -> ex.InspectModelResponse:
        report = await self._repository.inspect(
            request.model_name,
            request.model_version or None,
            input_shapes=convert.shapes(request.input_shapes),
            output=request.output or None,
            top_feature_map=request.top_feature_map or None,
            explained_input=request.explained_input or None,
        )
        facts = await asyncio.to_thread(report.to_dict)
        return ex.InspectModelResponse(
            model_name=request.model_name,
            model_version=request.model_version or _version_of(facts, request.model_name, self._repository),
            report=convert.model_report(facts),
        )


class ModelRepositoryService(model_repository_pb2_grpc.ModelRepositoryServiceServicer):
    """naflow.v1.ModelRepositoryService."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def ListModels(self, request: repo.ListModelsRequest, context: Context) -> repo.ListModelsResponse:
        return repo.ListModelsResponse(models=map(convert.model_status, self._repository.list()))

    async def LoadModel(self, request: repo.LoadModelRequest, context: Context) -> repo.LoadModelResponse:
        load = self._repository.reload if request.force else self._repository.load
        info = await load(request.model_name)
        return repo.LoadModelResponse(model=convert.model_status(info))

    async def UnloadModel(
        self, request: repo.UnloadModelRequest, context: Context
    ) -> repo.UnloadModelResponse:
        info = await self._repository.unload(request.model_name)
        return repo.UnloadModelResponse(model=convert.model_status(info))

    async def UploadModel(
        self, request_iterator: AsyncIterator[repo.UploadModelRequest], context: Context
    ) -> repo.UploadModelResponse:
        start = convert.upload_start(await anext(request_iterator, None))
        async with await self._repository.upload(**start) as upload:
            async for message in request_iterator:
                await upload.write(convert.upload_data(message))
            version = await upload.finish()
        info = await _loaded(self._repository, start["name"])
        return repo.UploadModelResponse(model=convert.model_status(info), model_version=version)


class ReferenceBankService(reference_bank_pb2_grpc.ReferenceBankServiceServicer):
    """naflow.v1.ReferenceBankService."""

    def __init__(self, banks: Banks) -> None:
        self._banks = banks

    async def CreateBank(self, request: rb.CreateBankRequest, context: Context) -> rb.CreateBankResponse:
        info = await self._banks.create(
            request.bank_name, request.dimension, request.model_sha256, request.bank_id
        )
        return rb.CreateBankResponse(bank=convert.bank_status(info))

    async def AppendReferences(
        self, request: rb.AppendReferencesRequest, context: Context
    ) -> rb.AppendReferencesResponse:
        return convert.append_response(await self._banks.append(**convert.append_arguments(request)))

    async def ListBanks(self, request: rb.ListBanksRequest, context: Context) -> rb.ListBanksResponse:
        return rb.ListBanksResponse(banks=map(convert.bank_status, self._banks.list()))

    async def GetBank(self, request: rb.GetBankRequest, context: Context) -> rb.GetBankResponse:
        return rb.GetBankResponse(bank=convert.bank_status(self._banks.get(request.bank_name)))

    async def DeleteBank(self, request: rb.DeleteBankRequest, context: Context) -> rb.DeleteBankResponse:
        await self._banks.delete(request.bank_name, request.bank_id, allow_missing=request.allow_missing)
        return rb.DeleteBankResponse()


def _version_of(facts: Mapping[str, Any], model: str, repository: Repository) -> str:
    """The highest version that answers with the file that a report is about."""
    versions = (v for info in repository.list() if info.name == model for v in info.versions)
    return next((v.version for v in reversed([*versions]) if v.sha256 == facts["model"]["sha256"]), "")


async def _loaded(repository: Repository, name: str) -> ModelInfo:
    """An uploaded model's state, loaded if the server allows that; a failure is in the state."""
    try:
        return await repository.load(name)
    except EngineError as error:
        known = (info for info in repository.list() if info.name == name)
        return next(known, ModelInfo(name, (), error.message))
