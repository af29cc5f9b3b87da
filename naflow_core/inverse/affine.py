"""Inverse rules of normalisations and of arithmetic with a constant or with another branch.

Statistics are those of the forward pass and the other operand keeps its forward value, so each of these is
`y = scale * x + offset` element by element. A zero scale abandons the neuron.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from naflow_core.inverse.guard import TINY, divide
from naflow_core.inverse.registry import Rule, Site, always, register
from naflow_core.ops.norm import MVN_EPSILON
from naflow_core.ops.quant import dequantize_linear

Array = Any

STATISTICS = frozenset(
    {
        "GlobalAveragePool",
        "ReduceL1",
        "ReduceL2",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceSum",
        "ReduceSumSquare",
    }
)
"""Operators by which a normalisation that is spelt out node by node takes its statistics."""


def _keeps_shape(site: Site) -> bool:
    """The input is not broadcast: otherwise one unknown has many equations, which is least squares."""
    return tuple(site.x0.shape) == tuple(site.y0.shape)


def _keeps_shape_at_first(site: Site) -> bool:
    return site.position == 0 and _keeps_shape(site)


@register("BatchNormalization", "Div", "DequantizeLinear", applies=_keeps_shape_at_first, name="affine")
@register("Add", "Sub", "Sum", "Mul", applies=_keeps_shape, name="affine")
def affine(y: Array, site: Site) -> Array:
    slope = site.slope()
    return divide(y - (site.y0 - slope * site.x0), slope)


FROZEN_STATISTICS = Rule("frozen-statistics", "exact", affine, always, coupled=True, held=STATISTICS)
"""For a normalisation of several nodes: see `naflow_core.analysis.spelt_out`."""


@register("QuantizeLinear", applies=_keeps_shape_at_first)
def dequantise(y: Array, site: Site) -> Array:
    given = {name: value for name, value in site.attributes.items() if name in ("axis", "block_size")}
    return dequantize_linear(y, *site.inputs[1:3], **given)


def _standardised_inverse(
    y: Array, x0: Array, axes: tuple[int, ...], scale: Array, bias: Array, epsilon: float
) -> Array:
    mean = jnp.mean(x0, axis=axes, keepdims=True)
    deviation = jnp.sqrt(jnp.var(x0, axis=axes, keepdims=True) + epsilon)
    return _standardised(y, scale, bias, deviation, mean)


def _standardised(y: Array, scale: Array, bias: Array, deviation: Array, mean: Array) -> Array:
    return jnp.where(jnp.abs(scale) > TINY, divide(y - bias, scale) * deviation + mean, 0.0)


def _per_channel(vector: Array, rank: int) -> Array:
    return jnp.reshape(vector, (1, -1) + (1,) * (rank - 2))


@register("InstanceNormalization", applies=lambda site: site.position == 0, coupled=True)
def instance_normalization_inverse(y: Array, site: Site) -> Array:
    scale, bias = (_per_channel(v, y.ndim) for v in site.inputs[1:3])
    epsilon = site.attributes.get("epsilon", 1e-5)
    return _standardised_inverse(y, site.x0, tuple(range(2, y.ndim)), scale, bias, epsilon)


@register("LayerNormalization", applies=lambda site: site.position == 0, coupled=True)
def layer_normalization_inverse(y: Array, site: Site) -> Array:
    axis = site.attributes.get("axis", -1)
    axes = tuple(range(axis % y.ndim, y.ndim))
    bias = site.inputs[2] if len(site.inputs) > 2 and site.inputs[2] is not None else 0.0
    return _standardised_inverse(y, site.x0, axes, site.inputs[1], bias, site.attributes.get("epsilon", 1e-5))


@register("MeanVarianceNormalization", coupled=True)
def mean_variance_normalization_inverse(y: Array, site: Site) -> Array:
    axes = tuple(site.attributes.get("axes", (0, 2, 3)))
    mean = jnp.mean(site.x0, axis=axes, keepdims=True)
    deviation = jnp.sqrt(jnp.var(site.x0, axis=axes, keepdims=True)) + MVN_EPSILON
    return y * deviation + mean


@register("RMSNormalization", applies=lambda site: site.position == 0, coupled=True)
def rms_normalization_inverse(y: Array, site: Site) -> Array:
    axes = tuple(range(site.attributes.get("axis", -1) % y.ndim, y.ndim))
    square = jnp.mean(jnp.square(site.x0), axis=axes, keepdims=True)
    return divide(y, site.inputs[1]) * jnp.sqrt(square + site.attributes.get("epsilon", 1e-5))


@register("LpNormalization", coupled=True)
def lp_normalization_inverse(y: Array, site: Site) -> Array:
    order, axis = site.attributes.get("p", 2), site.attributes.get("axis", -1)
    powered = jnp.sum(jnp.abs(site.x0) ** order, axis=axis, keepdims=True)
    return y * (powered if order == 1 else jnp.sqrt(powered))


@register("GroupNormalization", applies=lambda site: site.position == 0, coupled=True)
def group_normalization_inverse(y: Array, site: Site) -> Array:
    groups = site.attributes["num_groups"]
    per_channel = y.shape[1] // site.inputs[1].shape[0]  # up to opset 20 a group has one scale
    scale, bias = (_per_channel(jnp.repeat(v, per_channel), y.ndim) for v in site.inputs[1:3])
    grouped = site.x0.reshape(y.shape[0], groups, -1)
    mean = jnp.mean(grouped, axis=2, keepdims=True)
    deviation = jnp.sqrt(jnp.var(grouped, axis=2, keepdims=True) + site.attributes.get("epsilon", 1e-5))
    mean, deviation = (jnp.repeat(v, y.shape[1] // groups, axis=1) for v in (mean, deviation))
    shape = (*y.shape[:2], *(1,) * (y.ndim - 2))
    return _standardised(y, scale, bias, deviation.reshape(shape), mean.reshape(shape))
