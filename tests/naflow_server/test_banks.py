"""Reference banks over the wire: the service and the SDK, with TLS and token, and when they are off."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from naflow.v1 import reference_bank_pb2 as rb
from naflow.v1 import tensor_pb2 as te
from naflow_client import AccessError, AsyncClient, BusyError, Client, NotFoundError, RequestError
from naflow_client._core import bank_messages
from naflow_server.engine.banks import store as stores
from naflow_server.settings import SettingsError
from support.banks import MODEL, OTHER, rows, same
from support.grpc_server import TinyEngine, details, running, settings, stubs, tensor
from support.secure_server import TOKEN, Secure, secure_server

CODE = grpc.StatusCode
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("server")
    banks = {"path": folder / "banks", "embeddings": 100_000, "banks": 40}
    with secure_server(folder, {}, banks=banks) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, secure: Secure) -> Call:
    """Calls a method of either client."""

    def sync(name: str, *arguments: Any, **options: Any) -> Any:
        with Client(secure.address, **secure.access) as client:
            return getattr(client, name)(*arguments, **options)

    def other(name: str, *arguments: Any, **options: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(secure.address, **secure.access) as client:
                return await getattr(client, name)(*arguments, **options)

        return asyncio.run(run())

    return sync if request.param == "sync" else other


@pytest.fixture
def bank() -> str:
    return f"bank-{uuid.uuid4().hex[:8]}"


def stored(secure: Secure, name: str) -> Any:
    engine: Any = secure.running.server.engine
    return secure.running.do(engine.banks.snapshot(name))


def test_from_creation_to_deletion(call: Call, secure: Secure, bank: str) -> None:
    made = call("create_bank", bank, 4, MODEL)
    assert (made.bank, made.dimension, made.model_sha256, made.version, made.count) == (bank, 4, MODEL, 0, 0)
    assert len(made.id) == 32
    first = call("append_references", bank, rows(0), ["a", None, ""], model_sha256=MODEL)
    second = call("append_references", bank, rows(1).astype(np.float64), model_sha256=MODEL)
    assert (first.positions.tolist(), second.positions.tolist()) == ([0, 1, 2], [3, 4, 5])
    assert (first.bank.labelled, second.bank.version, second.bank.count) == (1, 2, 6)
    assert call("get_bank", bank) == second.bank
    assert second.bank in call("list_banks")
    same(stored(secure, bank), [rows(0), rows(1)], ["a", *[""] * 5])
    call("delete_bank", bank)
    for name in ("get_bank", "delete_bank"):
        with pytest.raises(NotFoundError, match=bank) as caught:
            call(name, bank)
        assert caught.value.reason == "BANK_UNKNOWN"
    assert bank not in [one.bank for one in call("list_banks")]


def test_an_append_id_adds_once(call: Call, secure: Secure, bank: str) -> None:
    call("create_bank", bank, 4, MODEL)
    for _ in range(3):
        done = call("append_references", bank, rows(0), model_sha256=MODEL, append_id="mine")
        assert (done.bank.count, done.positions.tolist()) == (3, [0, 1, 2])
    with pytest.raises(RequestError, match="'mine' with other content") as caught:
        call("append_references", bank, rows(1), model_sha256=MODEL, append_id="mine")
    assert (caught.value.reason, caught.value.field) == ("APPEND_ID_TAKEN", "append_id")


def test_large_tables_go_in_batches_that_resume(
    call: Call, secure: Secure, bank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_messages, "BATCH_BYTES", 1000)
    table, labels = rows(2, 200), [f"label {i}" for i in range(200)]
    requests = list(bank_messages.batches(bank, table, labels, MODEL, "big"))
    assert len({r.append_id for r in requests}) == len(requests) > 3
    assert all(r.embeddings.shape[0] * 16 + sum(len(n) + 4 for n in r.labels) <= 1000 for r in requests)
    call("create_bank", bank, 4, MODEL)
    with Client(secure.address, **secure.access) as client:  # a call that broke off after its second batch
        for request in requests[:2]:
            client._unary("append_references", request, client._limit(None))
    done = call("append_references", bank, table, labels, model_sha256=MODEL, append_id="big")
    assert done.positions.tolist() == list(range(200))
    assert done.bank.version == len(requests)
    same(stored(secure, bank), [table], labels)


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"embeddings": [[1, 2, np.nan, 4]]}, "embeddings[0]", "squared length nan"),
        ({"embeddings": [[1, 1, 1, 1], [0, 0, 0, 0]]}, "embeddings[1]", "squared length 0"),
        ({"embeddings": [[1e300, 1, 1, 1]]}, "embeddings[0]", "squared length inf"),
        ({"embeddings": [[1, 2, 3]]}, "embeddings.shape", "dimension"),
        ({"embeddings": [1, 2, 3, 4]}, "embeddings", r"\[N, dimension\]"),
        ({"embeddings": np.empty((0, 4))}, "embeddings", r"\[N, dimension\]"),
        ({"embeddings": [["a", "b", "c", "d"]]}, "embeddings", "dtype"),
        ({"labels": ["a", "b"]}, "labels", "2 labels for 3"),
        ({"labels": "abc"}, "labels", "single text"),
        ({"labels": ["a", "b\t", "c"]}, "labels[1]", "control"),
        ({"labels": ["a", "b", 3]}, "labels[2]", "type int"),
        ({"labels": ["\ud800", "b", "c"]}, "labels[0]", "Unicode"),
        ({"labels": ["a", "ü" * 513, "c"]}, "labels[1]", "1026 bytes"),
        ({"model_sha256": OTHER}, "model_sha256", OTHER),
        ({"model_sha256": "x"}, "model_sha256", "64"),
        ({"append_id": "x" * 101}, "append_id", "100"),
        ({"append_id": "\n"}, "append_id", "ASCII"),
        ({"bank": "../up"}, "bank_name", "not a bank's name"),
    ],
)
def test_bad_input_is_named(
    call: Call, secure: Secure, bank: str, change: Any, field: str, said: str
) -> None:
    call("create_bank", bank, 4, MODEL)
    options = {"bank": bank, "embeddings": rows(0), "model_sha256": MODEL, **change}
    with pytest.raises(RequestError, match=said) as caught:
        call("append_references", **options)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert call("get_bank", bank).version == 0
    call("delete_bank", bank)


def test_impossible_banks_are_refused(call: Call, bank: str) -> None:
    for arguments, field in [
        ((bank, 0, MODEL), "dimension"),
        ((bank, 4, "?"), "model_sha256"),
        (("", 4, MODEL), "bank_name"),
    ]:
        with pytest.raises(RequestError) as caught:
            call("create_bank", *arguments)
        assert caught.value.field == field
    call("create_bank", bank, 4, MODEL)
    with pytest.raises(RequestError) as caught:
        call("create_bank", bank, 4, MODEL)
    assert caught.value.reason == "BANK_EXISTS"


def test_quota(call: Call, bank: str) -> None:
    call("create_bank", bank, 1, MODEL)
    with pytest.raises(BusyError, match="over the limit of 100000") as caught:
        call("append_references", bank, np.ones((100_001, 1)), model_sha256=MODEL)
    assert (caught.value.reason, caught.value.retry_after) == ("BANK_QUOTA", None)
    call("delete_bank", bank)


def test_tensors_of_other_kinds_are_refused(secure: Secure, bank: str) -> None:
    token = (("authorization", f"Bearer {TOKEN}"),)
    credentials = grpc.ssl_channel_credentials(secure.ca.read_bytes())
    with stubs(secure.address, credentials) as stub:
        stub.banks.CreateBank(
            rb.CreateBankRequest(bank_name=bank, dimension=2, model_sha256=MODEL), metadata=token
        )
        good = tensor(np.ones((3, 2), np.float32))
        for change, field in [
            ({"dtype": te.DATA_TYPE_DOUBLE, "data": bytes(48)}, "embeddings.dtype"),
            ({"dtype": te.DATA_TYPE_UNSPECIFIED}, "embeddings.dtype"),
            ({"shape": [3, 3]}, "embeddings.data"),
            ({"shape": [2, 3]}, "embeddings.shape"),
            ({"shape": [3, -2]}, "embeddings.shape"),
            ({"data": bytes(16) + good.data[:8]}, "embeddings[0]"),
            ({"data": good.data[:16] + b"\xff" * 8}, "embeddings[2]"),
        ]:
            fields = {"dtype": good.dtype, "shape": good.shape, "data": good.data, **change}
            request = rb.AppendReferencesRequest(
                bank_name=bank, model_sha256=MODEL, embeddings=te.Tensor(**fields)
            )
            with pytest.raises(grpc.RpcError) as caught:
                stub.banks.AppendReferences(request, metadata=token)
            assert caught.value.code() == CODE.INVALID_ARGUMENT
            (violation,) = details(caught.value)["google.rpc.BadRequest"].field_violations
            assert violation.field == field


def test_nobody_gets_in_without_the_token(secure: Secure, bank: str) -> None:
    with Client(secure.address, tls=secure.access["tls"], token="wrong") as client:
        for use in (
            client.list_banks,
            lambda: client.get_bank(bank),
            lambda: client.create_bank(bank, 4, MODEL),
            lambda: client.append_references(bank, rows(0), model_sha256=MODEL),
            lambda: client.delete_bank(bank),
        ):
            with pytest.raises(AccessError):
                use()


def test_health_and_metrics(secure: Secure, bank: str) -> None:
    names = ("naflow_banks", "naflow_bank_embeddings", "naflow_bank_bytes")
    before = [secure.running.gauge(name) for name in names]
    with Client(secure.address, **secure.access) as client:
        client.create_bank(bank, 4, MODEL)
        done = client.append_references(bank, rows(0), model_sha256=MODEL)
    after = [secure.running.gauge(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 3, done.bank.size_bytes]
    with stubs(secure.address, grpc.ssl_channel_credentials(secure.ca.read_bytes())) as stub:
        asked = health_pb2.HealthCheckRequest(service="naflow.v1.ReferenceBankService")
        assert stub.health.Check(asked, timeout=10).status == 1


def test_a_lost_answer_is_asked_for_again(secure: Secure, bank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The append gets to disk, its call breaks, and the SDK's retry adds nothing."""
    real, lost = stores.Store.append, threading.Event()

    def break_once(store: Any, *given: Any, **options: Any) -> Any:
        done = real(store, *given, **options)
        if not lost.is_set():
            lost.set()
            raise stores.refusals.stopping()
        return done

    monkeypatch.setattr(stores.Store, "append", break_once)
    with Client(secure.address, **secure.access) as client:
        client.create_bank(bank, 4, MODEL)
        done = client.append_references(bank, rows(0), model_sha256=MODEL)
    assert lost.is_set()
    assert (done.bank.count, done.positions.tolist()) == (3, [0, 1, 2])


@pytest.mark.parametrize("method", ["create", "delete"])
def test_creation_and_deletion_may_be_repeated_too(
    secure: Secure, bank: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    real, lost = getattr(stores.Store, method), threading.Event()

    def break_once(store: Any, *given: Any, **options: Any) -> Any:
        done = real(store, *given, **options)
        if not lost.is_set():
            lost.set()
            raise stores.refusals.stopping()
        return done

    monkeypatch.setattr(stores.Store, method, break_once)
    with Client(secure.address, **secure.access) as client:
        client.create_bank(bank, 4, MODEL)
        assert client.get_bank(bank).count == 0
        client.delete_bank(bank)
    assert lost.is_set()


def test_off_unless_there_is_a_folder() -> None:
    with running(settings(), lambda _: TinyEngine()) as server, Client(server.address) as client:
        for use in (client.list_banks, lambda: client.create_bank("a", 4, MODEL)):
            with pytest.raises(AccessError, match=r"set banks\.path") as caught:
                use()
            assert caught.value.reason == "BANKS_DISABLED"


def test_a_second_server_on_the_folder_does_not_start(secure: Secure, tmp_path: Path) -> None:
    folder = secure.running.server.settings.banks.path
    with (
        pytest.raises(SettingsError, match="another server uses this folder"),
        secure_server(tmp_path, {}, banks={"path": folder}),
    ):
        pass
