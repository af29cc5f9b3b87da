"""What is refused of banks, and in which words."""

from __future__ import annotations

import errno

from naflow_server.engine.types import Code, EngineError


def invalid(field: str, message: str, hint: str = "") -> EngineError:
    """A field with an impossible value."""
    return EngineError(
        Code.INVALID_ARGUMENT, f"{field}: {message}", hint=hint, field=field, reason="bank_invalid"
    )


def switched_off() -> EngineError:
    """The server keeps no banks."""
    return EngineError(
        Code.PERMISSION_DENIED,
        "reference banks are switched off on this server",
        hint="set banks.path",
        reason="banks_disabled",
    )


def stopping() -> EngineError:
    """The server closes its banks."""
    return EngineError(
        Code.UNAVAILABLE, "the server is shutting down", retry_after=1.0, reason="shutting_down"
    )


def unusable(path: object, why: str, hint: str) -> EngineError:
    """The folder of the settings cannot be used."""
    return EngineError(
        Code.FAILED_PRECONDITION, f"banks.path {str(path)!r}: {why}", hint=hint, reason="banks_unusable"
    )


def unknown(name: str) -> EngineError:
    """No such bank."""
    return EngineError(
        Code.NOT_FOUND,
        f"there is no bank {name!r}",
        hint="list the banks to see which there are",
        field="bank_name",
        reason="bank_unknown",
    )


def exists(name: str) -> EngineError:
    """The name is taken."""
    return EngineError(
        Code.FAILED_PRECONDITION,
        f"there is a bank {name!r} already",
        hint="choose another name, or delete it first",
        field="bank_name",
        reason="bank_exists",
    )


def other_model(name: str, bank: str, given: str) -> EngineError:
    """Embeddings of another model."""
    return EngineError(
        Code.FAILED_PRECONDITION,
        f"bank {name!r} is made for the model with sha256 {bank}, these embeddings come from {given}",
        hint="append to a bank that was made for this model",
        field="model_sha256",
        reason="bank_model_differs",
    )


def id_taken(name: str, append_id: str) -> EngineError:
    """An append's id came with other embeddings than before."""
    return EngineError(
        Code.FAILED_PRECONDITION,
        f"bank {name!r} has an append {append_id!r} with other content already",
        hint="choose another append_id for every append",
        field="append_id",
        reason="append_id_taken",
    )


def no_version(name: str, version: int, newest: int) -> EngineError:
    """The bank never had that version."""
    return EngineError(
        Code.NOT_FOUND,
        f"bank {name!r} has no version {version}, its newest is {newest}",
        field="version",
        reason="bank_version_unknown",
    )


def damaged(name: str, why: str) -> EngineError:
    """Its file is not what was written."""
    return EngineError(
        Code.FAILED_PRECONDITION,
        f"bank {name!r} cannot be used: {why}",
        hint="bring the file back from a backup and restart the server, or delete the bank",
        reason="bank_damaged",
    )


def quota(setting: str, message: str) -> EngineError:
    """A quota of the settings is used up."""
    hint = f"delete what is not needed, or raise {setting}"
    return EngineError(Code.RESOURCE_EXHAUSTED, message, hint=hint, reason="bank_quota")


def unwritable(name: str, why: str) -> EngineError:
    """An earlier write failed in a way that leaves the disk's state unknown."""
    return EngineError(
        Code.INTERNAL,
        f"bank {name!r} takes no more appends: {why}",
        hint="mend the disk and restart the server",
        reason="bank_unwritable",
    )


def no_room() -> EngineError:
    """The disk is full."""
    return EngineError(Code.RESOURCE_EXHAUSTED, "the banks' disk has no room for it", reason="disk_full")


def not_written(error: OSError) -> EngineError:
    """The disk said no."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_room()
    return EngineError(
        Code.INTERNAL, f"the banks' folder cannot be written: {error.strerror}", reason="bank_unwritable"
    )
