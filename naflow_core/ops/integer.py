"""Bits of integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from naflow_core.errors import Refusal
from naflow_core.ops.array import aligned, namespace
from naflow_core.ops.registry import register


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
