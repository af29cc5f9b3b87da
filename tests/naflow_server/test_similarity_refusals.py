"""Similarities that cannot be explained: what is wrong is named, with its field, before anything runs."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import naflow_core as nf
from naflow.v1 import method_pb2 as me
from naflow.v1 import reference_bank_pb2 as rb
from naflow.v1 import similarity_pb2 as sim
from naflow.v1 import tensor_pb2 as te
from naflow_server.engine import Engine
from naflow_server.engine.banks import Banks, Snapshot
from naflow_server.engine.targets import Lookup
from naflow_server.engine.types import BankQuery, LabelledEmbeddings
from naflow_server.sections import BankSettings
from support.embedding_networks import embedding_network, pictures
from support.engines import install
from support.grpc_server import Stubs, details, request, running, settings, stubs, tensor
from support.similarity_requests import (
    EMBEDDED,
    along,
    as_pictures,
    changed,
    of_bank,
    of_references,
    supports,
)

CODE = grpc.StatusCode
R, S, B = "target.similarity_target", "target.prototype_target", "target.bank_target"


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stubs]:
    """Of a server with narrow limits, and banks that cannot answer."""
    folder = tmp_path_factory.mktemp("refusals")
    sha256 = nf.load(install(folder / "models", "average", embedding_network("average"))).sha256
    configured = settings(
        repository={"path": folder / "models"},
        banks={"path": folder / "banks"},
        limits={"references": 20, "reference_bytes": 4096, "pictures": 8},
    )
    with running(configured, Engine) as started, stubs(started.address) as made:
        for name, dimension, digest in (
            ("kept", 4, sha256),
            ("empty", 4, sha256),
            ("unnamed", 4, sha256),
            ("other", 4, "0" * 64),
            ("wide", 5, sha256),
        ):
            made.banks.CreateBank(
                rb.CreateBankRequest(bank_name=name, dimension=dimension, model_sha256=digest)
            )
            if name != "empty":
                message = rb.AppendReferencesRequest(bank_name=name, model_sha256=digest)
                message.embeddings.CopyFrom(tensor(np.ones((1, dimension), np.float32)))
                message.labels.append("" if name == "unnamed" else "a")
                made.banks.AppendReferences(message)
        yield made


def explain(stub: Stubs, target: me.Target, x: np.ndarray) -> None:
    list(stub.explanation.Explain(request(x, "average", target=target)))


BAD: list[tuple[Callable[[], me.Target], CODE, str]] = [
    (lambda: me.Target(similarity_target=sim.SimilarityTarget()), CODE.INVALID_ARGUMENT, f"{R}.references"),
    (lambda: of_references(np.ones((2, 5))), CODE.INVALID_ARGUMENT, f"{R}.references"),
    (lambda: of_references(changed(EMBEDDED, 1, 0)), CODE.INVALID_ARGUMENT, f"{R}.references.embeddings"),
    (
        lambda: of_references(changed(EMBEDDED, 1, np.nan)),
        CODE.INVALID_ARGUMENT,
        f"{R}.references.embeddings",
    ),
    (lambda: of_references(np.ones((21, 4))), CODE.INVALID_ARGUMENT, f"{R}.references.embeddings"),
    (lambda: of_references(np.ones((2, 600))), CODE.INVALID_ARGUMENT, f"{R}.references.embeddings"),
    (lambda: of_references(np.ones(4)), CODE.INVALID_ARGUMENT, f"{R}.references.embeddings.shape"),
    (lambda: of_references(EMBEDDED, paired=True), CODE.INVALID_ARGUMENT, f"{R}.references"),
    (
        lambda: of_references(EMBEDDED, comparison=sim.Comparison(metric="cosin")),
        CODE.INVALID_ARGUMENT,
        f"{R}.comparison.metric",
    ),
    (
        lambda: of_references(EMBEDDED, comparison=sim.Comparison(metric="image-to-class")),
        CODE.INVALID_ARGUMENT,
        f"{R}.comparison.metric",
    ),
    (
        lambda: of_references(EMBEDDED, comparison=sim.Comparison(coefficients=9)),  # type: ignore[arg-type]
        CODE.INVALID_ARGUMENT,
        f"{R}.comparison.coefficients",
    ),
    (lambda: as_pictures(pictures(9)), CODE.INVALID_ARGUMENT, f"{R}.references.pictures.inputs"),
    (lambda: as_pictures(np.ones((1, 3, 8, 8))), CODE.INVALID_ARGUMENT, f"{R}.references"),
    (lambda: supports(labels=("a",)), CODE.INVALID_ARGUMENT, f"{S}.labels"),
    (lambda: supports(labels=("a", "")), CODE.INVALID_ARGUMENT, f"{S}.labels[1]"),
    (lambda: supports(labels=("a", "x" * 1025)), CODE.INVALID_ARGUMENT, f"{S}.labels[1]"),
    (lambda: supports(wanted="c"), CODE.INVALID_ARGUMENT, f"{S}.wanted"),
    (lambda: supports(labels=("a", "a"), contrast=True), CODE.INVALID_ARGUMENT, f"{S}.contrast"),
    (
        lambda: supports(np.stack([EMBEDDED[0], -EMBEDDED[0]]), ("a", "a")),
        CODE.INVALID_ARGUMENT,
        f"{S}.supports",
    ),
    (lambda: of_bank(), CODE.INVALID_ARGUMENT, B),
    (lambda: of_bank(bank_name="absent"), CODE.NOT_FOUND, f"{B}.bank_name"),
    (lambda: of_bank(bank_name="../kept"), CODE.INVALID_ARGUMENT, f"{B}.bank_name"),
    (lambda: of_bank(bank_name="unnamed"), CODE.FAILED_PRECONDITION, f"{B}.bank_name"),
    (lambda: of_bank(bank_name="empty"), CODE.FAILED_PRECONDITION, f"{B}.bank_name"),
    (lambda: of_bank(bank_name="other"), CODE.FAILED_PRECONDITION, f"{B}.bank_name"),
    (lambda: of_bank(bank_name="wide"), CODE.INVALID_ARGUMENT, B),
    (lambda: of_bank(bank_name="kept", wanted="nobody"), CODE.INVALID_ARGUMENT, f"{B}.wanted"),
    (lambda: of_bank(bank_name="kept", neighbours=21), CODE.INVALID_ARGUMENT, f"{B}.neighbours"),
    (lambda: of_bank(bank_name="kept", temperature=0), CODE.INVALID_ARGUMENT, f"{B}.temperature"),
    (lambda: along(wanted="nobody"), CODE.INVALID_ARGUMENT, f"{B}.wanted"),
    (lambda: along(labels=()), CODE.INVALID_ARGUMENT, f"{B}.embeddings.labels"),
    (lambda: along(changed(EMBEDDED, 0, np.inf)), CODE.INVALID_ARGUMENT, f"{B}.embeddings.embeddings"),
    (lambda: along(sha256="0" * 64), CODE.FAILED_PRECONDITION, f"{B}.embeddings.model_sha256"),
]


@pytest.mark.parametrize(("make", "code", "field"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_named(make: Callable[[], me.Target], code: CODE, field: str, stub: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        explain(stub, make(), pictures(1))
    assert caught.value.code() == code, caught.value.details()
    found = details(caught.value)
    assert found["google.rpc.BadRequest"].field_violations[0].field == field
    assert found["google.rpc.ErrorInfo"].reason


def test_embeddings_of_another_type(stub: Stubs) -> None:
    own = te.Tensor(dtype=te.DATA_TYPE_DOUBLE, shape=[1, 4], data=bytes(32))
    references = sim.References(embeddings=own)
    with pytest.raises(grpc.RpcError) as caught:
        explain(stub, me.Target(similarity_target=sim.SimilarityTarget(references=references)), pictures(1))
    assert f"{R}.references.embeddings.dtype: is float64" in caught.value.details()


def test_a_picture_without_a_direction_is_the_inputs_fault(stub: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        explain(stub, of_references(EMBEDDED), np.zeros((1, 2, 8, 8), np.float32))
    assert caught.value.code() == CODE.INVALID_ARGUMENT
    assert details(caught.value)["google.rpc.BadRequest"].field_violations[0].field == "inputs"


class Counting(Banks):
    """Counts how often a bank is read."""

    reads = 0

    async def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        self.reads += 1
        return await super().snapshot(name, version)


@pytest.mark.parametrize(("most", "reads"), [(1 << 20, 2), (1, 3)])
def test_banks_used_last_stay_in_memory(most: int, reads: int, tmp_path: Path) -> None:
    """Until they change, and as far as the settings allow."""

    async def work() -> None:
        banks = Counting(BankSettings(path=tmp_path / "banks"))
        await banks.start()
        try:
            await banks.create("b", 4, "ab" * 32)
            await banks.append("b", EMBEDDED, ["a", "b"], model_sha256="ab" * 32)
            lookup = Lookup(banks, most)
            for _ in range(2):
                found = await lookup.find(BankQuery("b"), "ab" * 32)
            assert found.positions is None
            await banks.append("b", EMBEDDED, ["", "c"], model_sha256="ab" * 32)
            found = await lookup.find(BankQuery("b", wanted="c"), "ab" * 32)
            assert found.positions is not None
            assert found.positions.tolist() == [0, 1, 3]
            assert found.target.bank.labels == ("a", "b", "c")
            assert banks.reads == reads
        finally:
            await banks.close()

    asyncio.run(work())


def test_faiss_is_for_banks_that_the_server_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And for the metrics that it knows; the rest is searched as without it."""
    monkeypatch.setitem(sys.modules, "faiss", types.ModuleType("faiss"))  # only looked for, never called

    async def work() -> None:
        banks = Banks(BankSettings(path=tmp_path / "banks"))
        await banks.start()
        try:
            await banks.create("b", 4, "ab" * 32)
            await banks.append("b", EMBEDDED, ["a", "b"], model_sha256="ab" * 32)
            lookup = Lookup(banks, 1 << 20, "faiss")
            sent = LabelledEmbeddings(EMBEDDED, ("a", "b"), "ab" * 32)
            for query, search in (
                (BankQuery("b"), "faiss"),
                (BankQuery("b", metric="image-to-class"), "jax"),
                (BankQuery(sent), "jax"),
            ):
                assert (await lookup.find(query, "ab" * 32)).target.search == search
        finally:
            await banks.close()

    asyncio.run(work())
