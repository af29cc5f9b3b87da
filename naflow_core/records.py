"""What the steps of a cascade are told, and what they hand on and give back."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from naflow_core.analysis.plan import Segment
from naflow_core.model.layout import Layout
from naflow_core.model.program import Subprogram
from naflow_core.ops.registry import Interval

Array = Any


class State(NamedTuple):
    """What is known of one tensor t_k.

    Attributes:
        bpfm: B_k, zero on abandoned neurons.
        coefficients: G_k, zero on abandoned neurons.
        retained: R_k, boolean.
    """

    bpfm: Array
    coefficients: Array
    retained: Array


class Diagnostics(NamedTuple):
    """How one step went, one value per picture ([N] arrays).

    `conservation_gap` compares sum(B_{k-1} G_{k-1}) before abandonment with sum((B_k - r_0) G_k), relative to
    the larger of the two.
    """

    retained_fraction: Array
    iterations: Array
    relative_residual: Array
    converged: Array
    conservation_gap: Array


class Inverted(NamedTuple):
    """One inverted segment, before abandonment.

    Attributes:
        preimage: f^{-1}(B_k).
        gradient: J_k^T G_k.
        expected: [N] sum((B_k - r_0) G_k), to hold against sum(preimage x gradient); None at the top.
        iterations, relative_residual, converged: of the solve, [N].
    """

    preimage: Array
    gradient: Array
    expected: Array | None
    iterations: Array
    relative_residual: Array
    converged: Array


class Abandoned(NamedTuple):
    """One tensor after abandonment.

    Attributes:
        state: B_k, G_k, R_k.
        flow: F_k; None without spatial axes.
        fraction: [N] share of the neurons that are retained.
        total: [N] sum(B G) before abandonment.
    """

    state: State
    flow: Array | None
    fraction: Array
    total: Array


class Numbers(NamedTuple):
    """The numeric options of the solve; traced, so that changing one compiles nothing anew."""

    damping: float
    tolerance: float
    max_iterations: int
    map_change: float
    mass: float


class Watched(NamedTuple):
    """How the flow that a solve watches comes from a preimage: the rule of abandonment, the evidence and the
    spatial axes."""

    retaining: str
    evidence: str
    layout: Layout


class Choices(NamedTuple):
    """The options that change the program, the range of the activation behind t_k and its order of axes, and
    the steps behind t_k that only scale it. `by_cells`: solve the normal equations of each cell. `channels`:
    how many of them, each a system of its own, are solved at a time; None: all. `channels_last`: how the
    unknowns lie in a solve. `quickly`: it may give up a digit of float32 to be faster. `watched`: None where
    the residual alone says when to stop. `inside`: slots of the subprogram whose forward values are among the
    operands, behind its own."""

    inverse: str
    rows: str
    anchor: str
    damped: bool
    by_cells: bool
    channels: int | None
    channels_last: bool
    quickly: bool
    interval: Interval
    order: tuple[int, ...]
    scaling: Subprogram | None
    watched: Watched | None
    inside: tuple[int, ...] = ()


class Layer(NamedTuple):
    """One tensor of the cascade, done. `segment` was inverted to get here; None at the top. `state` is None
    where all steps are one program, which does not give it out."""

    tensor: str
    segment: Segment | None
    state: State | None
    flow: Array | None
    diagnostics: Diagnostics
    seconds: float


class Running(NamedTuple):
    """One turn that may still be computed; `inverted` without arrays, `began` as `time.perf_counter()`."""

    tensor: str
    segment: Segment | None
    inverted: Inverted
    abandoned: Abandoned
    began: float

    def send(self) -> None:
        """Have what leaves the device copied as soon as it is there."""
        done = self.abandoned
        for result in jax.tree.leaves((self.inverted, done.flow, done.fraction, done.total)):
            result.copy_to_host_async()

    def layer(self) -> Layer:
        """Wait for it."""
        done = self.abandoned
        diagnostics = diagnosed(self.inverted, done.fraction, done.total)
        seconds = time.perf_counter() - self.began
        return Layer(self.tensor, self.segment, done.state, done.flow, diagnostics, seconds)


def diagnosed(inverted: Inverted, fraction: Array, total: Array) -> Diagnostics:
    """How the step went that gave these, as numpy arrays: `Abandoned.fraction` and `Abandoned.total`."""
    found = np.asarray(total, np.float64)
    expected = found if inverted.expected is None else np.asarray(inverted.expected, np.float64)
    larger = np.maximum(np.abs(found), np.abs(expected))
    gap = np.divide(np.abs(found - expected), larger, out=np.zeros_like(larger), where=larger > 0)
    solve = (inverted.iterations, inverted.relative_residual, inverted.converged)
    return Diagnostics(*(np.asarray(values) for values in (fraction, *solve, gap)))
