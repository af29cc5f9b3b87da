"""The documentation is true: commands parse, Python runs, settings are valid, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

import naflow_core as nf
from naflow_cli.main import app
from naflow_client import Preprocessing
from naflow_server.engine import Engine
from naflow_server.settings import read_settings
from support.engines import install
from support.grpc_server import running, settings

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "digits_in_clutter"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    DEMO / "README.md",
    ROOT / "examples" / "contrastive_digits" / "README.md",
    ROOT / "examples" / "retrieval" / "README.md",
    ROOT / "clients" / "python" / "README.md",
    ROOT / "clients" / "node" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
RUNNABLE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOCAL = "localhost:8001"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMANDS: Any = typer.main.get_command(app)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def command_lines() -> list[tuple[str, str]]:
    """Every line of a code block that begins with `naflow `, continuation lines joined."""
    found = []
    for path in DOCUMENTS:
        for body in blocks(path, ""):
            for line in body.replace("\\\n", " ").splitlines():
                if line.startswith("naflow "):
                    found.append((name_of(path), " ".join(line.split())))
    return found


@pytest.mark.parametrize(("document", "line"), command_lines())
def test_command_line_parses(document: str, line: str) -> None:
    """Names and values of all options are taken by the command; nothing is run."""
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = COMMANDS.commands[name]
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    context = command.make_context(name, arguments)
    if name == "explain":
        values = context.params
        assert values["out"]
        assert values["manifest"] or (values["model"] and values["inputs"])
        nf.Method.preset(values["preset"])
        nf.ClassTarget.parse(values["target"])


def test_there_are_command_lines() -> None:
    assert {document for document, _ in command_lines()} >= {"README.md", "docs/cli.md", "docs/models.md"}


def options_of(command: Any) -> list[str]:
    """Of a command, or of all commands in a group."""
    inside = getattr(command, "commands", {}).values()
    return [
        *(option for parameter in command.params for option in parameter.opts + parameter.secondary_opts),
        *(option for other in inside for option in options_of(other)),
    ]


def test_every_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, command in COMMANDS.commands.items():
        section = re.split(r"^## ", text.partition(f"\n## {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
        assert section, name
        options = options_of(command)
        missing = [option for option in options if option.startswith("--") and f"`{option}" not in section]
        assert missing in ([], ["--help"]), name


def test_no_option_is_invented() -> None:
    known = {*options_of(COMMANDS), "--help", "--version", "--quiet"}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        used = set(re.findall(r"`(--[a-z-]+)", path.read_text(encoding="utf-8")))
        assert used <= known, name_of(path)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the examples name. What an example registers is taken out again."""
    shutil.copy(DEMO / "digits_in_clutter.onnx", tmp_path / "model.onnx")
    shutil.copy(DEMO / "preprocess.json", tmp_path)
    shutil.copy(DEMO / "inputs" / "digit_3.png", tmp_path / "cat.jpg")
    with Image.open(tmp_path / "cat.jpg") as picture:
        np.save(tmp_path / "x.npy", np.asarray(picture.convert("L"), np.float32)[None, None] / 255)
    monkeypatch.chdir(tmp_path)
    before = set(nf.ops.REGISTRY.names())
    yield tmp_path
    for domain, op_type, versions in set(nf.ops.REGISTRY.names()) - before:
        for version in versions:
            nf.ops.REGISTRY.unregister(op_type, since=version, domain=domain)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the demo network under the name `model`, and with banks."""
    models = tmp_path_factory.mktemp("models")
    install(models, "model", (DEMO / "digits_in_clutter.onnx").read_bytes())
    banks = {"path": tmp_path_factory.mktemp("banks")}
    with running(settings(repository={"path": models}, banks=banks), Engine) as server:
        yield server.address


@pytest.mark.parametrize("path", [path for path in RUNNABLE if blocks(path, "python")], ids=name_of)
def test_python_runs(
    path: Path, workplace: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """All blocks of a document in one namespace, in order, as a reader would type them."""
    names: dict[str, Any] = {"__name__": "__example__"}
    for body in blocks(path, "python"):
        if LOCAL in body:
            body = body.replace(LOCAL, request.getfixturevalue("address"))
        exec(compile(body, name_of(path), "exec"), names)
    said = capsys.readouterr().out
    if path.name == "sdk.md":
        assert "TARGET_INVALID" in said
        assert len(list((workplace / "overlays").glob("*.png"))) == 1
        assert all((workplace / name).is_file() for name in ("flows.npz", "flow.gif", "report.html"))
    assert "top_relu" in said
    if path.name == "python.md":
        assert (workplace / "flows.npz").is_file()
        assert len(list((workplace / "overlays").glob("*.png"))) == 8
        assert "target_invalid class 5000 does not exist" in said


def test_settings_are_valid() -> None:
    found = [(path, body) for path in DOCUMENTS for body in blocks(path, "json")]
    assert found
    for path, body in found:
        Preprocessing.from_dict(json.loads(body), where=name_of(path))


def test_server_settings_are_valid(tmp_path: Path) -> None:
    found = [body for path in DOCUMENTS for body in blocks(path, "toml")]
    assert found
    for body in found:
        (tmp_path / "settings.toml").write_text(body, encoding="utf-8")
        read_settings(tmp_path / "settings.toml")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_presets_are_as_documented() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    header = re.search(r"^\| \|(( `[a-z-]+` \|)+)$", text, re.MULTILINE)
    assert header is not None
    presets = [cell.strip(" `") for cell in header[1].strip("|").split("|")]
    assert presets == list(nf.PRESETS)
    for option in ("inverse", "abandon", "weighting", "evidence", "feasible", "damping"):
        row = re.search(rf"^\| `{option}` \|(.*)\|$", text[header.end() :], re.MULTILINE)
        assert row is not None
        for preset, cell in zip(presets, row[1].split("|"), strict=True):
            value = nf.PRESETS[preset].to_dict()[option]
            written = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
            assert cell.strip() == (f"{written:g}" if isinstance(written, float) else written), (
                preset,
                option,
            )


def test_the_pictures_can_be_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    script = runpy.run_path(str(ROOT / "docs" / "make_pictures.py"))
    monkeypatch.setitem(script["main"].__globals__, "IMAGES", tmp_path)
    script["main"]()
    drawn = {path.name: path for path in tmp_path.iterdir()}
    kept = {path.name: path for path in (ROOT / "docs" / "images").glob("*.png")}
    assert set(drawn) == set(kept)
    for name, path in drawn.items():
        with Image.open(path) as new, Image.open(kept[name]) as old:
            gap = np.abs(np.asarray(new.convert("RGB"), float) - np.asarray(old.convert("RGB"), float))
            assert gap.mean() < 2, f"{name} shows something else now: run docs/make_pictures.py"
    assert max(path.stat().st_size for path in kept.values()) < 300_000
