"""What is known of one model of the repository, and of each of its versions."""

from __future__ import annotations

from dataclasses import dataclass, field

from naflow_server.engine.repository.layout import Fingerprint, VersionFolder
from naflow_server.engine.types import Code, EngineError, ModelInfo, State, VersionInfo
from naflow_server.engine.version import LoadedVersion

NOT_READY = "model_not_ready"


@dataclass
class Slot:
    """One version of a model.

    Attributes:
        loaded: what serves; None when nothing does.
        seen: fingerprint of the files that were last read, with or without success.
        batch_limit: max_batch_size of config.pbtxt.
    """

    version: str
    folder: VersionFolder
    state: State = State.UNLOADED
    reason: str = ""
    loaded: LoadedVersion | None = None
    seen: Fingerprint | None = None
    batch_limit: int | None = None


@dataclass
class Entry:
    """One model.

    Attributes:
        wanted: whether it is to be loaded (and kept up to date when the folder is polled).
        slots: by version.
    """

    name: str
    wanted: bool = False
    reason: str = ""
    slots: dict[str, Slot] = field(default_factory=dict)

    def info(self) -> ModelInfo:
        """What `list` tells."""
        versions = tuple(
            VersionInfo(
                slot.version,
                slot.state,
                slot.reason,
                slot.loaded.sha256 if slot.loaded else "",
                slot.loaded.bytes if slot.loaded else 0,
            )
            for slot in sorted(self.slots.values(), key=lambda slot: int(slot.version))
        )
        return ModelInfo(self.name, versions, self.reason)


def no_model(name: str) -> EngineError:
    """Refusal of a name that the repository does not have."""
    return EngineError(
        Code.NOT_FOUND,
        f"there is no model {name!r}",
        hint="list the repository to see which there are",
        field="model",
        reason="model_unknown",
    )


def not_ready(name: str, slot: Slot) -> EngineError:
    """Refusal of a version that is not loaded."""
    stands = f"model {name!r}, version {slot.version} is not ready ({slot.state.value.lower()})"
    return EngineError(
        Code.FAILED_PRECONDITION,
        f"{stands}: {slot.reason}" if slot.reason else stands,
        hint="load it first" if slot.state is State.UNLOADED else "",
        field="model",
        retry_after=1.0 if slot.state is State.LOADING else None,
        reason=NOT_READY,
    )
