"""What the server's pages say is what the server does."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2  # noqa: F401 (known to json_format where an Any holds one)

from naflow.v1 import explanation_pb2, method_pb2, model_repository_pb2, reference_bank_pb2
from naflow_server.engine import Code, Engine
from naflow_server.errors import CODES
from naflow_server.settings import Settings
from support.blocks import network, picture
from support.engines import install
from support.grpc_server import Running, request, running, settings, stubs

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RPC, OPERATIONS, DEPLOYMENT = (
    (DOCS / name).read_text("utf-8") for name in ("rpc.md", "operations.md", "deployment.md")
)
SERVICES = [
    explanation_pb2.DESCRIPTOR.services_by_name["ExplanationService"],
    model_repository_pb2.DESCRIPTOR.services_by_name["ModelRepositoryService"],
    reference_bank_pb2.DESCRIPTOR.services_by_name["ReferenceBankService"],
]
MODULES: list[Any] = [explanation_pb2, method_pb2, model_repository_pb2, reference_bank_pb2]
EXAMPLES = re.findall(r"^`(\w+)`:\n\n```protojson\n(.*?)^```$", RPC, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "net", network("residual"))
    configured = settings(server={"metrics_port": 0}, repository={"path": folder})
    with running(configured, Engine) as started, stubs(started.address) as stub:
        list(stub.explanation.Explain(request(picture(0), "net"), timeout=120))
        yield started


def get(server: Running, path: str) -> str:
    address = f"http://127.0.0.1:{server.server.metrics_port}{path}"
    with urllib.request.urlopen(address, timeout=10) as page:
        return str(page.read().decode())


def test_every_metric_is_documented_with_its_kind_and_labels(server: Running) -> None:
    kinds: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for line in get(server, "/metrics").splitlines():
        if line.startswith("# TYPE naflow_"):
            _, _, name, kind = line.split()
            kinds[name] = kind
        elif line.startswith("naflow_"):
            sample, given = re.match(r"(\w+)(?:\{(.*?)\})? ", line).groups()  # type: ignore[union-attr]
            name = re.sub(r"_(bucket|sum|count)$", "", sample)
            labels.setdefault(name, set()).update(re.findall(r"(\w+)=", given or ""))
    kinds = {name: kind for name, kind in kinds.items() if not name.endswith("_created")}
    rows = re.findall(r"^\| `(naflow_\w+)` \| (\w+) \|([^|]*)\|", OPERATIONS, re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == kinds
    for name, _, told in rows:
        if name in labels:  # there are samples
            assert set(re.findall(r"`(\w+)`", told)) == labels[name] - {"le"}, name
    assert len(labels) > 12


def test_other_metrics_that_are_named_exist(server: Running) -> None:
    text = get(server, "/metrics")
    for name in set(re.findall(r"\bnaflow_\w+(?=[`{])", OPERATIONS)):
        assert name in text, name


def test_ready_follows_health(server: Running) -> None:
    assert get(server, "/ready") == "ready\n"
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(server, "/elsewhere")
    assert caught.value.code == 404
    caught.value.close()
    server.call(server.server.health.drain)
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(server, "/ready")
    assert caught.value.code == 503
    caught.value.close()


def test_there_is_a_section_for_each_rpc() -> None:
    methods = {method.name: method for service in SERVICES for method in service.methods}
    sections = re.findall(r"^## (\w+)$", RPC, re.MULTILINE)
    assert set(sections) == {*methods, "Health"}
    for name, method in methods.items():
        stream = ("stream " * method.client_streaming, "stream " * method.server_streaming)
        types = (method.input_type.name, method.output_type.name)
        assert f"`{name}({stream[0]}{types[0]}) returns ({stream[1]}{types[1]})`" in RPC


@pytest.mark.parametrize(("name", "body"), EXAMPLES)
def test_examples_are_messages(name: str, body: str) -> None:
    module = next(module for module in MODULES if hasattr(module, name))
    message = json_format.Parse(body, getattr(module, name)())
    assert message.ByteSize()
    if name == "ExplainRequest":
        (tensor,) = message.inputs.values()
        assert len(tensor.data) == 4 * 1 * 3 * 2 * 2


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == RPC.count("```protojson") == 13


def test_every_reason_is_documented() -> None:
    used = set()
    for path in (ROOT / "server").rglob("*.py"):
        text = path.read_text("utf-8")
        used |= set(re.findall(r'reason="([a-z_]+)"', text))
    for path in [ROOT / "naflow_core" / "errors.py"]:
        used |= set(re.findall(r'^    code = "([a-z_]+)"', path.read_text("utf-8"), re.MULTILINE))
    used -= {"error", "refused", "repository_unreadable"}  # never leave the server
    used -= {"banks_unusable", "bank_version_unknown"}  # likewise
    missing = {reason for reason in used if f"`{reason.upper()}`" not in RPC}
    assert not missing


def test_every_code_has_an_advice() -> None:
    section = OPERATIONS.partition("## What to do on a code")[2]
    for code in [code.name for code in Code] + ["UNAUTHENTICATED"]:
        assert f"`{code}`" in section, code
    assert CODES


def fields(model: Any, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        inner = field.annotation
        if hasattr(inner, "model_fields"):
            yield from fields(inner, f"{prefix}{name}.")


def test_settings_that_are_named_exist() -> None:
    known = {
        *fields(Settings),
        "repository.limits.*",
        "repository.models.NAME.warm_up",
        "upload.idle_seconds",
    }
    sections = "|".join(Settings.model_fields)
    for text in (RPC, OPERATIONS, DEPLOYMENT):
        for name in re.findall(rf"`((?:{sections})\.[a-zA-Z_.*]+)`", text):
            if not name.endswith((".md", ".pem", ".key")):
                assert name in known, name


def test_defaults_of_limits_are_as_documented() -> None:
    limits, mib = Settings().limits, 1 << 20
    for row, value in {
        "limits.message_bytes": f"{limits.message_bytes // mib} MiB",
        "limits.queue": str(limits.queue),
        "limits.calls": str(limits.calls),
        "limits.active": str(limits.active),
        "limits.stream_requests": str(limits.stream_requests),
        "limits.events": str(limits.events),
        "limits.stalled_seconds": f"{limits.stalled_seconds:g}",
        "limits.deadline_seconds": f"{limits.deadline_seconds:g}",
        "compilation.programs": str(Settings().compilation.programs),
    }.items():
        assert re.search(rf"^\| `{re.escape(row)}` \| {value}\b", OPERATIONS, re.MULTILINE), row
    shown = f"{limits.pictures}, {limits.input_bytes // mib} MiB, {limits.layers}"
    assert f"| {shown} |" in OPERATIONS
    shown = f"| {limits.references}, {limits.reference_bytes // mib} MiB |"
    assert shown in OPERATIONS
    banks = Settings().banks
    assert f"| {banks.banks}, {banks.embeddings} in each, {banks.total_bytes >> 30} GiB |" in OPERATIONS
    assert f"| {banks.append_bytes // mib} MiB, {banks.dimension} |" in OPERATIONS
