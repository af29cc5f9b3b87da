"""Whatever arrives, the server answers with a documented status, stays up, and does not grow.

The environment variable NAFLOW_FUZZ sets the number of requests, for example to 1000; each is sent twice.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2

from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import reference_bank_pb2 as rb
from support.benchmarks import script
from support.blocks import picture
from support.engines import repository
from support.fuzz import MAKERS, MESSAGE_BYTES, MODEL, bank_call, noise
from support.grpc_server import DETAILS, Stubs, assembled, request, stubs

CODE = grpc.StatusCode
REQUESTS = int(os.environ.get("NAFLOW_FUZZ", "200"))
GROWTH = 32 << 20
EXPECTED = {
    CODE.INVALID_ARGUMENT,
    CODE.NOT_FOUND,
    CODE.UNIMPLEMENTED,
    CODE.FAILED_PRECONDITION,
    CODE.RESOURCE_EXHAUSTED,
    CODE.DEADLINE_EXCEEDED,
}
EXPLAIN, EXPLAIN_STREAM = "ExplanationService/Explain", "ExplanationService/ExplainStream"
INSPECT = "ExplanationService/InspectModel"
OTHERS = [f"ModelRepositoryService/{name}Model" for name in ("Load", "Unload", "Upload")]
OTHERS += [f"ReferenceBankService/{name}" for name in ("CreateBank", "AppendReferences", "DeleteBank")]
COMPATIBILITY = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real process."""
    folder = tmp_path_factory.mktemp("server")
    models = repository(folder / "models", f"{MODEL}-0")
    (models / f"{MODEL}-0").rename(models / MODEL)
    chosen = {"limits.message_bytes": MESSAGE_BYTES, "limits.deadline_seconds": 60}
    chosen["repository.upload.enabled"] = "true"
    chosen["banks.path"] = folder / "banks"
    with script("service_process").ServerProcess(models, folder / "log", chosen) as started:
        yield started


@pytest.fixture(scope="module")
def stub(server: Any) -> Iterator[Stubs]:
    with stubs(server.address) as made:
        yield made


def sent(stub: Stubs, rpc: str, content: bytes) -> grpc.StatusCode | None:
    """The code that a request failed with, or None; checks the details that came with it."""
    path = f"/naflow.v1.{rpc}"
    kind = {EXPLAIN: "unary_stream", EXPLAIN_STREAM: "stream_stream", OTHERS[2]: "stream_unary"}
    call: Any = getattr(stub.channel, kind.get(rpc, "unary_unary"))(path)
    try:
        answer = call(iter([content]) if rpc in (EXPLAIN_STREAM, OTHERS[2]) else content, timeout=60)
        events = [ex.ExplainEvent.FromString(e) for e in answer] if rpc in (EXPLAIN, EXPLAIN_STREAM) else []
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
        if code == CODE.RESOURCE_EXHAUSTED and len(content) > MESSAGE_BYTES:
            return code  # gRPC itself says so, without details
        packed = dict(error.trailing_metadata() or ())[DETAILS]  # type: ignore[attr-defined]
    else:
        if not events or not events[-1].summary.HasField("error"):
            assert not events or events[-1].HasField("summary")
            return None
        packed = events[-1].summary.error.SerializeToString()
        code = next(c for c in CODE if c.value[0] == events[-1].summary.error.code)
    status = status_pb2.Status.FromString(packed)
    if len(packed) > 4096 or not status.details or status.code != code.value[0]:
        raise AssertionError(status)
    return code


def plan(chance: random.Random, count: int) -> Iterator[tuple[str, Callable[[random.Random], bytes]]]:
    """Which method gets what: most of it goes to Explain."""
    for number in range(count):
        if number % 10 == 9:
            yield chance.choice(OTHERS), noise  # a sound message might unload the model
        else:
            rpc = chance.choices([EXPLAIN, EXPLAIN_STREAM, INSPECT], [6, 2, 1])[0]
            yield rpc, chance.choice(MAKERS)


def attack(stub: Stubs) -> Counter[str]:
    """Send them all, the same ones every time; how often each code came."""
    chance = random.Random(7)
    codes: Counter[str] = Counter()
    for number, (rpc, make) in enumerate(plan(chance, REQUESTS)):
        code = sent(stub, rpc, make(chance))
        assert code is None or code in EXPECTED, (number, rpc, make.__name__)
        codes["OK" if code is None else code.name] += 1
    return codes


def test_hostile_requests(stub: Stubs, server: Any) -> None:
    codes = attack(stub)
    assert codes["INVALID_ARGUMENT"] > REQUESTS // 3, codes
    assert codes["NOT_FOUND"] > REQUESTS // 200, codes
    assert codes["OK"] < REQUESTS // 3, codes
    settled = server.resident()  # some requests were sound, and their programs are compiled by now
    assert attack(stub) == codes
    assert server.resident() - settled < GROWTH
    end = time.monotonic() + 10  # a call's end is counted just after its caller has seen it
    while (now := server.metrics())["naflow_open_calls"] and time.monotonic() < end:
        time.sleep(0.02)
    assert now["naflow_open_calls"] == now["naflow_explanations_in_progress"] == 0
    assert server.runs
    serving = stub.health.Check(health_pb2.HealthCheckRequest(service=f"model/{MODEL}")).status
    assert serving == health_pb2.HealthCheckResponse.SERVING
    events = [e for e in stub.explanation.Explain(request(picture(1), MODEL)) if not e.HasField("progress")]
    assert events[-1].HasField("summary")
    assert assembled(events)


def test_hostile_bank_requests(stub: Stubs, server: Any) -> None:
    """Some are sound: banks come and go, and fill up."""
    chance = random.Random(11)
    codes: Counter[str] = Counter()
    for number in range(REQUESTS):
        rpc, content = bank_call(chance)
        code = sent(stub, rpc, content)
        assert code is None or code in EXPECTED, (number, rpc)
        codes["OK" if code is None else code.name] += 1
    assert min(codes[name] for name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")) > REQUESTS // 20, codes
    assert codes["FAILED_PRECONDITION"], codes
    assert server.runs
    for bank in stub.banks.ListBanks(rb.ListBanksRequest()).banks:
        assert not bank.reason
        stub.banks.DeleteBank(rb.DeleteBankRequest(bank_name=bank.bank_name, bank_id=bank.bank_id))
    assert not stub.banks.ListBanks(rb.ListBanksRequest()).banks


def test_the_codes_are_documented() -> None:
    table = COMPATIBILITY.read_text(encoding="utf-8").partition("## Status codes")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", table, re.MULTILINE))
    assert documented >= {code.name for code in EXPECTED}
    assert documented <= {code.name for code in CODE}


def test_nothing_outside_the_repository_is_read(stub: Stubs, tmp_path: Path) -> None:
    for name in ("../residual", "/etc/passwd", "residual/../residual", "residual\x00", ".", "..\\residual"):
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.explanation.Explain(request(picture(0), name)))
        assert caught.value.code() in EXPECTED
