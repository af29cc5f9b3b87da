"""Settings of the server: a TOML file, NAFLOW_* environment variables and command-line flags.

Later ones win: defaults, then the file, then the environment, then the flags. In the environment, sections
and fields are joined by two underscores: NAFLOW_SERVER__PORT=8001, NAFLOW_LIMITS__QUEUE=64; lists and tables
are written as JSON. What is unknown or impossible is refused, with the name of the field.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as InvalidEnvironment

from naflow_server.sections import (
    BankSettings,
    BatchingSettings,
    CompilationSettings,
    LimitSettings,
    RepositorySettings,
    SecuritySettings,
    ServerSettings,
)

PREFIX = "NAFLOW_"
REASONS = {"extra_forbidden": "there is no such setting", "model_type": "must be a table of settings"}


class SettingsError(Exception):
    """Settings that cannot be used: one line that names the field and where it came from."""


class Settings(BaseSettings):
    """All settings, by section. `read_settings` builds them from file, environment and flags; built directly,
    they are what is passed and the defaults."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    server: ServerSettings = ServerSettings()
    security: SecuritySettings = SecuritySettings()
    limits: LimitSettings = LimitSettings()
    batching: BatchingSettings = BatchingSettings()
    repository: RepositorySettings = RepositorySettings()
    banks: BankSettings = BankSettings()
    compilation: CompilationSettings = CompilationSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed; `read_settings` brings in the rest in its order."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    def printable(self) -> dict[str, Any]:
        """Plain values for the log; secrets are masked."""
        values: dict[str, Any] = self.model_dump(mode="json")
        return values


def read_settings(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from all their sources.

    Args:
        file: TOML, with a table per section.
        flags: values by dotted name ("server.port"); None means not given.

    Raises:
        SettingsError: the file cannot be read, or a value is unknown or impossible.
    """
    merged: dict[str, Any] = {}
    if file is not None:
        _merge(merged, _read_file(file))
    _merge(merged, _read_environment())
    for name, value in (flags or {}).items():
        *sections, field = name.split(".")
        for section in reversed(sections):
            value, field = {field: value}, section
        if _given(value):
            _merge(merged, {field: value})
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]  # an input may be a secret
        field = ".".join(str(part) for part in first["loc"]) or "settings"
        reason = REASONS.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise SettingsError(f"{field}: {reason}") from None


def _given(value: Any) -> bool:
    return _given(next(iter(value.values()))) if isinstance(value, dict) and value else value is not None


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {str(file)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"settings file {str(file)!r} is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, and deep nesting, too
        raise SettingsError(f"settings file {str(file)!r} is not TOML: {error}") from None


def _read_environment() -> dict[str, Any]:
    for name in os.environ:
        section, joined, _ = name.upper().removeprefix(PREFIX).partition("__")
        if name.upper().startswith(PREFIX) and joined and section.lower() not in Settings.model_fields:
            raise SettingsError(f"environment variable {name}: there is no section {section.lower()!r}")
    source = EnvSettingsSource(Settings, case_sensitive=False, env_prefix=PREFIX, env_nested_delimiter="__")
    try:
        return source()
    except (InvalidEnvironment, RecursionError) as error:
        text = getattr(error.__cause__, "doc", None)
        ours = (name for name in os.environ if name.upper().startswith(PREFIX))
        named = [name for name in ours if os.environ[name] == text]
        reason = f"environment variable {named[0]}: is not JSON" if named else f"environment: {error}"
        raise SettingsError(reason) from None
