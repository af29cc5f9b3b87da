"""Layer masking: a forward pass that only unmasked parts of the input flow through.

After Balasubramanian and Feizi, "Towards Improved Input Masking for Convolutional Neural Networks" (2022).
Painting over pixels shows the model an edge and a colour of its own. Here a mask travels with the activations
instead:

* At the input and at every spine tensor before a segment that looks beyond single cells, masked cells are
  cleared and then, ring by ring, given the mean of those of their eight neighbours that are known (neighbour
  padding), as far as that segment can see.
* Across a segment the mask moves as a max pooling with each convolution's or pooling's window: a cell is
  known as soon as its window holds a known cell. Nodes without a window pass the mask on.
* At the top feature map, cells that are still unknown get the mean of the known ones in their channel, so
  that the head averages over known cells only.

Inside a composite segment (a residual block, say) the mask is moved but activations are not cleared: the
segment is one step here. Where nothing at all is known, the model sees zeros from there on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.analysis.plan import Plan, Segment
from naflow_core.evaluate.arrays import averaged, enlarged
from naflow_core.evaluate.picture import Axes
from naflow_core.evaluate.subject import Subject
from naflow_core.model.inputs import device_value
from naflow_core.model.program import Step, Subprogram, thawed
from naflow_core.ops.window import WindowGeometry

Array = Any

WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})
MOST_RINGS = 8


@dataclass(frozen=True, slots=True)
class _Station:
    """A tensor where masked cells are replaced, and the way from there to the next one.

    Attributes:
        axes: where height and width are.
        rings: how far masked cells are filled from their neighbours; -1: with the mean of all known cells.
        onward: the function to the next station or to the scores.
    """

    axes: Axes
    rings: int
    onward: Subprogram


def masked_probabilities(subject: Subject, x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Probabilities of one picture under several masks, float64 [N, classes]; see `masked_scores`."""
    return np.asarray(subject.as_probabilities(masked_scores(subject, x, known)), np.float64)


def masked_scores(subject: Subject, x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Class scores of one picture under several masks.

    Args:
        subject: the model.
        x: [1, ...] the picture.
        known: bool [N, H, W], False where the picture is masked.

    Returns float32 [N, classes], of the kind that `Subject.scores` gives.
    """
    plan = subject.plan
    stations, operands, tensors = subject.memory.get(("layer masking",), lambda: _stations(plan))
    size = plan.program.shapes[plan.source][0]
    missing = -len(known) % size
    masks = _masks(plan, np.concatenate([known, *[known[-1:]] * missing]))
    repeated = device_value(np.repeat(x, size, axis=0))
    scores = []
    for begin in range(0, len(known), size):
        given = tuple(masks[name][begin : begin + size] for name in tensors)
        found = _run(stations, repeated, given, operands)
        scores.append(np.asarray(found, np.float32).reshape(size, -1))
    return np.concatenate(scores)[: len(known)]


def _stations(plan: Plan) -> tuple[tuple[_Station, ...], tuple[tuple[Array, ...], ...], tuple[str, ...]]:
    """The chain for a plan, the weights of each step, and the names of the tensors."""
    program = plan.program
    names = []
    for segment in plan.segments:
        mapped = len(plan.layouts.get(segment.source, ())) == 2
        if segment.source == plan.source or (mapped and _reach(plan, segment)):
            names.append(segment.source)
    names.append(plan.top)
    positions = {segment.source: i for i, segment in enumerate(plan.segments)}
    ends = [*names[1:], plan.head.scores]
    stations, operands = [], []
    for name, end in zip(names, ends, strict=True):
        onward, needed = program.extract(name, (end,), whole=name == plan.source)
        axes = Axes.of(name, len(program.shapes[name]), plan.layouts.get(name, ()))
        last = positions.get(end, len(plan.segments))
        passed = plan.segments[positions[name] : last] if name in positions else ()
        rings = -1 if name == plan.top else min(MOST_RINGS, sum(_reach(plan, s) for s in passed))
        stations.append(_Station(axes, rings, onward))
        operands.append(program.operands(needed, {}))
    return tuple(stations), tuple(operands), tuple(names)


def _reach(plan: Plan, segment: Segment) -> int:
    """How far from a known cell an output of the segment that sees it can look at most."""
    windows = (_window(plan, step) for step in segment.steps)
    return sum(max(window.reach) - 1 for window in windows if window is not None)


def _window(plan: Plan, step: Step) -> WindowGeometry | None:
    source = step.sources[0]
    if step.node.op_type not in WINDOWS or not isinstance(source, str):
        return None
    attributes = thawed(step.attributes)
    if not attributes.get("kernel_shape"):
        weight = step.sources[1]
        assert isinstance(weight, str)  # only a Conv may leave it out
        program = plan.program
        held = program.shapes[weight] if weight in program.shapes else program.constants[weight].shape
        attributes["kernel_shape"] = held[2:]
    return WindowGeometry.of(plan.program.shapes[source], **attributes)


def _masks(plan: Plan, known: np.ndarray) -> dict[str, np.ndarray]:
    """The mask at every tensor with height and width between input and top feature map."""
    masks = {plan.source: known}
    for segment in plan.segments:
        for step in segment.steps:
            moved = _through(plan, step, masks)
            masks.update({name: moved for name in step.outputs if name and moved is not None})
    return masks


def _through(plan: Plan, step: Step, masks: Mapping[str, np.ndarray]) -> np.ndarray | None:
    layout = plan.layouts.get(step.outputs[0], ())
    given = [masks[s] for s in step.sources if isinstance(s, str) and s in masks]
    if len(layout) != 2 or not given:
        return None
    shape = plan.program.shapes[step.outputs[0]]
    height, width = shape[layout[0]], shape[layout[1]]
    window = _window(plan, step)
    if window is not None:
        return _pooled(given[0], window, (height, width))
    largest = max(math.prod(mask.shape[1:]) for mask in given)  # a gate of one cell says nothing of places
    joined = [_sized(mask, height, width) for mask in given if math.prod(mask.shape[1:]) == largest]
    return np.logical_or.reduce(joined)


def _pooled(mask: np.ndarray, window: WindowGeometry, output: tuple[int, int]) -> np.ndarray:
    found = mask
    for axis in (0, 1):
        lo, size, stride = window.pads_lo[axis], output[axis], window.strides[axis]
        taps = np.arange(window.kernel[axis]) * window.dilations[axis]
        places = np.arange(size)[:, None] * stride - lo + taps
        count = found.shape[1 + axis]
        valid = (places >= 0) & (places < count)
        seen = np.take(found, np.clip(places, 0, count - 1), axis=1 + axis)
        valid = valid[:, :, None] if axis == 0 else valid
        found = (seen & valid).any(axis=2 + axis)
    return found


def _sized(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Another size: a cell is known if anything of it is."""
    if mask.shape[1:] == (height, width):
        return mask
    shrinks = mask.shape[1] >= height and mask.shape[2] >= width
    resized = averaged(mask, height, width) if shrinks else enlarged(mask, height, width)
    return resized > (0 if shrinks else 0.5)


@functools.partial(jax.jit, static_argnums=0)
def _run(
    stations: tuple[_Station, ...],
    x: Array,
    masks: tuple[Array, ...],
    operands: tuple[tuple[Array, ...], ...],
) -> Array:
    value = x
    for station, mask, own in zip(stations, masks, operands, strict=True):
        known = station.axes.spread(mask).astype(value.dtype)
        fill = functools.partial(_filled, station)
        value = lax.cond(mask.all(), _as_it_is, fill, value, known)  # deep down all is known: spare the work
        value = station.onward(value, own)[0]
    return value


def _as_it_is(value: Array, _known: Array) -> Array:
    return value


def _filled(station: _Station, value: Array, known: Array) -> Array:
    if station.rings < 0:
        return _with_mean(value * known, known, station.axes)
    return _with_neighbours(value * known, known, station)


def _with_mean(value: Array, known: Array, axes: Axes) -> Array:
    count = known.sum(axes.spatial, keepdims=True)
    return value + (1 - known) * value.sum(axes.spatial, keepdims=True) / jnp.maximum(count, 1)


def _with_neighbours(value: Array, known: Array, station: _Station) -> Array:
    for _ in range(station.rings):
        count = _around(known, station.axes)
        fresh = (1 - known) * (count > 0)
        value = value + fresh * _around(value, station.axes) / jnp.maximum(count, 1)
        known = known + fresh
    return value


def _around(value: Array, axes: Axes) -> Array:
    """Sum over the 3 x 3 cells around each cell, itself included."""
    for axis in axes.spatial:
        pads = [(int(a == axis), int(a == axis), 0) for a in range(axes.rank)]
        wide = lax.pad(value, jnp.zeros((), value.dtype), pads)
        parts = [lax.slice_in_dim(wide, i, i + value.shape[axis], axis=axis) for i in range(3)]
        value = parts[0] + parts[1] + parts[2]
    return value
