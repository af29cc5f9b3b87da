"""Reference banks: labelled embeddings of one model, in one file."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from naflow_core.errors import TargetError

FORMAT = "naflow-bank-1"


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Embeddings with labels.

    Attributes:
        embeddings: [M, C, ...] float32.
        labels: [M] one for each.
        model_sha256: digest of the model file that made them; no other model may use them.
        output: name of the model output that they are.
        names: [M] of the pictures, for reports; numbers when empty.
        preprocess: the settings that made tensors of the pictures; empty if not known.
        thumbnails: uint8 [M, h, w, 3] small pictures for reports, or None.
        source: file name, for messages.

    Raises:
        TargetError: the fields do not fit each other. Values are checked when a metric is known, which may
            not be defined for all.
    """

    embeddings: np.ndarray
    labels: Sequence[str | int]
    model_sha256: str
    output: str = ""
    names: Sequence[str] = ()
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    thumbnails: np.ndarray | None = None
    source: str = "<bank>"
    _derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        array = np.asarray(self.embeddings)
        if array.dtype.kind != "f" or array.ndim < 2:
            raise TargetError(
                f"bank {self.source!r}: embeddings are {array.dtype} {list(array.shape)}",
                hint="give float32 [M, C]",
            )
        if array.size == 0:
            raise TargetError(f"bank {self.source!r} is empty", hint="add at least one embedding")
        count = len(array)
        for what, given in (("labels", self.labels), ("names", self.names or self.labels)):
            if len(given) != count:
                raise TargetError(f"bank {self.source!r}: {len(given)} {what} do not fit {count} embeddings")
        if self.thumbnails is not None and (
            self.thumbnails.dtype != np.uint8
            or self.thumbnails.ndim != 4
            or self.thumbnails.shape[::3] != (count, 3)
        ):
            raise TargetError(
                f"bank {self.source!r}: thumbnails are {self.thumbnails.dtype} {list(self.thumbnails.shape)}",
                hint=f"give uint8 [{count}, h, w, 3]",
            )
        object.__setattr__(self, "embeddings", np.ascontiguousarray(array, np.float32))
        object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        object.__setattr__(self, "names", tuple(map(str, self.names or range(count))))

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def classes(self) -> tuple[str, ...]:
        """The different labels, in order of appearance."""
        return tuple(self.once("classes", lambda: tuple(dict.fromkeys(map(str, self.labels)))))

    @property
    def class_numbers(self) -> np.ndarray:
        """[M] which of `classes` each embedding has."""

        def numbers() -> np.ndarray:
            number = {label: i for i, label in enumerate(self.classes)}
            return np.array([number[str(each)] for each in self.labels])

        return np.asarray(self.once("class numbers", numbers))

    def once(self, what: str, make: Callable[[], Any]) -> Any:
        """Something that follows from the bank alone, made when it is first asked for."""
        if what not in self._derived:
            self._derived[what] = make()
        return self._derived[what]

    def check_model(self, sha256: str) -> None:
        """Refuse another model than the one that made the embeddings.

        Raises:
            TargetError: `sha256` is not its digest.
        """
        if sha256 != self.model_sha256:
            raise TargetError(
                f"bank {self.source!r} is of another model: its SHA-256 begins with {self.model_sha256[:8]}, "
                f"this model's with {sha256[:8]}",
                hint="make a bank with this model",
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as .npz. The same bank gives the same bytes."""
        about = {
            "format": FORMAT,
            "model_sha256": self.model_sha256,
            "output": self.output,
            "preprocess": dict(self.preprocess),
        }
        arrays = {
            "about": np.array(json.dumps(about, sort_keys=True)),
            "embeddings": self.embeddings,
            "labels": np.array(self.labels),
            "names": np.array(self.names),
        }
        if self.thumbnails is not None:
            arrays["thumbnails"] = self.thumbnails
        with Path(path).open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Bank:
        """From a file that `save` or `naflow bank create` wrote.

        Raises:
            TargetError: it cannot be read or is no bank.
        """
        path = Path(path)
        try:
            if path.is_file() and not zipfile.is_zipfile(path):
                raise ValueError("not an .npz file")
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                about = json.loads(str(content["about"]))
                if about["format"] != FORMAT:
                    raise ValueError(f"format {about['format']!r}")
                return cls(
                    embeddings=content["embeddings"],
                    labels=content["labels"].tolist(),
                    model_sha256=str(about["model_sha256"]),
                    output=str(about["output"]),
                    names=content["names"].tolist(),
                    preprocess=dict(about["preprocess"]),
                    thumbnails=content.get("thumbnails"),
                    source=path.name,
                )
        except OSError as error:
            raise TargetError(
                f"bank {str(path)!r}: cannot be read: {error.strerror or error}", hint="check the path"
            ) from error
        except (ValueError, KeyError, TypeError, EOFError, AttributeError, OverflowError) as error:
            raise _no_bank(path, error) from error
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, SyntaxError) as error:
            raise _no_bank(path, error) from error


def _no_bank(path: Path, error: Exception) -> TargetError:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return TargetError(
        f"bank {path.name!r} is no reference bank: {reason}", hint="make one with `naflow bank create`"
    )
