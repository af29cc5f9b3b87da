"""Arithmetic, comparison, logic and casts, element by element with broadcasting."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from naflow_core.errors import Refusal
from naflow_core.ops import ranges
from naflow_core.ops.array import aligned, is_known, namespace
from naflow_core.ops.registry import Interval, RangeRule, register


def is_floating(x: Any) -> bool:
    """True for float arrays of either module."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


# One operand ---------------------------------------------------------------------------------------


def _add_unary(op_type: str, name: str, value_range: Interval | RangeRule | None = None) -> None:
    @register(op_type, pointwise=True, value_range=value_range)
    def function(x: Any) -> Any:
        return getattr(namespace(x), name)(x)

    function.__name__ = name


_UNARY: tuple[tuple[str, str, Interval | RangeRule | None], ...] = (
    ("Neg", "negative", ranges.negated),
    ("Exp", "exp", ranges.increasing(math.exp, 0.0, math.inf)),
    ("Log", "log", None),
    ("Floor", "floor", ranges.increasing(math.floor, -math.inf, math.inf)),
    ("Ceil", "ceil", ranges.increasing(math.ceil, -math.inf, math.inf)),
    ("Round", "round", ranges.increasing(round, -math.inf, math.inf)),
    ("Sign", "sign", (-1.0, 1.0)),
    ("Not", "logical_not", None),
    ("IsNaN", "isnan", None),
    ("Sin", "sin", (-1.0, 1.0)),
    ("Cos", "cos", (-1.0, 1.0)),
    ("Tan", "tan", None),
    ("Asin", "arcsin", None),
    ("Acos", "arccos", None),
    ("Atan", "arctan", (-math.pi / 2, math.pi / 2)),
    ("Sinh", "sinh", None),
    ("Cosh", "cosh", (1.0, math.inf)),
    ("Asinh", "arcsinh", None),
    ("Acosh", "arccosh", (0.0, math.inf)),
    ("Atanh", "arctanh", None),
)
for _row in _UNARY:
    _add_unary(*_row)


@jax.custom_jvp
def _device_abs(x: jax.Array) -> jax.Array:
    return jnp.abs(x)


@_device_abs.defjvp
def _device_abs_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    return jnp.abs(x), jnp.sign(x) * x_dot


@register("Abs", pointwise=True, value_range=ranges.magnitude)
def absolute(x: Any) -> Any:
    """Absolute value, with derivative 0 at 0."""
    return _device_abs(x) if not is_known(x) and is_floating(x) else namespace(x).abs(x)


@jax.custom_jvp
def _device_sqrt(x: jax.Array) -> jax.Array:
    return jnp.sqrt(x)


@_device_sqrt.defjvp
def _device_sqrt_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    y = _device_sqrt(x)
    slope = jnp.where(x > 0, 0.5 / jnp.where(x > 0, y, 1.0), 0.0)
    return y, slope * x_dot


@register("Sqrt", pointwise=True, value_range=(0.0, math.inf))
def square_root(x: Any) -> Any:
    """Square root, with derivative 0 at 0: a dead channel must not make coefficients infinite."""
    return np.sqrt(x) if is_known(x) else _device_sqrt(x)


@register("Reciprocal", pointwise=True)
def reciprocal(x: Any) -> Any:
    """1 / x."""
    return (1.0 / x).astype(x.dtype)


@register("Erf", pointwise=True, value_range=(-1.0, 1.0), foldable=False)
def erf(x: Any) -> jax.Array:
    """The error function."""
    return jax.scipy.special.erf(jnp.asarray(x))


@register("IsInf", pointwise=True)
def is_inf(x: Any, *, detect_negative: int = 1, detect_positive: int = 1) -> Any:
    """Where x is infinite, of the signs asked for."""
    xp = namespace(x)
    return (xp.isposinf(x) & bool(detect_positive)) | (xp.isneginf(x) & bool(detect_negative))


# Two operands --------------------------------------------------------------------------------------


def _add_binary(
    op_type: str, function: Callable[[Any, Any], Any], value_range: RangeRule | None = None, *, since: int = 7
) -> None:
    @register(op_type, since=since, pointwise=True, value_range=value_range)
    def broadcasting(a: Any, b: Any) -> Any:
        left, right = aligned(a, b)
        return function(left, right)

    broadcasting.__name__ = op_type


def _logical(name: str) -> Callable[[Any, Any], Any]:
    return lambda a, b: getattr(namespace(a, b), name)(a, b)


_add_binary("Add", operator.add, ranges.total)
_add_binary("Sub", operator.sub, ranges.difference)
_add_binary("Mul", operator.mul, ranges.product)
_add_binary("Equal", operator.eq)
_add_binary("Less", operator.lt)
_add_binary("Greater", operator.gt)
_add_binary("LessOrEqual", operator.le, since=12)
_add_binary("GreaterOrEqual", operator.ge, since=12)
_add_binary("And", _logical("logical_and"))
_add_binary("Or", _logical("logical_or"))
_add_binary("Xor", _logical("logical_xor"))


@register("Div", since=7, pointwise=True, value_range=ranges.quotient)
def divide(a: Any, b: Any) -> Any:
    """a / b; integers are divided as in C, toward zero."""
    left, right = aligned(a, b)
    if is_floating(left):
        return left / right
    if is_known(left, right):
        quotient = np.abs(left) // np.abs(right)
        return (quotient * np.sign(left) * np.sign(right)).astype(left.dtype)
    return lax.div(*jnp.broadcast_arrays(left, right))


@register("Mod", since=10, pointwise=True)
def modulo(a: Any, b: Any, *, fmod: int = 0) -> Any:
    """Remainder with the sign of b, or with fmod that of a."""
    left, right = aligned(a, b)
    xp = namespace(left, right)
    return xp.fmod(left, right) if fmod else xp.mod(left, right)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _raise_to(x: jax.Array, exponent: float) -> jax.Array:
    if exponent == int(exponent) and abs(exponent) <= 64:
        return lax.integer_pow(x, int(exponent))
    return jnp.power(x, jnp.asarray(exponent, x.dtype))


@_raise_to.defjvp
def _raise_to_jvp(exponent: float, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    slope = exponent * _raise_to(x, exponent - 1.0)
    return _raise_to(x, exponent), jnp.where(jnp.isfinite(slope), slope, 0.0) * x_dot


def _power_range(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    exponent = attributes.get("input_1")
    even = exponent is not None and np.size(exponent) > 0 and bool(np.all(np.asarray(exponent) % 2 == 0))
    return (0.0, math.inf) if even or inputs[0][0] >= 0.0 else (-math.inf, math.inf)


@jax.custom_jvp
def _power(x: jax.Array, exponent: jax.Array) -> jax.Array:
    return jnp.power(x, exponent)


@_power.defjvp
def _power_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x, exponent), (x_dot, exponent_dot) = primals, tangents
    y = _power(x, exponent)
    by_x = exponent * _power(x, exponent - 1)
    by_exponent = y * jnp.log(jnp.where(x > 0, x, 1.0))
    parts = ((by_x, x_dot), (by_exponent, exponent_dot))
    return y, sum((jnp.where(jnp.isfinite(d), d, 0.0) * t for d, t in parts), start=jnp.zeros_like(y))


@register("Pow", since=12, static_if_known=(1,), pointwise=True, value_range=_power_range)
def power(x: Any, exponent: Any) -> Any:
    """x to an exponent, in x's element type; the derivative is 0 where it would be infinite."""
    if is_known(x, exponent):
        left, right = aligned(x, exponent)
        return np.power(left, right).astype(x.dtype)
    if is_known(exponent) and np.size(exponent) == 1 and is_floating(x) and np.ndim(exponent) <= x.ndim:
        return _raise_to(x, float(np.reshape(exponent, ())))
    left, right = aligned(x, exponent)
    left, right = jnp.broadcast_arrays(left, right)
    return (_power if is_floating(left) else jnp.power)(left, right).astype(x.dtype)


# Several operands ----------------------------------------------------------------------------------


@jax.custom_jvp
def _largest(*arrays: jax.Array) -> jax.Array:
    return functools.reduce(jnp.maximum, arrays)


@functools.partial(_largest.defjvp, symbolic_zeros=True)
def _largest_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """Where values are equal a constant wins, so that Max(x, 0) is Relu; then the first operand."""
    y = _largest(*primals)
    fixed = [isinstance(t, SymbolicZero) for t in tangents]
    taken = jnp.zeros(y.shape, jnp.bool_)
    for x, constant in zip(primals, fixed, strict=True):
        taken = taken | (x == y) if constant else taken
    y_dot = jnp.zeros_like(y)
    for x, x_dot, constant in zip(primals, tangents, fixed, strict=True):
        if not constant:
            wins = (x == y) & ~taken
            y_dot = y_dot + jnp.where(wins, x_dot, 0.0)
            taken = taken | wins
    return y, y_dot


@register("Max", since=8, pointwise=True, value_range=ranges.largest)
def maximum(*arrays: Any) -> Any:
    """Largest of the operands."""
    operands = aligned(*arrays)
    if is_known(*operands) or not is_floating(operands[0]):
        return functools.reduce(namespace(*operands).maximum, operands)
    return _largest(*operands)


@register("Min", since=8, pointwise=True, value_range=ranges.smallest)
def minimum(*arrays: Any) -> Any:
    """Smallest of the operands."""
    operands = aligned(*arrays)
    if is_known(*operands) or not is_floating(operands[0]):
        return functools.reduce(namespace(*operands).minimum, operands)
    return -_largest(*(-x for x in operands))


@register("Sum", since=8, pointwise=True, value_range=ranges.total)
def add_all(*arrays: Any) -> Any:
    """Sum of the operands."""
    return functools.reduce(operator.add, aligned(*arrays))


@register("Mean", since=8, pointwise=True, value_range=ranges.hull_of_inputs)
def mean_of(*arrays: Any) -> Any:
    """Mean of the operands."""
    return functools.reduce(operator.add, aligned(*arrays)) / len(arrays)


def _picked(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    return ranges.hull(inputs[1:])


@register("Where", since=9, pointwise=True, value_range=_picked)
def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y."""
    if is_known(condition, x, y):
        aligned(condition, x, y)
        return np.where(condition, x, y)
    left, right = aligned(x, y)
    rank = max(left.ndim, np.ndim(condition))
    chosen = [
        jnp.asarray(a).reshape((1,) * (rank - np.ndim(a)) + np.shape(a)) for a in (condition, left, right)
    ]
    return jnp.where(*jnp.broadcast_arrays(*chosen))


# Casts ---------------------------------------------------------------------------------------------

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_INTEGERS = tuple(getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64))


def _kept(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    return inputs[0] if attributes.get("to", TensorProto.FLOAT) in _FLOATS else (-math.inf, math.inf)


def _convert(x: Any, to: int) -> Any:
    if to == TensorProto.BOOL:
        return x != 0
    if to in _FLOATS:
        return x.astype(np.float32)
    if to not in _INTEGERS:
        raise Refusal(f"casting to {TensorProto.DataType.Name(to)} is not implemented")
    whole = namespace(x).trunc(x) if is_floating(x) else x
    return whole.astype(tensor_dtype_to_np_dtype(to) if is_known(x) else jnp.int32)


@register("Cast", pointwise=True, value_range=_kept)
def cast(x: Any, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    """x in another element type.

    Every float type becomes float32. What depends on the model's input is kept as int32 for every
    integer type; constants keep the exact type. Floats are cut off toward zero.
    """
    return _convert(x, to)


@register("CastLike", since=15, pointwise=True, value_range=ranges.keep)
def cast_like(x: Any, like: Any, *, saturate: int = 1, round_mode: str = "up") -> Any:
    """x in the element type of `like`; see Cast."""
    if is_floating(like):
        return _convert(x, TensorProto.FLOAT)
    if like.dtype == np.bool_:
        return _convert(x, TensorProto.BOOL)
    whole = namespace(x).trunc(x) if is_floating(x) else x
    return whole.astype(like.dtype if is_known(x) else jnp.int32)
