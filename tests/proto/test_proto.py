"""The wire contract: buf's STANDARD and COMMENTS lint rules, current stubs, and numbers that never change."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2

from naflow.v1 import (
    explanation_pb2,
    method_pb2,
    model_report_pb2,
    model_repository_pb2,
    reference_bank_pb2,
    similarity_pb2,
    tensor_pb2,
)

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
FILES = sorted((PROTO / "naflow").rglob("*.proto"))
MODULES = (
    explanation_pb2,
    method_pb2,
    model_report_pb2,
    model_repository_pb2,
    reference_bank_pb2,
    similarity_pb2,
    tensor_pb2,
)
IGNORE = re.compile(r"buf:lint:ignore (\w+)")
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
PASCAL = re.compile(r"[A-Z][A-Za-z0-9]*")
UPPER = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_stubs", PROTO / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def upper_snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def comment_above(lines: list[str], index: int) -> str:
    """The comment lines that end right above a line."""
    found: list[str] = []
    while index and lines[index - 1].strip().startswith("//"):
        index -= 1
        found.insert(0, lines[index].strip().removeprefix("//").strip())
    return " ".join(found)


def declarations(path: Path) -> Iterator[tuple[str, str]]:
    """Every declaration of a file (message, field, value, ...) with the comment above it."""
    lines = path.read_text().splitlines()
    pattern = re.compile(r"\s*((message|enum|service|rpc|oneof)\s+\w+|[\w.<>, ]+ = \d+;)")
    for index, line in enumerate(lines):
        found = pattern.match(line)
        if found and not line.strip().startswith("//"):
            yield line.strip(), comment_above(lines, index)


def lint(file: descriptor_pb2.FileDescriptorProto, path: Path) -> Iterator[str]:
    """Violations of buf's STANDARD category, as RULE: where."""
    text = path.read_text()
    if file.syntax != "proto3":
        yield f"SYNTAX_SPECIFIED: {file.name}"
    if not re.fullmatch(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9_]*)*\.v[1-9]\d*", file.package):
        yield f"PACKAGE_VERSION_SUFFIX: {file.package}"
    if str(path.parent.relative_to(PROTO)) != file.package.replace(".", "/"):
        yield f"PACKAGE_DIRECTORY_MATCH: {file.name}"
    if not SNAKE.fullmatch(path.stem):
        yield f"FILE_LOWER_SNAKE_CASE: {file.name}"
    if file.public_dependency or file.weak_dependency:
        yield f"IMPORT_NO_PUBLIC, IMPORT_NO_WEAK: {file.name}"
    used = set(re.findall(r"type_name: \"\.([\w.]+)\"", str(file)))
    for imported in file.dependency:
        if not any(name in used for name in names_in(imported)):
            yield f"IMPORT_USED: {imported} in {file.name}"
    for enum in [*file.enum_type, *(e for m in file.message_type for e in m.enum_type)]:
        yield from lint_enum(enum)
    for message in file.message_type:
        yield from lint_message(message)
    for service in file.service:
        yield from lint_service(service, text)


def names_in(imported: str) -> set[str]:
    if imported == "google/rpc/status.proto":
        return {"google.rpc.Status"}
    module = next(m for m in MODULES if m.DESCRIPTOR.name == imported)
    return {
        f"naflow.v1.{name}"
        for name in (*module.DESCRIPTOR.message_types_by_name, *module.DESCRIPTOR.enum_types_by_name)
    }


def lint_enum(enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
    if not PASCAL.fullmatch(enum.name):
        yield f"ENUM_PASCAL_CASE: {enum.name}"
    if enum.value[0].number != 0 or not enum.value[0].name.endswith("_UNSPECIFIED"):
        yield f"ENUM_ZERO_VALUE_SUFFIX, ENUM_FIRST_VALUE_ZERO: {enum.name}"
    if enum.options.allow_alias:
        yield f"ENUM_NO_ALLOW_ALIAS: {enum.name}"
    for value in enum.value:
        if not UPPER.fullmatch(value.name) or not value.name.startswith(upper_snake(enum.name) + "_"):
            yield f"ENUM_VALUE_PREFIX, ENUM_VALUE_UPPER_SNAKE_CASE: {value.name}"


def lint_message(message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    if not PASCAL.fullmatch(message.name):
        yield f"MESSAGE_PASCAL_CASE: {message.name}"
    for name in [field.name for field in message.field] + [
        oneof.name for oneof in message.oneof_decl if not oneof.name.startswith("_")
    ]:
        if not SNAKE.fullmatch(name):
            yield f"FIELD_LOWER_SNAKE_CASE, ONEOF_LOWER_SNAKE_CASE: {message.name}.{name}"


def lint_service(service: descriptor_pb2.ServiceDescriptorProto, text: str) -> Iterator[str]:
    if not PASCAL.fullmatch(service.name) or not service.name.endswith("Service"):
        yield f"SERVICE_SUFFIX, SERVICE_PASCAL_CASE: {service.name}"
    lines = text.splitlines()
    uses = [t for method in service.method for t in (method.input_type, method.output_type)]
    for method in service.method:
        line = next(i for i, text in enumerate(lines) if re.match(rf"\s*rpc {method.name}\(", text))
        waived = set(IGNORE.findall(comment_above(lines, line)))
        found = set()
        if not PASCAL.fullmatch(method.name):
            found.add("RPC_PASCAL_CASE")
        if not method.input_type.endswith(f".{method.name}Request"):
            found.add("RPC_REQUEST_STANDARD_NAME")
        if not method.output_type.endswith(f".{method.name}Response"):
            found.add("RPC_RESPONSE_STANDARD_NAME")
        if max(uses.count(method.input_type), uses.count(method.output_type)) > 1:
            found.add("RPC_REQUEST_RESPONSE_UNIQUE")
        yield from (f"{rule}: {method.name}" for rule in sorted(found - waived))
        yield from (f"needless waiver {rule}: {method.name}" for rule in sorted(waived - found))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_lint(path: Path) -> None:
    module = next(m for m in MODULES if m.DESCRIPTOR.name == str(path.relative_to(PROTO)))
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    assert list(lint(file, path)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_is_documented(path: Path) -> None:
    found = list(declarations(path))
    assert len(found) > 5
    assert [what for what, comment in found if len(IGNORE.sub("", comment).strip()) < 5] == []


def test_lint_sees_faults() -> None:
    """The checks above can fail."""
    enum = descriptor_pb2.EnumDescriptorProto(name="Colour")
    enum.value.add(name="RED", number=0)
    assert {rule.split(":")[0] for rule in lint_enum(enum)} == {
        "ENUM_ZERO_VALUE_SUFFIX, ENUM_FIRST_VALUE_ZERO",
        "ENUM_VALUE_PREFIX, ENUM_VALUE_UPPER_SNAKE_CASE",
    }
    service = descriptor_pb2.ServiceDescriptorProto(name="Thing")
    service.method.add(name="Do", input_type=".a.What", output_type=".a.What")
    assert len(list(lint_service(service, "  rpc Do(What) returns (What);"))) == 4


def test_every_file_has_stubs_and_no_stub_is_left_over() -> None:
    made = PROTO / "gen" / "python" / "naflow" / "v1"
    expected = {f"{path.stem}_pb2{end}" for path in FILES for end in (".py", ".pyi")}
    expected |= {f"{path.stem}_pb2_grpc.py" for path in FILES if "\nservice " in path.read_text()}
    expected |= {"__init__.py", "py.typed"}
    assert {path.name for path in made.iterdir() if path.name != "__pycache__"} == expected


def test_stubs_hold_what_the_files_say() -> None:
    """Without the tools: each number in a .proto file is the number in the stub."""
    for path in FILES:
        module = next(m for m in MODULES if m.DESCRIPTOR.name == str(path.relative_to(PROTO)))
        text = re.sub(r"//.*", "", path.read_text())
        written = set(re.findall(r"(\w+) = (\d+);", text))
        stubs = {
            (field.name, str(field.number))
            for message in module.DESCRIPTOR.message_types_by_name.values()
            for field in message.fields
        } | {
            (value.name, str(value.number))
            for enum in module.DESCRIPTOR.enum_types_by_name.values()
            for value in enum.values
        }
        assert stubs == written, path.name


def test_stubs_are_current(tmp_path: Path) -> None:
    """Regenerate with the pinned tools, in an environment of their own, and compare byte for byte."""
    generate = tool()
    python = tmp_path / "tools" / "bin" / "python"
    venv.create(tmp_path / "tools", with_pip=True)
    wanted = [f"grpcio-tools=={generate.TOOLS}", "googleapis-common-protos"]
    installed = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *wanted],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if installed.returncode:
        pytest.skip(f"the pinned tools cannot be installed here: {installed.stderr.strip()[-200:]}")
    ended = subprocess.run(
        [python, PROTO / "generate.py", "--check"], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr


def test_check_tells_stale_files(tmp_path: Path) -> None:
    generate = tool()
    for side, text in (("a", "same"), ("b", "same")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "x.py").write_text(text)
    assert generate.differences(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b" / "x.py").write_text("other")
    (tmp_path / "a" / "new.py").write_text("")
    assert generate.differences(tmp_path / "a", tmp_path / "b") == ["new.py", "x.py"]


def test_stubs_import_without_warnings_on_the_runtime_here() -> None:
    code = "from naflow.v1 import explanation_pb2_grpc, model_repository_pb2_grpc, reference_bank_pb2_grpc"
    stubs = str(PROTO / "gen" / "python")
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {stubs!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
