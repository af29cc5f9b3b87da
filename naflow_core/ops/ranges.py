"""Interval arithmetic for `value_range`: which values an operator's output can take.

The inputs' intervals come first, then the node's attributes, where the builder adds what it knows of
static inputs as numpy arrays under "input_<position>".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from naflow_core.ops.registry import REALS, Interval, RangeRule

ZERO: Interval = (0.0, 0.0)
NON_NEGATIVE: Interval = (0.0, math.inf)


def keep(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """The first input's values, re-arranged, picked or averaged."""
    return inputs[0] if inputs else REALS


def keep_with_zero(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """The first input's values, or zero."""
    return hull([inputs[0], ZERO])


def hull(intervals: Iterable[Interval]) -> Interval:
    """The smallest interval around all of them."""
    found = list(intervals)
    return min(low for low, _ in found), max(high for _, high in found)


def hull_of_inputs(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """Values of any input."""
    return hull(inputs) if inputs else REALS


def total(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """The sum of all inputs."""
    return sum(low for low, _ in inputs), sum(high for _, high in inputs)


def difference(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """First input minus second."""
    (a, b), (c, d) = inputs[:2]
    return a - d, b - c


def product(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """First input times second; nothing times an unbounded value is nothing."""
    corners = [0.0 if 0.0 in (x, y) else x * y for x in inputs[0] for y in inputs[1]]
    return min(corners), max(corners)


def quotient(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """First input over second; unbounded where the divisor can be zero."""
    low, high = inputs[1]
    if low <= 0.0 <= high:
        return REALS
    return product([inputs[0], (1.0 / high, 1.0 / low)], attributes)


def negated(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """Minus the first input."""
    low, high = inputs[0]
    return -high, -low


def magnitude(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """Absolute value of the first input."""
    low, high = inputs[0]
    return (0.0 if low <= 0.0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))


def largest(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """Elementwise maximum of all inputs."""
    return max(low for low, _ in inputs), max(high for _, high in inputs)


def smallest(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """Elementwise minimum of all inputs."""
    return min(low for low, _ in inputs), min(high for _, high in inputs)


def clipped(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """Clip: its bounds (static inputs 1 and 2), tightened by what the input can be."""
    low, high = inputs[0]
    bottom, top = attributes.get("input_1"), attributes.get("input_2")
    if bottom is not None:
        low, high = max(low, float(np.max(bottom))), max(high, float(np.max(bottom)))
    if top is not None:
        low, high = min(low, float(np.min(top))), min(high, float(np.min(top)))
    return low, high


def padded(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """Pad: the input's values and, in constant mode, the fill value (static input 2)."""
    if attributes.get("mode", "constant") != "constant":
        return inputs[0]
    fill = attributes.get("input_2")
    value = 0.0 if fill is None or np.size(fill) == 0 else float(np.max(fill))
    return hull([inputs[0], (value, value)])


def averaged_with_padding(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    """AveragePool: a mean of the input's values, and of padding zeros where those count."""
    return keep_with_zero(inputs, attributes) if attributes.get("count_include_pad", 0) else inputs[0]


def increasing(function: Callable[[float], float], low: float, high: float) -> RangeRule:
    """Rule of a non-decreasing function whose limits at minus and plus infinity are low and high."""

    def at(x: float) -> float:
        if math.isinf(x):
            return low if x < 0 else high
        try:
            return function(x)
        except OverflowError:
            return high if x > 0 else low

    def rule(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
        return at(inputs[0][0]), at(inputs[0][1])

    return rule
