"""The cascade of a method that inverts nothing, as one compiled program.

With `inverse = activation` each B_k is the forward activation: no step waits for a solve, and all of them
together cost what one backward pass does. Compiled apart, each would be dispatched and waited for.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core import cascade
from naflow_core.analysis.plan import Plan, Segment
from naflow_core.method import Method
from naflow_core.model.layout import Layout
from naflow_core.records import Inverted, Layer, diagnosed

Array = Any
STATIC = cascade.invert.static


class Turn(NamedTuple):
    """The structure of one step.

    Attributes:
        above: number of the tensor that it starts from, among those visited; the top is 0.
        invert: the static arguments of `cascade.invert`.
        retaining: the rule of abandonment.
        layout: spatial axes of the tensor that it leads to.
    """

    above: int
    invert: tuple[Any, ...]
    retaining: str
    layout: Layout | None


def run(
    plan: Plan, method: Method, values: Mapping[str, Array], top_coefficients: Array, wanted: Set[str]
) -> Iterator[Layer]:
    """What `cascade.run` yields, for a method whose inverse is "activation".

    Everything is computed when the first layer is asked for, which has the time of all.
    """
    began = time.perf_counter()
    parts = [part for segment, inner in cascade.turns(plan, wanted) for part in (*inner, segment)]
    flows, sums = _compute(plan, method, values, top_coefficients, parts)
    seconds = time.perf_counter() - began
    none = np.zeros(sums.shape[-1], np.float32)
    tensors = [plan.top, *(part.source for part in parts)]
    for tensor, segment, flow, (expected, fraction, total) in zip(
        tensors, [None, *parts], flows, sums, strict=True
    ):
        inverted = Inverted(None, None, expected, none.astype(np.int32), none, none == 0)
        diagnostics = diagnosed(inverted, fraction, total)
        yield Layer(tensor, segment, None, flow, diagnostics, seconds)
        seconds = 0.0


def _compute(
    plan: Plan,
    method: Method,
    values: Mapping[str, Array],
    top_coefficients: Array,
    parts: Sequence[Segment],
) -> tuple[list[np.ndarray | None], np.ndarray]:
    """What `descend` gives, as numpy arrays; holds no forward value when it returns."""
    tensors = [plan.top, *(part.source for part in parts)]
    turns, operands = [], []
    for part in parts:
        call = cascade.arguments(plan, part, method, values, None)
        above, rule = tensors.index(part.target), cascade.retaining(method, part)
        turns.append(Turn(above, call[:STATIC], rule, plan.layouts.get(part.source)))
        operands.append(call[STATIC:])
    found: tuple[list[np.ndarray | None], np.ndarray] = jax.device_get(
        descend(
            tuple(turns),
            cascade.retaining(method, None),
            method.evidence,
            plan.layouts.get(plan.top),
            values[plan.top],
            top_coefficients,
            operands,
            method.abandon.mass,
        )
    )
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def descend(
    turns: tuple[Turn, ...],
    retaining: str,
    evidence: str,
    layout: Layout | None,
    top: Array,
    top_coefficients: Array,
    operands: Sequence[tuple[Any, ...]],
    mass: float,
) -> tuple[list[Array | None], Array]:
    """The top and all steps from it.

    Returns:
        the flows, and [tensors, 3, N]: `Inverted.expected` (at the top the last of these),
        `Abandoned.fraction` and `Abandoned.total`. Fetching them one by one takes longer than computing them.

    Args:
        retaining, layout: of the top.
        evidence: of all flows.
        operands: for each turn, the arguments of `cascade.invert` that are traced.
    """
    inverted = cascade.exact(top, top_coefficients)
    abandoned = cascade.abandon(retaining, evidence, layout, top, top, top_coefficients, mass)
    found, expected = [abandoned], [abandoned.total]
    for turn, (x0, y0, others, _, *rest) in zip(turns, operands, strict=True):
        state = found[turn.above].state
        inverted = cascade.invert.traced(*turn.invert, x0, y0, others, state, *rest)
        abandoned = cascade.abandon(
            turn.retaining, evidence, turn.layout, x0, inverted.preimage, inverted.gradient, mass
        )
        found.append(abandoned)
        expected.append(inverted.expected)
    sums = [expected, [done.fraction for done in found], [done.total for done in found]]
    return [done.flow for done in found], jnp.stack([jnp.stack(each) for each in sums], axis=1)
