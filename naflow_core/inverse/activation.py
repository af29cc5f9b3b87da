"""Inverse rules of activations and other one-to-one scalar functions (METHOD.md section 4).

The domain of every algebraic inverse is clipped just inside the function's range, so that values that the
function cannot take (solver error, abandoned neurons) give large finite numbers, never nan or inf.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from naflow_core.inverse.guard import divide
from naflow_core.inverse.registry import Site, known_input, register

Array = Any
EDGE = 1e-6
LARGEST_EXPONENT = 80.0


@register("Relu", "Clip", "ThresholdedRelu", kind="mask", name="identity-on-retained")
def identity_on_retained(y: Array, _site: Site) -> Array:
    return y


def _keeps_shape(site: Site) -> bool:
    return tuple(site.x0.shape) == tuple(site.y0.shape)


@register("Max", "Min", kind="mask", applies=_keeps_shape, name="identity-on-retained")
def identity_where_chosen(y: Array, _site: Site) -> Array:
    # Max(x, 0) is Relu; where another operand won, the coefficient is zero
    return y


@register("LeakyRelu")
def leaky_relu_inverse(y: Array, site: Site) -> Array:
    return _sloped_inverse(y, site.x0, site.attributes.get("alpha", 0.01))


@register("PRelu", applies=lambda site: site.position == 0)
def prelu_inverse(y: Array, site: Site) -> Array:
    return _sloped_inverse(y, site.x0, site.inputs[1])


def _sloped_inverse(y: Array, x0: Array, slope: Array) -> Array:
    # a slope of 0 has forgotten the negative value: the neuron is abandoned; one below 0 has forgotten the
    # sign, and the forward input supplies it
    return jnp.where(jnp.where(slope < 0, x0 < 0, y < 0), divide(y, slope), y)


def _elu_inverse(y: Array, alpha: float, width: float = 1.0) -> Array:
    inside = jnp.maximum(y / alpha, EDGE - 1.0)
    return jnp.where(y >= 0, y, width * jnp.log1p(jnp.minimum(inside, 0.0)))


@register("Elu", applies=lambda site: site.attributes.get("alpha", 1.0) > 0)
def elu_inverse(y: Array, site: Site) -> Array:
    return _elu_inverse(y, site.attributes.get("alpha", 1.0))


@register("Selu", applies=lambda site: min(site.attributes.get(k, 1.0) for k in ("alpha", "gamma")) > 0)
def selu_inverse(y: Array, site: Site) -> Array:
    alpha = site.attributes.get("alpha", 1.6732632423543772)
    return _elu_inverse(y / site.attributes.get("gamma", 1.0507009873554805), alpha)


@register("Celu", applies=lambda site: site.attributes.get("alpha", 1.0) > 0)
def celu_inverse(y: Array, site: Site) -> Array:
    alpha = site.attributes.get("alpha", 1.0)
    return _elu_inverse(y, alpha, alpha)


@register("Softplus")
def softplus_inverse(y: Array, _site: Site) -> Array:
    y = jnp.maximum(y, EDGE)
    return y + jnp.log(-jnp.expm1(-y))


@register("Softsign")
def softsign_inverse(y: Array, _site: Site) -> Array:
    y = jnp.clip(y, EDGE - 1.0, 1.0 - EDGE)
    return y / (1.0 - jnp.abs(y))


@register("Sigmoid")
def sigmoid_inverse(y: Array, _site: Site) -> Array:
    y = jnp.clip(y, EDGE, 1.0 - EDGE)
    return jnp.log(y) - jnp.log1p(-y)


@register("Tanh")
def tanh_inverse(y: Array, _site: Site) -> Array:
    return jnp.arctanh(jnp.clip(y, EDGE - 1.0, 1.0 - EDGE))


@register("Asinh")
def asinh_inverse(y: Array, _site: Site) -> Array:
    return jnp.sinh(jnp.clip(y, -LARGEST_EXPONENT, LARGEST_EXPONENT))


@register("Atanh")
def atanh_inverse(y: Array, _site: Site) -> Array:
    return jnp.tanh(y)


@register("Sinh")
def sinh_inverse(y: Array, _site: Site) -> Array:
    return jnp.arcsinh(y)


@register("Exp")
def exp_inverse(y: Array, _site: Site) -> Array:
    return jnp.log(jnp.maximum(y, jnp.finfo(jnp.float32).tiny))


@register("Log")
def log_inverse(y: Array, _site: Site) -> Array:
    return jnp.exp(jnp.minimum(y, LARGEST_EXPONENT))


@register("Sqrt")
def sqrt_inverse(y: Array, _site: Site) -> Array:
    return jnp.square(jnp.maximum(y, 0.0))


@register("Reciprocal")
def reciprocal_inverse(y: Array, _site: Site) -> Array:
    return divide(jnp.ones_like(y), y)


@register("Neg")
def neg_inverse(y: Array, _site: Site) -> Array:
    return -y


def _known_scalar_exponent(site: Site) -> bool:
    exponent = known_input(site, 1)
    return (
        site.position == 0
        and exponent is not None
        and exponent.size == 1
        and float(exponent.ravel()[0]) != 0.0
    )


@register("Pow", applies=_known_scalar_exponent)
def power_inverse(y: Array, site: Site) -> Array:
    exponent = float(site.inputs[1].ravel()[0])
    # an odd power keeps the sign; an even one forgets it, and the forward input supplies it
    signs = y if exponent % 2 == 1 else site.x0
    magnitude = jnp.where(y == 0, 0.0, jnp.abs(jnp.where(y == 0, 1.0, y)) ** (1.0 / exponent))
    return jnp.sign(signs) * magnitude
