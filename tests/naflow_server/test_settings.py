"""Settings from file, environment and flags."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from naflow_server.sections import Section
from naflow_server.settings import Settings, SettingsError, read_settings


@pytest.fixture(autouse=True)
def _no_outer_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAFLOW_SERVER__PORT", raising=False)


def test_later_sources_win_and_others_keep_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "naflow.toml"
    file.write_text(
        """
        [server]
        port = 1
        host = "0.0.0.0"
        [limits]
        queue = 10
        active = 2
        [repository.models.resnet50]
        warm_up = [{ data = [1, 3, 224, 224] }]
        """
    )
    monkeypatch.setenv("NAFLOW_SERVER__PORT", "2")
    monkeypatch.setenv("NAFLOW_LIMITS__QUEUE", "20")
    monkeypatch.setenv("NAFLOW_REPOSITORY__LOAD", '["a", "b"]')
    monkeypatch.setenv("NAFLOW_ZOO", "/not/ours")
    got = read_settings(file, {"server.port": 3, "server.host": None, "repository.upload.enabled": True})
    assert (got.server.port, got.server.host) == (3, "0.0.0.0")
    assert (got.limits.queue, got.limits.active, got.limits.events) == (20, 2, 4)
    assert got.repository.load == ("a", "b")
    assert got.repository.upload.enabled
    assert got.repository.models["resnet50"].warm_up == ({"data": (1, 3, 224, 224)},)
    assert Settings().server.port == 8001  # built directly: no environment


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nport = 70000", "server.port"),
        ("[server]\nprot = 1", "server.prot: there is no such setting"),
        ("[serve]\nport = 1", "serve: there is no such setting"),
        ("[limits]\nqueue = 0", "limits.queue"),
        ("[limits]\nstalled_seconds = inf", "limits.stalled_seconds"),
        ("[security]\ntls_key = 'k.pem'", "security: tls_certificate and tls_key must be given together"),
        ("[security]\nclient_ca = 'ca.pem'", "security: client_ca needs"),
        ("[security]\ntoken = '  '", "security: token must not be empty"),
        ("server = 5", "server: must be a table"),
        ("[repository]\nload = 'one'", "repository.load: must be all, or a list of names"),
        ("[repository]\nload = [1]", "repository.load: must be all, or a list of names"),
        ("[repository.models.one]\nwarm_up_layers = 5", "repository.models.one.warm_up_layers: must be"),
        ("[server", "is not TOML"),
        ("a = " + "9" * 5000, "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "naflow.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_settings(file)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("NAFLOW_SERVER__PORT", "many", "server.port"),
        ("NAFLOW_SERVER__PROT", "1", "server.prot"),
        ("NAFLOW_SERVR__PORT", "1", "no section 'servr'"),
        ("NAFLOW_REPOSITORY__MODELS", "{", "variable NAFLOW_REPOSITORY__MODELS: is not JSON"),
        ("NAFLOW_SERVER", "8001", "server: must be a table"),
        ("NAFLOW_SERVER", "port", "variable NAFLOW_SERVER: is not JSON"),
        ("NAFLOW_SERVER", "[" * 100_000, "environment"),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert named in str(caught.value)


def test_faiss_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SettingsError, match=r"banks\.search: .*pip install 'naflow\[faiss\]'"):
        read_settings(flags={"banks.search": "faiss"})
    monkeypatch.setitem(sys.modules, "faiss", types.ModuleType("faiss"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert read_settings(flags={"banks.search": "faiss"}).banks.search == "faiss"


def test_secrets_are_never_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAFLOW_SECURITY__TOKEN", "sesame")
    got = read_settings()
    assert got.security.token is not None
    assert got.security.token.get_secret_value() == "sesame"
    for shown in (str(got), repr(got), json.dumps(got.printable()), str(got.security)):
        assert "sesame" not in shown
    file = tmp_path / "naflow.toml"
    file.write_text("[security]\ntoken = ['sesame']")
    monkeypatch.delenv("NAFLOW_SECURITY__TOKEN")
    with pytest.raises(SettingsError) as caught:
        read_settings(file)
    assert "sesame" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml"):
        read_settings(tmp_path / "nothing.toml")


def sections(model: type[Section] | type[Settings]) -> list[type[Section]]:
    kinds = [field.annotation for field in model.model_fields.values()]
    own = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
    return [*own, *(deeper for kind in own for deeper in sections(kind))]


@pytest.mark.parametrize("section", sections(Settings), ids=lambda section: section.__name__)
def test_every_setting_is_documented(section: type[Section]) -> None:
    for name in section.model_fields:
        assert name in (section.__doc__ or ""), name
