"""Activation functions. Where a kink leaves the derivative open it is that of the saturated side: 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops import ranges
from naflow_core.ops.array import aligned, is_known, namespace, normalise_axis, scalar
from naflow_core.ops.elementwise import absolute, is_floating
from naflow_core.ops.registry import Interval, register


@jax.custom_jvp
def clamp(x: jax.Array, low: Any, high: Any) -> jax.Array:
    """x kept within constant bounds; derivative 1 strictly between them, 0 elsewhere."""
    return jnp.minimum(jnp.maximum(x, low), high)


@clamp.defjvp
def _clamp_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    x, low, high = primals
    return clamp(x, low, high), jnp.where((x > low) & (x < high), tangents[0], 0.0)


@register("Relu", pointwise=True, value_range=ranges.increasing(lambda x: max(x, 0.0), 0.0, math.inf))
def relu(x: Any) -> Any:
    """max(x, 0), derivative 0 at 0."""
    if is_known(x):
        return np.maximum(x, np.zeros((), x.dtype))
    return jax.nn.relu(x) if is_floating(x) else jnp.maximum(x, jnp.zeros((), x.dtype))


@register("Clip", since=11, static=(1, 2), pointwise=True, value_range=ranges.clipped)
def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    """x kept within [low, high]; derivative 1 strictly inside, 0 on the bounds and beyond."""
    bottom = None if low is None or np.size(low) == 0 else scalar(low, "min")
    top = None if high is None or np.size(high) == 0 else scalar(high, "max")
    if is_known(x) or not is_floating(x):
        xp = namespace(x)
        x = x if bottom is None else xp.maximum(x, xp.asarray(bottom, x.dtype))
        return x if top is None else xp.minimum(x, xp.asarray(top, x.dtype))
    bounds = (-math.inf if bottom is None else bottom), (math.inf if top is None else top)
    return clamp(x, *(jnp.asarray(bound, x.dtype) for bound in bounds))


def _leaky_range(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    return _sloped(inputs[0], (float(attributes.get("alpha", 0.01)),) * 2)


def _prelu_range(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    return _sloped(inputs[0], inputs[1])


def _sloped(x: Interval, slope: Interval) -> Interval:
    negative = ranges.product([(min(x[0], 0.0), min(x[1], 0.0)), slope], {})
    return ranges.hull([(max(x[0], 0.0), max(x[1], 0.0)), negative])


@register("LeakyRelu", pointwise=True, value_range=_leaky_range)
def leaky_relu(x: Any, *, alpha: float = 0.01) -> Any:
    """x above 0, alpha x below."""
    return namespace(x).where(x > 0, x, x * alpha)


@register("PRelu", since=9, pointwise=True, value_range=_prelu_range)
def prelu(x: Any, slope: Any) -> Any:
    """x above 0, slope x below; the slope broadcasts to x."""
    left, right = aligned(x, slope)
    return namespace(left, right).where(left > 0, left, left * right)


def _expm1_below(x: Any) -> Any:
    """exp(x) - 1 for negative x and 0 above, without overflow on the side that is not used."""
    xp = namespace(x)
    return xp.expm1(xp.where(x > 0, xp.zeros_like(x), x))


def _elu_range(inputs: list[Interval], attributes: Mapping[str, Any]) -> Interval:
    alpha = float(attributes.get("alpha", 1.0))
    return (-alpha, math.inf) if alpha >= 0 else (-math.inf, math.inf)


@register("Elu", pointwise=True, value_range=_elu_range)
def elu(x: Any, *, alpha: float = 1.0) -> Any:
    """x above 0, alpha (exp(x) - 1) below."""
    return namespace(x).where(x > 0, x, _expm1_below(x) * alpha)


@register("Selu", pointwise=True)
def selu(
    x: Any, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Any:
    """gamma times Elu."""
    return gamma * namespace(x).where(x > 0, x, _expm1_below(x) * alpha)


@register("Celu", since=12, pointwise=True, value_range=_elu_range)
def celu(x: Any, *, alpha: float = 1.0) -> Any:
    """x above 0, alpha (exp(x / alpha) - 1) below."""
    return namespace(x).where(x > 0, x, _expm1_below(x / alpha) * alpha)


@register("ThresholdedRelu", since=10, pointwise=True)
def thresholded_relu(x: Any, *, alpha: float = 1.0) -> Any:
    """x above alpha, else 0."""
    xp = namespace(x)
    return xp.where(x > alpha, x, xp.zeros_like(x))


@register("Shrink", since=9, pointwise=True)
def shrink(x: Any, *, bias: float = 0.0, lambd: float = 0.5) -> Any:
    """x moved toward 0 by the bias where it lies outside [-lambd, lambd], else 0."""
    xp = namespace(x)
    return xp.where(x < -lambd, x + bias, xp.where(x > lambd, x - bias, xp.zeros_like(x)))


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


@register("Sigmoid", pointwise=True, value_range=ranges.increasing(_logistic, 0.0, 1.0))
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    if not is_known(x):
        return lax.logistic(x)
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, decay).astype(x.dtype) / (1 + decay)


@register("Tanh", pointwise=True, value_range=ranges.increasing(math.tanh, -1.0, 1.0))
def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return namespace(x).tanh(x)


@register("Softplus", pointwise=True, value_range=(0.0, math.inf))
def softplus(x: Any) -> Any:
    """log(1 + exp(x))."""
    xp = namespace(x)
    return xp.logaddexp(x, xp.zeros_like(x))


@register("Softsign", pointwise=True, value_range=(-1.0, 1.0))
def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    return x / (1 + absolute(x))


@register("HardSigmoid", pointwise=True, value_range=(0.0, 1.0))
def hard_sigmoid(x: Any, *, alpha: float = 0.2, beta: float = 0.5) -> Any:
    """alpha x + beta kept within [0, 1]."""
    line = x * alpha + beta
    return np.clip(line, 0.0, 1.0) if is_known(x) else clamp(line, 0.0, 1.0)


@register("HardSwish", since=14, pointwise=True, value_range=(-0.375, math.inf))
def hard_swish(x: Any) -> Any:
    """x times HardSigmoid(x) with alpha 1/6."""
    return x * hard_sigmoid(x, alpha=1.0 / 6.0, beta=0.5)


@register("Mish", since=18, pointwise=True, value_range=(-0.30885, math.inf))
def mish(x: Any) -> Any:
    """x tanh(softplus(x))."""
    return x * namespace(x).tanh(softplus(x))


@register("Swish", since=24, pointwise=True)
def swish(x: Any, *, alpha: float = 1.0) -> Any:
    """x sigmoid(alpha x)."""
    return x * sigmoid(x * alpha)


@register("Gelu", since=20, pointwise=True, value_range=(-0.17005, math.inf), foldable=False)
def gelu(x: Any, *, approximate: str = "none") -> jax.Array:
    """x times the normal distribution function, or its tanh approximation."""
    if approximate not in ("none", "tanh"):
        raise Refusal(f"approximate {approximate!r} is not one of none, tanh")
    return jax.nn.gelu(jnp.asarray(x), approximate=approximate == "tanh")


def _rounded(x: jax.Array) -> jax.Array:
    """x itself, as a value that the compiler may not merge with the operation it came from.

    Where x is a product, XLA contracts product and subtraction into one step, so that x - max(x) can
    come out positive: for logits near 1e10 by hundreds, whose exponential is inf.
    """
    return jnp.maximum(x, jnp.finfo(x.dtype).min)


@register("Softmax", since=13, value_range=(0.0, 1.0))
def softmax(x: Any, *, axis: int = -1) -> Any:
    """exp(x) over its sum along one axis."""
    axis = normalise_axis(axis, np.ndim(x))
    if not is_known(x):
        return jax.nn.softmax(_rounded(x), axis=axis)
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


@register("LogSoftmax", since=13, value_range=(-math.inf, 0.0))
def log_softmax(x: Any, *, axis: int = -1) -> Any:
    """Logarithm of Softmax."""
    axis = normalise_axis(axis, np.ndim(x))
    if not is_known(x):
        return jax.nn.log_softmax(_rounded(x), axis=axis)
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


@register("Hardmax", since=13, value_range=(0.0, 1.0))
def hardmax(x: Any, *, axis: int = -1) -> Any:
    """1 at the first maximum along one axis, 0 elsewhere; its derivative is 0."""
    axis = normalise_axis(axis, np.ndim(x))
    xp = namespace(x)
    cells = np.arange(x.shape[axis]).reshape([-1 if a == axis else 1 for a in range(np.ndim(x))])
    return xp.asarray(xp.argmax(x, axis=axis, keepdims=True) == cells, x.dtype)
