"""Integers: their bits, and the quotient of those that are carried in float32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.errors import Refusal
from naflow_core.ops.array import aligned, namespace
from naflow_core.ops.ranges import quotient
from naflow_core.ops.registry import Interval, Operator, register


def _add_bitwise(op_type: str, name: str) -> None:
    @register(op_type, since=18, pointwise=True)
    def function(a: Any, b: Any) -> Any:
        left, right = aligned(a, b)
        return getattr(namespace(left, right), name)(left, right)

    function.__name__ = name


_add_bitwise("BitwiseAnd", "bitwise_and")
_add_bitwise("BitwiseOr", "bitwise_or")
_add_bitwise("BitwiseXor", "bitwise_xor")


@register("BitwiseNot", since=18, pointwise=True)
def bitwise_not(x: Any) -> Any:
    """Every bit inverted."""
    return namespace(x).invert(x)


@register("BitShift", since=11, static=(0, 1), pointwise=True)
def bit_shift(x: Any, count: Any, *, direction: str) -> np.ndarray:
    """x times or over a power of two; only of constants, whose exact width is known."""
    left, right = aligned(x, count)
    if direction not in ("LEFT", "RIGHT"):
        raise Refusal(f"direction {direction!r} is not one of LEFT, RIGHT")
    last = left.dtype.itemsize * 8 - 1
    most = np.minimum(right, last).astype(left.dtype)
    # beyond the width nothing is left of the number but, going down, its sign
    if direction == "LEFT":
        shifted = np.where(right > last, 0, np.left_shift(left, most))
    else:
        shifted = np.where(right > last, np.where(left < 0, -1, 0), np.right_shift(left, most))
    return shifted.astype(left.dtype)


@jax.custom_jvp
def _truncated(values: jax.Array) -> jax.Array:
    return jnp.trunc(values)


@_truncated.defjvp
def _truncated_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return _truncated(*primals), tangents[0]


def divide_carried(a: Any, b: Any) -> jax.Array:
    """a / b toward zero, as C divides, for integers of 8 and 16 bits in float32; 0 where b is 0.

    Exact: a quotient that is no integer is further from the next one than float32 rounds. The derivative is
    that of a / b, as for other integers that are carried.
    """
    left, right = (jnp.asarray(values, jnp.float32) for values in (a, b))
    nothing = right == 0
    return jnp.where(nothing, 0.0, _truncated(left / jnp.where(nothing, 1.0, right)))


def _truncated_range(intervals: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    low, high = quotient(intervals, attributes)
    return (float(math.trunc(low)), float(math.trunc(high))) if math.isfinite(high - low) else (low, high)


CARRIED_DIVISION = Operator(
    "Div", "", 7, divide_carried, frozenset(), frozenset(), True, _truncated_range, False
)
"""What Div is where its operands are integers in float32."""
