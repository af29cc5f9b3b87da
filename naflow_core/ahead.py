"""Compiling the steps of a cascade before their turn, on other threads.

XLA compiles one program on about one core, and releases Python while it does. The steps of a cascade are
known from its plan, so those that this process has not compiled yet are compiled side by side, in the order
in which they will be needed.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from naflow_core import cascade
from naflow_core.analysis.plan import Plan, Segment
from naflow_core.method import Method
from naflow_core.records import State

MOST_THREADS = 8
MOST_REMEMBERED = 64
STATIC = cascade.invert.static

Program = Any  # what `jax.jit` gives, or `Compiled`
Missing = tuple[Segment, Hashable, Program, tuple[Any, ...]]  # step, key, program, what it is called with

_compiled: set[Hashable] = set()
_drops = 0
_lock = threading.Lock()


class AheadOfTime:
    """Compiles on threads from the moment it is made; `wait` before a step, `close` at the end."""

    def __init__(self, plan: Plan, method: Method, wanted: set[str]) -> None:
        self._futures: dict[tuple[str, str], list[Future[None]]] = {}
        # the caller's, which other threads do not inherit; mypy does not see what JAX adds to its config
        device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
        pending = _pending(plan, method, wanted, device)
        threads = min(MOST_THREADS, os.cpu_count() or 1)
        if threads > 1 and len(pending) > 1:
            pool = ThreadPoolExecutor(threads, "naflow-compile")
            for segment, key, program, call in pending:
                futures = self._futures.setdefault((segment.source, segment.target), [])
                futures.append(pool.submit(_compile, key, program, call, device))
            pool.shutdown(wait=False)  # the threads end with the last of these

    def wait(self, segment: Segment) -> None:
        """Return when the step is compiled, if it was one that had to be."""
        for future in self._futures.get((segment.source, segment.target), ()):
            future.result()

    def close(self) -> None:
        """Drop what has not begun."""
        for future in itertools.chain.from_iterable(self._futures.values()):
            future.cancel()


class _Shapes(Mapping[str, jax.ShapeDtypeStruct]):
    """Forward values as far as they are known before the forward pass: their shapes and types."""

    def __init__(self, plan: Plan) -> None:
        self._program = plan.program

    def __getitem__(self, name: str) -> jax.ShapeDtypeStruct:
        return self._program.struct(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._program.shapes)

    def __len__(self) -> int:
        return len(self._program.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self._program.shapes


def _pending(plan: Plan, method: Method, wanted: set[str], device: Any) -> list[Missing]:
    """What is missing. That nothing is, is remembered: finding out takes milliseconds."""
    if method.inverse == "activation":  # one program, and not of this kind
        return []
    with _lock:
        asked = (method, frozenset(wanted), device, _drops)
    if asked in plan.compiled:
        return []
    missing = list(_missing(plan, method, wanted, device))
    if not missing:
        if len(plan.compiled) >= MOST_REMEMBERED:
            plan.compiled.clear()
        plan.compiled.add(asked)
    return missing


def _missing(plan: Plan, method: Method, wanted: set[str], device: Any) -> Iterator[Missing]:
    """What the steps to come run that has not been compiled for a device, each program once."""
    values = _Shapes(plan)
    seen: set[Hashable] = set()
    for segment, inner in cascade.turns(plan, wanted):
        for part in (*inner, segment):
            for program, static, call in _programs(plan, part, method, values):
                key = (device, *call[:static], *jax.tree.map(_signature, jax.tree.leaves(call[static:])))
                if key not in seen and key not in _compiled:
                    seen.add(key)
                    yield part, key, program, call


def _programs(
    plan: Plan, part: Segment, method: Method, values: _Shapes
) -> Iterator[tuple[Program, int, tuple[Any, ...]]]:
    """The programs of one step, the number of their static arguments, and what they are called with."""
    number, flag = (jax.ShapeDtypeStruct(values[part.target].shape, kind) for kind in (np.float32, np.bool_))
    above = State(number, number, flag)
    yield cascade.invert, STATIC, cascade.arguments(plan, part, method, values, above)
    below = jax.ShapeDtypeStruct(values[part.source].shape, np.float32)
    found = cascade.retention(plan, part.source, part, method, values[part.source], below, below)
    yield cascade.abandon_in_place, 3, found


def _signature(leaf: Any) -> tuple[tuple[int, ...], str] | type:
    return (tuple(leaf.shape), str(leaf.dtype)) if hasattr(leaf, "shape") else type(leaf)


def drop_programs() -> None:
    """Give back the memory of every compiled program in this process; what is needed again is compiled again
    (or comes from JAX's compilation cache). Not for use while something is computed on another thread."""
    global _drops
    jax.clear_caches()
    with _lock:
        _compiled.clear()
        _drops += 1


def _compile(key: Hashable, program: Program, call: tuple[Any, ...], device: Any) -> None:
    with jax.default_device(device):
        program.lower(*call).compile()
    with _lock:
        _compiled.add(key)
