"""A small check of JSON values against a pattern that reads like the documentation."""

from __future__ import annotations

from typing import Any


class OneOf:
    """Any of several patterns."""

    def __init__(self, *patterns: Any) -> None:
        self.patterns = patterns

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.patterns))


def mismatches(value: Any, pattern: Any, where: str = "$") -> list[str]:
    """Where `value` does not fit.

    A type asks for an instance (bool is no int, an int is a float), None for null, a dict for at least
    these keys, a list of one pattern for a list of such items, OneOf for one of its patterns, anything
    else for equality.
    """
    if isinstance(pattern, OneOf):
        fits = any(not mismatches(value, option, where) for option in pattern.patterns)
        return [] if fits else [f"{where}: {value!r} is not {pattern!r}"]
    if isinstance(pattern, dict):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is not an object"]
        absent = [f"{where}.{key}: missing" for key in pattern if key not in value]
        return absent + [
            text
            for key in pattern
            if key in value
            for text in mismatches(value[key], pattern[key], f"{where}.{key}")
        ]
    if isinstance(pattern, list):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is not a list"]
        return [
            text for i, item in enumerate(value) for text in mismatches(item, pattern[0], f"{where}[{i}]")
        ]
    if isinstance(pattern, type):
        wanted = (int, float) if pattern is float else pattern
        fits = isinstance(value, wanted) and (pattern is bool or not isinstance(value, bool))
        return [] if fits else [f"{where}: {value!r} is not {pattern.__name__}"]
    return [] if value == pattern else [f"{where}: {value!r} is not {pattern!r}"]
