"""Class names: reading label files and matching names to class indices."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from naflow_core.errors import TargetError

SYNSET = re.compile(r"^n\d{8}\s+")
LARGEST_FILE = 8 << 20


@dataclass(frozen=True, slots=True)
class Labels:
    """Names in the order of the model's classes.

    A line may carry a WordNet id first and several names separated by commas, as in "n02123045 tabby, tabby
    cat"; a class is found by its id or by any of its names.
    """

    names: tuple[str, ...]
    source: str = "<labels>"

    @classmethod
    def read(cls, path: str | Path) -> Labels:
        """One class per line, UTF-8; empty lines at the end are ignored.

        Raises:
            TargetError: the file cannot be read or is not text.
        """
        path = Path(path)
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise TargetError(f"label file {path.name!r} is larger than {LARGEST_FILE >> 20} MiB")
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise TargetError(f"label file {path.name!r} is not UTF-8 text") from error
        except OSError as error:
            raise TargetError(f"label file {str(path)!r} cannot be read: {error.strerror}") from error
        lines = [line.strip() for line in text.splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        if not lines:
            raise TargetError(f"label file {path.name!r} is empty")
        return cls(tuple(lines), path.name)

    def fitted(self, classes: int) -> Labels:
        """The same labels aligned with a model of `classes` outputs.

        One class more than labels, or the reverse, is the background class that some models put first.

        Raises:
            TargetError: any other difference.
        """
        count = len(self.names)
        if count == classes:
            return self
        if classes == count + 1:
            return Labels(("background", *self.names), self.source)
        if count == classes + 1 and "background" in self.names[0].lower():
            return Labels(self.names[1:], self.source)
        raise TargetError(
            f"label file {self.source!r} has {count} names, the model has {classes} classes",
            hint="one line per class; a background class first may be left out",
        )

    def title(self, index: int) -> str:
        """Short name for display: without the WordNet id, first synonym only; the number if there is none."""
        synonyms = (part.strip() for part in SYNSET.sub("", self.names[index]).split(","))
        return next(filter(None, synonyms), f"class {index}")

    def index(self, name: str) -> int:
        """The class with this id or name (case does not matter).

        Raises:
            TargetError: no class, or several, carry the name.
        """
        wanted = name.strip().casefold()
        found = [i for i in range(len(self.names)) if wanted in self._aliases(i)]
        if len(found) == 1:
            return found[0]
        if found:
            raise TargetError(
                f"class name {name!r} stands for {len(found)} classes", hint=f"use a number: {_listed(found)}"
            )
        every = sorted({alias for i in range(len(self.names)) for alias in self._aliases(i)})
        near = difflib.get_close_matches(wanted, every, 3)
        hint = (
            f"did you mean {', '.join(map(repr, near))}?"
            if near
            else "use a name from the label file or class:K"
        )
        raise TargetError(f"class {name!r} is not in label file {self.source!r}", hint=hint)

    def _aliases(self, index: int) -> set[str]:
        line = self.names[index].casefold()
        bare = SYNSET.sub("", line)
        identifier = line[:9] if bare != line else line
        return {line, bare, identifier, *(part.strip() for part in bare.split(","))}


def nearest_names(wanted: str, existing: Sequence[str]) -> str:
    """A hint for a name that does not exist: the most alike of those that do."""
    near = difflib.get_close_matches(wanted, existing, 3)
    if near:
        return f"did you mean {', '.join(map(repr, near))}?"
    return f"there is {', '.join(map(repr, existing[:5]))}{' and more' if len(existing) > 5 else ''}"


def _listed(indices: Sequence[int]) -> str:
    return ", ".join(f"class:{i}" for i in indices[:5])
