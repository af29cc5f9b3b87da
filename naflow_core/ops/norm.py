"""Normalisation, all for inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.errors import Refusal
from naflow_core.ops.array import along_channels, namespace, normalise_axes, normalise_axis
from naflow_core.ops.elementwise import absolute, square_root
from naflow_core.ops.registry import register

MVN_EPSILON = 1e-9
"""What ONNX adds to the deviation in MeanVarianceNormalization."""


@register("BatchNormalization", since=9)
def batch_normalization(
    x: Any,
    scale: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Any:
    """(x - mean) scale / sqrt(variance + epsilon) + bias, per channel of x [N, C, ...]."""
    if training_mode:
        raise Refusal("training mode is not implemented; export the model for inference")
    rank = np.ndim(x)
    factor = scale / namespace(variance).sqrt(variance + epsilon)
    return (x - along_channels(mean, rank)) * along_channels(factor, rank) + along_channels(bias, rank)


def _standardised(x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    """(x - mean) / deviation over the axes, the mean and one over the deviation."""
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    variance = (centred * centred).mean(axis=axes, keepdims=True)
    inverse = 1.0 / namespace(x).sqrt(variance + epsilon)
    return centred * inverse, mean, inverse


@register("InstanceNormalization", since=6)
def instance_normalization(x: Any, scale: Any, bias: Any, *, epsilon: float = 1e-5) -> Any:
    """Every channel of every picture of x [N, C, spatial...] standardised, then scale and bias."""
    rank = np.ndim(x)
    normal, _, _ = _standardised(x, tuple(range(2, rank)), epsilon)
    return normal * along_channels(scale, rank) + along_channels(bias, rank)


def _grouped(x: Any, groups: int, epsilon: float) -> Any:
    if x.shape[1] % groups:
        raise Refusal(f"{x.shape[1]} channels do not divide into {groups} groups")
    grouped = x.reshape(x.shape[0], groups, -1)
    return _standardised(grouped, (2,), epsilon)[0]


@register("GroupNormalization", since=18)
def group_normalization_per_group(
    x: Any, scale: Any, bias: Any, *, num_groups: int, epsilon: float = 1e-5
) -> Any:
    """Groups of channels of x [N, C, spatial...] standardised; one scale and bias per group."""
    normal = _grouped(x, num_groups, epsilon)
    return (normal * along_channels(scale, 3) + along_channels(bias, 3)).reshape(x.shape)


@register("GroupNormalization", since=21)
def group_normalization(
    x: Any, scale: Any, bias: Any, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    """Groups of channels of x [N, C, spatial...] standardised; one scale and bias per channel."""
    normal = _grouped(x, num_groups, epsilon).reshape(x.shape)
    rank = np.ndim(x)
    return normal * along_channels(scale, rank) + along_channels(bias, rank)


def _trailing(values: Any, rank: int) -> Any:
    return values.reshape((1,) * (rank - np.ndim(values)) + np.shape(values))


@register("LayerNormalization", since=17)
def layer_normalization(
    x: Any, scale: Any, bias: Any = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> tuple[Any, Any, Any]:
    """x standardised over the axes from `axis` on, then scale and bias; with mean and 1 / deviation."""
    rank = np.ndim(x)
    normal, mean, inverse = _standardised(x, tuple(range(normalise_axis(axis, rank), rank)), epsilon)
    y = normal * _trailing(scale, rank)
    return (y if bias is None else y + _trailing(bias, rank)), mean, inverse


@register("RMSNormalization", since=23)
def rms_normalization(
    x: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    """x over its root mean square over the axes from `axis` on, then scale."""
    rank = np.ndim(x)
    axes = tuple(range(normalise_axis(axis, rank), rank))
    mean_square = (x * x).mean(axis=axes, keepdims=True)
    return x / namespace(x).sqrt(mean_square + epsilon) * _trailing(scale, rank)


@register("LpNormalization")
def lp_normalization(x: Any, *, axis: int = -1, p: int = 2) -> Any:
    """x over its 1- or 2-norm along one axis; all-zero vectors stay zero."""
    if p not in (1, 2):
        raise Refusal(f"p = {p} is not 1 or 2")
    xp = namespace(x)
    axis = normalise_axis(axis, np.ndim(x))
    length = (absolute(x) if p == 1 else x * x).sum(axis=axis, keepdims=True)
    length = length if p == 1 else square_root(length)
    return x / xp.where(length > 0, length, xp.ones_like(length))


@register("MeanVarianceNormalization", since=9)
def mean_variance_normalization(x: Any, *, axes: Sequence[int] = (0, 2, 3)) -> Any:
    """x - mean over deviation, over the given axes."""
    chosen = normalise_axes(axes, np.ndim(x))
    mean = x.mean(axis=chosen, keepdims=True)
    centred = x - mean
    deviation = square_root((centred * centred).mean(axis=chosen, keepdims=True))
    return centred / (deviation + np.float32(MVN_EPSILON))


@register("LRN", foldable=False)
def local_response_normalization(
    x: Any, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> jax.Array:
    """x [N, C, ...] over (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""
    x = jnp.asarray(x)
    before, after = (size - 1) // 2, math.ceil((size - 1) / 2)
    channels = x.shape[1]
    config = [(0, 0, 0)] * x.ndim
    config[1] = (before, after, 0)
    padded = lax.pad(x * x, jnp.zeros((), x.dtype), config)
    squares = sum(
        (lax.slice_in_dim(padded, i, i + channels, axis=1) for i in range(size)), start=jnp.zeros((), x.dtype)
    )
    y: jax.Array = x / jnp.power(bias + alpha / size * squares, beta)
    return y
