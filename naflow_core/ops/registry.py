"""The table of forward operators.

An operator is a plain function: ONNX inputs are its positional arguments (an absent optional
input is None), ONNX attributes its keyword arguments with ONNX's defaults, and it returns one
array or a tuple of arrays. The same function serves two levels: where every input is already
known when the program is built (shapes, indices, constants) it receives numpy arrays and must
return numpy arrays; otherwise it receives jax arrays. `naflow_core.ops.array.namespace` picks the
module to compute with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from naflow_core.errors import Refusal, not_registered

Interval = tuple[float, float]
RangeRule = Callable[[list[Interval], Mapping[str, Any]], Interval]
REALS: Interval = (-np.inf, np.inf)


@dataclass(frozen=True, slots=True)
class Operator:
    """One implementation of one operator for one range of opset versions.

    Attributes:
        op_type, domain: ONNX's names ("" is ai.onnx).
        since: first opset version this implementation is right for.
        function: see the module text.
        static: input positions that must be known when the program is built (numpy arrays).
        static_if_known: input positions that are handed over as numpy arrays where they are known.
        pointwise: each output element depends only on the matching (broadcast) input elements.
        value_range: interval of the output values given those of the inputs; None: unbounded.
        foldable: may be computed in numpy when all its inputs are known.
        counts_outputs: the function has a keyword argument `outputs` and is told how many are read.
        knows_solves: it has a keyword argument `in_solve`: true where a solve will apply its derivative many
            times, and float32 need not be used to its last digit. Its value is the same.
    """

    op_type: str
    domain: str
    since: int
    function: Callable[..., Any]
    static: frozenset[int]
    static_if_known: frozenset[int]
    pointwise: bool
    value_range: RangeRule | None
    foldable: bool
    attributes: frozenset[str] = field(init=False)
    open_ended: bool = field(init=False)
    counts_outputs: bool = field(init=False)
    knows_solves: bool = field(init=False)

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.function).parameters.values()
        names = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        object.__setattr__(self, "attributes", names - {"outputs", "in_solve"})
        object.__setattr__(self, "counts_outputs", "outputs" in names)
        object.__setattr__(self, "knows_solves", "in_solve" in names)
        object.__setattr__(self, "open_ended", any(p.kind is p.VAR_KEYWORD for p in parameters))

    def check_attributes(self, given: Iterable[str]) -> None:
        """Raise Refusal if the node carries an attribute the function does not know."""
        unknown = sorted(set(given) - self.attributes)
        if unknown and not self.open_ended:
            raise Refusal(f"attribute {', '.join(map(repr, unknown))} is not implemented")


class OperatorRegistry:
    """Operators by (domain, op_type), several versions each; duplicates are refused."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], list[Operator]] = {}
        self._reasons: dict[tuple[str, str], str] = {}

    def register(
        self,
        op_type: str,
        *,
        since: int = 1,
        domain: str = "",
        static: Iterable[int] = (),
        static_if_known: Iterable[int] = (),
        pointwise: bool = False,
        value_range: Interval | RangeRule | None = None,
        foldable: bool = True,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator: add `function` as the implementation of `op_type` from opset `since` on.

        Raises:
            ValueError: the same operator and version is already registered.
        """
        if isinstance(value_range, tuple):
            fixed: Interval = value_range
            rule: RangeRule | None = lambda _inputs, _attributes: fixed  # noqa: E731
        else:
            rule = value_range

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            positions = frozenset(static), frozenset(static_if_known)
            entry = Operator(op_type, domain, since, function, *positions, pointwise, rule, foldable)
            versions = self._entries.setdefault((domain, op_type), [])
            if any(known.since == since for known in versions):
                raise ValueError(
                    f"operator {domain or 'ai.onnx'}:{op_type} since {since} is already registered"
                )
            versions.append(entry)
            versions.sort(key=lambda known: known.since)
            return function

        return add

    def refuse(self, op_type: str, reason: str, *, domain: str = "") -> None:
        """Say why an operator is not here, as long as nobody registers it."""
        self._reasons[(domain, op_type)] = reason

    def unregister(self, op_type: str, *, since: int, domain: str = "") -> None:
        """Take one implementation out again (for tests and for replacing a built-in)."""
        versions = self._entries[(domain, op_type)]
        versions[:] = [known for known in versions if known.since != since]
        if not versions:
            del self._entries[(domain, op_type)]

    def find(self, op_type: str, opset: int, domain: str = "") -> Operator:
        """The implementation with the greatest `since` not above `opset`.

        Raises:
            Refusal: no such operator, or only newer versions; the text says what exists.
        """
        versions = self._entries.get((domain, op_type))
        if not versions:
            raise Refusal(not_registered(domain, op_type, opset, self._reasons.get((domain, op_type))))
        fitting = [entry for entry in versions if entry.since <= opset]
        if not fitting:
            raise Refusal(
                f"{op_type} is implemented from opset {versions[0].since} on, the model has {opset}"
            )
        return fitting[-1]

    def reasons(self) -> list[tuple[str, str, str]]:
        """(domain, op_type, reason) of what is refused and not registered, sorted."""
        refused = sorted(self._reasons.items())
        return [(*operator, reason) for operator, reason in refused if operator not in self._entries]

    def names(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """(domain, op_type, versions) of everything registered, sorted."""
        return [
            (domain, op_type, tuple(entry.since for entry in versions))
            for (domain, op_type), versions in sorted(self._entries.items())
        ]


REGISTRY = OperatorRegistry()
register = REGISTRY.register
