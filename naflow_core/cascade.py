"""The cascade: neuron-abandoning back-propagation, METHOD.md section 2, line by line.

`start` is step 2 and `descend` one turn of step 3; `run` goes from the top feature map to the input and
yields each tensor's B, G and flow as soon as they are known.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from naflow_core.abandonment import contribution_mass, zero_gradient
from naflow_core.analysis.plan import Plan, Segment
from naflow_core.inverse.linearised import invert_linearised
from naflow_core.inverse.registry import Rule, Site
from naflow_core.method import Method
from naflow_core.model.layout import Layout
from naflow_core.model.program import Subprogram, look_up
from naflow_core.ops.registry import REALS, Interval
from naflow_core.solve import Stopping

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


class Numbers(NamedTuple):
    """The numeric options of the method; traced, so that changing one compiles nothing anew."""

    mass: float
    damping: float
    tolerance: float
    max_iterations: int


class Choices(NamedTuple):
    """The options that change the program."""

    inverse: str
    rows: str
    zero_gradient: bool
    feasible: bool
    anchored: bool


class Layer(NamedTuple):
    """One tensor of the cascade, done. `segment` was inverted to get here; None at the top."""

    tensor: str
    segment: Segment | None
    state: State
    flow: Array | None
    diagnostics: Diagnostics
    seconds: float


def run(
    plan: Plan, method: Method, values: Mapping[str, Array], top_coefficients: Array, wanted: set[str]
) -> Iterator[Layer]:
    """Steps 2 to 4: yield every wanted tensor's layer, deepest first.

    Args:
        values: forward value of every tensor that the plan's segments read.
        top_coefficients: G_K = ds/dt_K.
        wanted: tensor names; interior tensors of composites among them are computed too.
    """
    began = time.perf_counter()
    state, flow, diagnostics = start(
        values[plan.top],
        top_coefficients,
        _numbers(method),
        _zero_gradient(method),
        plan.layouts.get(plan.top),
    )
    yield _finish(plan.top, None, state, flow, diagnostics, began)
    left = set(wanted) - {plan.top}
    for segment in reversed(plan.segments):
        if not left:
            return
        inner = plan.interior_for(segment, left)
        states = {segment.target: state}
        for part in inner:
            layer = step(plan, part, method, values, states[part.target])
            states[part.source] = layer.state
            if part.source in left:
                yield layer
        layer = step(plan, segment, method, values, state)
        state = layer.state
        if layer.tensor in left:
            yield layer
        left -= {layer.tensor, *(part.source for part in inner)}


def step(plan: Plan, segment: Segment, method: Method, values: Mapping[str, Array], state: State) -> Layer:
    """One turn of step 3, from `segment.target` to `segment.source`."""
    began = time.perf_counter()
    anchored = method.anchor == "activation" or (method.anchor == "signed" and segment.bounds[0] < 0)
    choices = Choices(method.inverse, method.rows, _zero_gradient(method), method.feasible, anchored)
    on = None
    if method.rows == "active" and segment.activation is not None:
        on = strictly_inside(values[segment.activation], plan.program.ranges[segment.activation])
        on = on if on.shape == state.bpfm.shape else None
    state, flow, diagnostics = descend(
        segment.subprogram,
        segment.rule,
        segment.position,
        segment.bounds if method.feasible else REALS,
        segment.systems,
        choices,
        plan.layouts.get(segment.source),
        values[segment.source],
        values[segment.target],
        plan.program.operands(segment.operands, values),
        state,
        on,
        _numbers(method),
    )
    return _finish(segment.source, segment, state, flow, diagnostics, began)


@functools.partial(jax.jit, static_argnums=(3, 4))
def start(
    top: Array, gradient: Array, numbers: Numbers, by_zero_gradient: bool, layout: Layout | None
) -> tuple[State, Array | None, Diagnostics]:
    """Step 2: B_K = t_K on R_K."""
    retained = _retained(top, gradient, numbers, by_zero_gradient)
    state = State(jnp.where(retained, top, 0), jnp.where(retained, gradient, 0), retained)
    zeros = jnp.zeros(top.shape[0])
    exact = Diagnostics(_fraction(retained), zeros.astype(jnp.int32), zeros, zeros == 0, zeros)
    return state, _flow(state, layout), exact


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5, 6))
def descend(
    subprogram: Subprogram,
    rule: Rule,
    position: int,
    bounds: Interval,
    systems: tuple[int, ...],
    choices: Choices,
    layout: Layout | None,
    x0: Array,
    y0: Array,
    operands: tuple[Array, ...],
    above: State,
    on: Array | None,
    numbers: Numbers,
) -> tuple[State, Array | None, Diagnostics]:
    """Step 3: from (B_k, G_k, R_k) to (B_{k-1}, G_{k-1}, R_{k-1}) through t_k = f(t_{k-1}).

    Args:
        x0, y0: t_{k-1} and t_k of the forward pass.
        on: which neurons of t_k are active (rows = "active"); None: all.
    """

    def function(x: Array) -> Array:
        return subprogram(x, operands)[0]

    _, pull = jax.vjp(function, x0)
    gradient = pull(above.coefficients)[0]  # G_k is zero on abandoned neurons already
    ones = jnp.ones(x0.shape[0])
    iterations, residual, converged = jnp.zeros(x0.shape[0], jnp.int32), 0 * ones, ones > 0
    if choices.inverse == "activation":
        preimage = x0
        offset = _offset(function, x0)
    elif rule.function is None:
        rows = {
            "retained": above.retained,
            "active": above.retained | True if on is None else on | above.retained,
            "all": jnp.ones_like(above.retained),
        }[choices.rows]
        solved = invert_linearised(
            function,
            x0,
            above.bpfm,
            rows.astype(x0.dtype),
            bounds=bounds,
            anchored=choices.anchored,
            damping=numbers.damping,
            stopping=Stopping(numbers.tolerance, numbers.max_iterations),
            systems=systems,
        )
        (preimage, iterations, residual, converged), offset = solved
    else:
        slots = dict(enumerate((x0, *operands)))
        inputs = (
            tuple(look_up(subprogram.instructions[0].sources, slots))
            if len(subprogram.instructions) == 1
            else (x0,)
        )
        preimage = rule.invert(
            above.bpfm, Site(subprogram.instructions[0], inputs, position, y0, above.retained)
        )
        offset = _offset(function, x0)
    gap = _conservation_gap(preimage, gradient, above, offset)
    retained = _retained(x0, gradient, numbers, choices.zero_gradient)
    state = State(jnp.where(retained, preimage, 0), jnp.where(retained, gradient, 0), retained)
    return state, _flow(state, layout), Diagnostics(_fraction(retained), iterations, residual, converged, gap)


def strictly_inside(values: Array, interval: Interval) -> Array:
    """Neurons whose activation is on: strictly inside the range of the op that produced them."""
    return (values > interval[0]) & (values < interval[1])


def _offset(function: Any, x0: Array) -> Array:
    """r_0 = f(t_{k-1}) - J t_{k-1}."""
    y, image = jax.jvp(function, (x0,), (x0,))
    return y - image


def _retained(activation: Array, gradient: Array, numbers: Numbers, by_zero_gradient: bool) -> Array:
    return (
        zero_gradient(gradient) if by_zero_gradient else contribution_mass(activation, gradient, numbers.mass)
    )


def _flow(state: State, layout: Layout | None) -> Array | None:
    """F_k: sum over channels of relu(B_k * G_k)."""
    if layout is None:
        return None
    channels = tuple(i for i in range(1, state.bpfm.ndim) if i not in layout)
    return jnp.sum(jax.nn.relu(state.bpfm * state.coefficients), axis=channels)


def _sum(values: Array) -> Array:
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def _fraction(retained: Array) -> Array:
    return jnp.mean(retained, axis=tuple(range(1, retained.ndim)), dtype=jnp.float32)


def _conservation_gap(preimage: Array, gradient: Array, above: State, offset: Array) -> Array:
    below = _sum(preimage * gradient)
    expected = _sum((above.bpfm - offset) * above.coefficients)
    larger = jnp.maximum(jnp.abs(below), jnp.abs(expected))
    return jnp.where(larger > 0, jnp.abs(below - expected) / jnp.where(larger > 0, larger, 1), 0)


def _numbers(method: Method) -> Numbers:
    return Numbers(method.abandon.mass, method.damping, method.tolerance, method.max_iterations)


def _zero_gradient(method: Method) -> bool:
    """A mass of 1 is the paper's rule: every neuron with a coefficient, active or not."""
    return method.abandon.rule == "zero-gradient" or method.abandon.mass == 1.0


def _finish(
    tensor: str,
    segment: Segment | None,
    state: State,
    flow: Array | None,
    diagnostics: Diagnostics,
    began: float,
) -> Layer:
    jax.block_until_ready((state, flow))
    return Layer(tensor, segment, state, flow, diagnostics, time.perf_counter() - began)
