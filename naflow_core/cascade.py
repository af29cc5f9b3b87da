"""The cascade: neuron-abandoning back-propagation, METHOD.md section 2, line by line.

`run` goes from the top feature map to the input and yields each tensor's B, G and flow as soon as they are
known; `step` is one turn of step 3, made of `invert` and `abandon`. The two are compiled apart: an inverse
once per kind of segment, abandonment once per shape of tensor.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp

from naflow_core.abandonment import SHARES, contribution_mass, zero_gradient
from naflow_core.analysis.plan import Plan, Segment
from naflow_core.compiled import Compiled
from naflow_core.inverse.channels import channels_at_a_time, invert_some_channels
from naflow_core.inverse.channels_last import invert_channels_last
from naflow_core.inverse.guard import divide
from naflow_core.inverse.linearised import invert_linearised
from naflow_core.inverse.registry import Rule, Site
from naflow_core.method import Method
from naflow_core.model.layout import Layout
from naflow_core.model.program import Subprogram, look_up
from naflow_core.ops.registry import REALS, Interval
from naflow_core.records import (
    Abandoned,
    Choices,
    Inverted,
    Layer,
    Numbers,
    Running,
    State,
    Watched,
)
from naflow_core.solve import Stopping
from naflow_core.sums import fraction, over_all, over_channels

Array = Any
LEAST_DIRECT_DAMPING = 0.1  # below, float32 factors of normal equations lose too many digits
LEAST_QUICK_TOLERANCE = 1e-4  # below, a solve needs all digits of float32


def run(
    plan: Plan,
    method: Method,
    values: Mapping[str, Array],
    top_coefficients: Array,
    wanted: set[str],
    ready: Callable[[Segment], None] = lambda _segment: None,
    overlap: bool = False,
) -> Iterator[Layer]:
    """Steps 2 to 4: yield each tensor's layer, deepest first, as far down as the last wanted one.

    Args:
        values: forward value of every tensor that the plan's segments read.
        top_coefficients: G_K = ds/dt_K.
        wanted: tensor names; interior tensors of composites are visited on the way to those among them.
        ready: called before each step, with its segment.
        overlap: start a step before the layer above it is handed out, so that an accelerator computes while
            that layer is copied from it and sent.
    """
    began = time.perf_counter()
    top = values[plan.top]
    state, running = _finish(plan, plan.top, None, method, top, exact(top, top_coefficients), began)
    for segment, inner in turns(plan, wanted):
        states = {segment.target: state}
        for part in (*inner, segment):
            if not overlap:
                yield running.layer()
            ready(part)
            states[part.source], below = step(plan, part, method, values, states[part.target])
            if overlap:
                below.send()
                yield running.layer()
            running = below
        state = states[segment.source]
    yield running.layer()


def turns(plan: Plan, wanted: Set[str]) -> Iterator[tuple[Segment, tuple[Segment, ...]]]:
    """The segments to invert, deepest first, each with the steps inside it that lead to wanted tensors."""
    left = set(wanted) - {plan.top}
    for segment in reversed(plan.segments):
        if not left:
            return
        inner = plan.interior_for(segment, left)
        yield segment, inner
        left -= {segment.source, *(part.source for part in inner)}


def step(
    plan: Plan, segment: Segment, method: Method, values: Mapping[str, Array], state: State
) -> tuple[State, Running]:
    """Begin one turn of step 3, from `segment.target` to `segment.source`."""
    began = time.perf_counter()
    inverted = invert(*arguments(plan, segment, method, values, state))
    return _finish(plan, segment.source, segment, method, values[segment.source], inverted, began)


def arguments(
    plan: Plan, segment: Segment, method: Method, values: Mapping[str, Array], state: State | None
) -> tuple[Any, ...]:
    """What `invert` is called with for one segment. Without a state, its place is left empty."""
    anchor = method.anchor
    if anchor == "signed":
        anchor = "activation" if segment.bounds[0] < 0 else "origin"
    scaling, scales = (segment.scaling, segment.scales) if method.weighting == "scaled" else (None, ())
    following, interval = None, REALS
    if method.rows == "active" and segment.activation is not None:
        behind, target = values[segment.activation], values[segment.target].shape
        if behind.shape == tuple(target[axis] for axis in segment.order):
            following, interval = behind, plan.program.ranges[segment.activation]
    bounds = segment.bounds if method.feasible else REALS
    by_cells = segment.small_cells and bounds == REALS and method.damping >= LEAST_DIRECT_DAMPING
    by_cells = by_cells and anchor != "relative"  # which is bounded
    damped = method.damping > 0
    on_cpu = jax.default_backend() == "cpu"
    channels = None
    layout = plan.layouts.get(segment.source)
    watched = None
    if method.map_change > 0 and layout is not None and segment.rule.function is None:
        watched = Watched(retaining(method, segment), method.evidence, layout)
    elif segment.systems == (0, 1) and on_cpu:
        channels = channels_at_a_time(values[segment.source].shape)
    inside = segment.inside if method.inverse == "activation" else {}
    return (
        segment.subprogram,
        segment.rule,
        segment.position,
        bounds,
        segment.systems,
        Choices(
            method.inverse,
            method.rows,
            anchor,
            damped,
            by_cells,
            channels,
            segment.channels_last and on_cpu,
            on_cpu and segment.rule.function is None and method.tolerance >= LEAST_QUICK_TOLERANCE,
            interval,
            segment.order,
            scaling,
            watched,
            tuple(inside.values()),
        ),
        values[segment.source],
        values[segment.target],
        plan.program.operands((*segment.operands, *inside), values),
        state,
        following,
        plan.program.operands(scales, {}),
        Numbers(
            method.damping, method.tolerance, method.max_iterations, method.map_change, method.abandon.mass
        ),
    )


def _spends_little_in_loops(subprogram: Subprogram, *options: Any) -> bool:
    """Whether convolutions and products take the time of `invert`, not loops that XLA writes: those over the
    shifted maps of depthwise layers, and those that factorise a matrix for each cell."""
    choices: Choices = options[-1]
    return not (subprogram.shifts_maps or choices.by_cells)


@functools.partial(Compiled, static=6, quickly=_spends_little_in_loops)
def invert(
    subprogram: Subprogram,
    rule: Rule,
    position: int,
    bounds: Interval,
    systems: tuple[int, ...],
    choices: Choices,
    x0: Array,
    y0: Array,
    operands: tuple[Array, ...],
    above: State,
    following: Array | None,
    scales: tuple[Array, ...],
    numbers: Numbers,
) -> Inverted:
    """First half of step 3: f^{-1}(B_k) and J_k^T G_k through t_k = f(t_{k-1}).

    Args:
        x0, y0: t_{k-1} and t_k of the forward pass.
        operands: of the subprogram, and behind them the values of `choices.inside`.
        above: B_k, G_k, R_k.
        following: the activation behind t_k, which tells the neurons that are on (rows = "active"); None: all
            are.
        scales: operands of `choices.scaling`.
    """

    operands, known = operands[: subprogram.operand_count], operands[subprogram.operand_count :]
    inside = dict(zip(choices.inside, known, strict=True))

    def function(x: Array) -> Array:
        return subprogram(x, operands, inside=inside)[0]

    solved = subprogram.in_solve() if choices.quickly else subprogram

    def linearised(x: Array) -> Array:
        return solved(x, operands)[0]

    # G_k is zero on abandoned neurons already
    (gradient,) = jax.vjp(function, x0)[1](above.coefficients)
    if choices.inverse == "activation":
        result = exact(x0, gradient)
    elif rule.function is None:
        rows = {
            "retained": above.retained,
            "active": above.retained | _on(following, choices.interval, choices.order),
            "all": jnp.ones_like(above.retained),
        }[choices.rows].astype(x0.dtype)
        aim = above.bpfm
        if choices.scaling is not None:
            weights, zero = _as_scaled(choices.scaling, y0, scales)
            rows, aim = rows * weights, jnp.where(above.retained, aim, zero)
        options: dict[str, Any] = {
            "bounds": bounds,
            "anchor": choices.anchor,
            "unique": choices.damped,
            "damping": numbers.damping,
            "stopping": Stopping(numbers.tolerance, numbers.max_iterations, numbers.map_change),
        }
        if choices.channels is not None:
            inverse = invert_some_channels(solved, operands, x0, aim, rows, size=choices.channels, **options)
        else:
            options["view"] = _view(choices.watched, x0, gradient, numbers.mass)
            if choices.channels_last:
                inverse = invert_channels_last(linearised, x0, aim, rows, **options)
            else:
                matrix = _channel_matrix(subprogram, operands) if choices.by_cells else None
                inverse = invert_linearised(
                    linearised, x0, aim, rows, systems=systems, matrix=matrix, **options
                )
        found, offset = inverse
        expected = over_all((above.bpfm - offset) * above.coefficients)
        return Inverted(
            found.x, gradient, expected, found.iterations, found.relative_residual, found.converged
        )
    else:
        only = subprogram.instructions[0]
        if len(subprogram.instructions) == 1:
            inputs = tuple(look_up(only.sources, dict(enumerate((x0, *operands)))))
            site = Site(only, inputs, position, y0, above.retained)
        else:
            site = Site(only, (x0,), 0, y0, above.retained, lambda x: subprogram(x, operands, rule.held)[0])
        result = exact(rule.invert(above.bpfm, site), gradient)
    # r_0 = f(t_{k-1}) - J t_{k-1}, and J t_{k-1} goes with G_k as t_{k-1} does with J^T G_k
    return result._replace(
        expected=over_all((above.bpfm - y0) * above.coefficients) + over_all(x0 * gradient)
    )


def _view(
    watched: Watched | None, activation: Array, gradient: Array, mass: float
) -> Callable[[Array], Array | None] | None:
    """From a preimage to the flow that it will give."""
    if watched is None:
        return None
    share = _shares(watched.retaining, activation, gradient, mass)
    coefficients = share * share * gradient
    return lambda preimage: _flow(preimage, coefficients, watched.layout, watched.evidence)


def _channel_matrix(subprogram: Subprogram, operands: tuple[Array, ...]) -> Array:
    """[O, I] of a convolution of a single cell."""
    (only,) = subprogram.instructions
    weights = look_up(only.sources, {0: None, **dict(enumerate(operands, 1))})[1]
    return weights.reshape(weights.shape[:2])


def exact(preimage: Array, gradient: Array) -> Inverted:
    """An inverse that needed no iterations."""
    zeros = jnp.zeros(preimage.shape[0])
    return Inverted(preimage, gradient, None, zeros.astype(jnp.int32), zeros, zeros == 0)


def _abandon(
    rule: str,
    evidence: str,
    layout: Layout | None,
    activation: Array,
    preimage: Array,
    gradient: Array,
    mass: float,
) -> Abandoned:
    """Second half of step 3: R_k, then B_k and G_k on it, and the flow F_k."""
    share = _shares(rule, activation, gradient, mass)
    retained = share > 0
    bpfm, coefficients = (jnp.where(retained, share * part, 0) for part in (preimage, gradient))
    state = State(bpfm, coefficients, retained)
    flow, total = _flow(bpfm, coefficients, layout, evidence), over_all(preimage * gradient)
    return Abandoned(state, flow, fraction(retained), total)


abandon = jax.jit(_abandon, static_argnums=(0, 1, 2))
abandon_in_place = jax.jit(_abandon, static_argnums=(0, 1, 2), donate_argnums=(4, 5))
"""The same in the memory of preimage and gradient, which are gone then."""


def _shares(rule: str, activation: Array, gradient: Array, mass: float) -> Array:
    """How far each neuron takes part, in [0, 1]."""
    if rule in SHARES:
        return SHARES[rule](activation, gradient, mass)
    retained = contribution_mass(activation, gradient, mass) if rule == "mass" else zero_gradient(gradient)
    return retained.astype(gradient.dtype)


def _on(activation: Array | None, interval: Interval, order: tuple[int, ...]) -> Array:
    """Neurons whose activation is on: strictly inside the range of the op that produced it. Its axes are
    those of the result in another order."""
    if activation is None:
        return jnp.asarray(True)
    on = (activation > interval[0]) & (activation < interval[1])
    return jnp.transpose(on, sorted(range(on.ndim), key=order.__getitem__))


def _as_scaled(scaling: Subprogram, y0: Array, scales: tuple[Array, ...]) -> tuple[Array, Array]:
    """The weight of each neuron's equation, and its value where the steps behind it that only scale give 0.

    The weight is what one unit becomes there: a normalisation that the file keeps as a node counts as if it
    were multiplied into the layer before.
    """
    scaled, pull = jax.vjp(lambda y: scaling(y, scales)[0], y0)
    slope = pull(jnp.ones_like(scaled))[0]
    return jnp.abs(slope), y0 - divide(divide(pull(scaled)[0], slope), slope)


def _flow(bpfm: Array, coefficients: Array, layout: Layout | None, evidence: str) -> Array | None:
    """F_k: sum over channels of relu(B_k * G_k), or relu of their sum ("net")."""
    if layout is None:
        return None
    pushes = bpfm * coefficients
    if evidence == "net":
        return jax.nn.relu(over_channels(pushes, layout))
    return over_channels(jax.nn.relu(pushes), layout)


def retaining(method: Method, segment: Segment | None) -> str:
    """How R_{k-1} is chosen: "zero-gradient" (a mass of 1 is the paper's rule), "mass" or one of `SHARES`.

    Through a one-to-one layer, J^T G_k is zero exactly at the neurons that abandoned ones came from:
    the retained set passes through unchanged.
    """
    chosen = method.abandon
    if chosen.rule == "mass-each" and chosen.mass < 1:
        return "mass"
    if chosen.mass == 1 or (segment is not None and segment.rule.one_to_one):
        return "zero-gradient"
    return chosen.rule


def retention(
    plan: Plan,
    tensor: str,
    segment: Segment | None,
    method: Method,
    activation: Array,
    preimage: Array,
    gradient: Array,
) -> tuple[Any, ...]:
    """What `abandon` is called with for one tensor."""
    rule, layout = retaining(method, segment), plan.layouts.get(tensor)
    return rule, method.evidence, layout, activation, preimage, gradient, method.abandon.mass


def _finish(
    plan: Plan,
    tensor: str,
    segment: Segment | None,
    method: Method,
    activation: Array,
    inverted: Inverted,
    began: float,
) -> tuple[State, Running]:
    # at the top, preimage and activation are one array
    abandoned = (abandon if segment is None else abandon_in_place)(
        *retention(plan, tensor, segment, method, activation, inverted.preimage, inverted.gradient)
    )
    kept = inverted._replace(preimage=None, gradient=None)  # not needed any more, and large
    return abandoned.state, Running(tensor, segment, kept, abandoned, began)
