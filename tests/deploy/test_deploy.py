"""Container and manifest fit the server: variables, paths, ports, probes and times."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from naflow_cli.main import app
from naflow_server.settings import Settings, read_settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
MANIFEST = (ROOT / "deploy" / "kubernetes.yaml").read_text("utf-8")
IMAGE = dict(re.findall(r"(NAFLOW_\w+)=(\S+)", DOCKERFILE))
POD = dict(re.findall(r"\{name: (NAFLOW_\w+), value: \"?([^\"}]*)\"?\}", MANIFEST))


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the container in the pod, service links included."""
    for name, value in {
        **IMAGE,
        **POD,
        "NAFLOW_PORT": "tcp://10.0.0.1:8001",
        "NAFLOW_SERVICE_HOST": "x",
    }.items():
        monkeypatch.setenv(name, value)
    return read_settings()


def test_every_variable_is_a_setting(configured: Settings) -> None:
    assert len(IMAGE) == DOCKERFILE.count("NAFLOW_") == 6
    assert len(POD) == MANIFEST.count("NAFLOW_")
    assert configured.server.host == "0.0.0.0"
    assert configured.security.tls_key is not None
    assert configured.security.tokens_file is not None


def test_paths_are_mounted(configured: Settings) -> None:
    mounts = set(re.findall(r"mountPath: ([\w/]+)", MANIFEST))
    security = configured.security
    for file in (security.tls_certificate, security.tls_key, security.tokens_file):
        assert str(file and file.parent) in mounts
    assert str(configured.repository.path) in mounts
    assert str(configured.compilation.cache) in mounts
    assert not configured.repository.upload.enabled  # the models are mounted read-only
    assert f"mkdir {configured.repository.path} {configured.compilation.cache}" in DOCKERFILE
    names = set(re.findall(r"\{name: (\w+), mountPath", MANIFEST))
    assert names == set(
        re.findall(r"^        - name: (\w+)$", MANIFEST.partition("volumes:")[2], re.MULTILINE)
    )
    assert configured.compilation.cache_bytes < 5 << 30  # the cache volume's size


def test_ports_agree(configured: Settings) -> None:
    ports = dict(re.findall(r"\{name: (\w+), containerPort: (\d+)\}", MANIFEST))
    assert ports == {"grpc": str(configured.server.port), "metrics": str(configured.server.metrics_port)}
    assert f"EXPOSE {ports['grpc']} {ports['metrics']}" in DOCKERFILE
    assert f"port: {ports['grpc']}, targetPort: grpc" in MANIFEST
    assert f'prometheus.io/port: "{ports["metrics"]}"' in MANIFEST
    assert set(re.findall(r"(?:httpGet|tcpSocket): \{(?:path: /ready, )?port: (\w+)\}", MANIFEST)) == {
        "metrics"
    }
    assert MANIFEST.count("path: /ready") == 2


def test_there_is_time_to_stop(configured: Settings) -> None:
    found = re.search(r"terminationGracePeriodSeconds: (\d+)", MANIFEST)
    assert found
    assert int(found[1]) >= configured.server.drain_seconds + configured.server.grace_seconds + 10


def test_what_is_copied_is_there_and_installed() -> None:
    copied = [
        path
        for line in re.findall(r"^COPY (?!--)(.*)$", DOCKERFILE, re.MULTILINE)
        for path in line.split()[:-1]
    ]
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == set(copied)
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for package in re.findall(r"^packages = \[(.*)\]$", project, re.MULTILINE)[0].split(", "):
        assert any(package.strip('"').startswith(path) for path in copied), package
    for extra in re.findall(r"EXTRAS=([\w,]+)", DOCKERFILE):
        assert all(f"\n{name} = [" in project for name in extra.split(","))


def test_the_entry_point_is_a_command() -> None:
    found = re.search(r"^ENTRYPOINT \[(.*)\]$", DOCKERFILE, re.MULTILINE)
    assert found
    program, command = shlex.split(found[1].replace(",", " "))
    assert program == "naflow"
    commands = typer.main.get_command(app)
    assert command in commands.commands  # type: ignore[attr-defined]
    assert "USER 10001" in DOCKERFILE
    assert "runAsUser: 10001" in MANIFEST
