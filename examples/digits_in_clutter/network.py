"""The network in JAX: two convolutions, a residual block, two convolutions, average pooling, a classifier.

Every convolution but none of the additions is followed by BatchNormalization, which the ONNX file keeps
as nodes of its own. Channels are last in here and second in the ONNX file.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Params = dict[str, jax.Array]


class Conv(NamedTuple):
    """A 3x3 convolution of stride 1 without bias, by name and channels."""

    name: str
    inputs: int
    outputs: int


STEM = Conv("stem", 1, 16)
WIDEN = Conv("widen", 16, 32)
BLOCK_A = Conv("block_a", 32, 32)
BLOCK_B = Conv("block_b", 32, 32)
DEEPEN = Conv("deepen", 32, 64)
TOP = Conv("top", 64, 64)
CONVOLUTIONS = (STEM, WIDEN, BLOCK_A, BLOCK_B, DEEPEN, TOP)
CLASSES = 10
EPSILON = 1e-5
MOMENTUM = 0.9


def initialise(key: jax.Array) -> tuple[Params, Params]:
    """He-normal weights, and the running statistics of the normalisations (mean 0, variance 1)."""
    params: Params = {}
    statistics: Params = {}
    *keys, last = jax.random.split(key, len(CONVOLUTIONS) + 1)
    for conv, conv_key in zip(CONVOLUTIONS, keys, strict=True):
        shape = (3, 3, conv.inputs, conv.outputs)
        deviation = (2.0 / (9 * conv.inputs)) ** 0.5
        params[f"{conv.name}.weight"] = deviation * jax.random.normal(conv_key, shape)
        params[f"{conv.name}.scale"] = jnp.ones(conv.outputs)
        params[f"{conv.name}.shift"] = jnp.zeros(conv.outputs)
        statistics[f"{conv.name}.mean"] = jnp.zeros(conv.outputs)
        statistics[f"{conv.name}.variance"] = jnp.ones(conv.outputs)
    params["head.weight"] = 0.01 * jax.random.normal(last, (TOP.outputs, CLASSES))
    params["head.bias"] = jnp.zeros(CLASSES)
    return params, statistics


def forward(
    params: Params, statistics: Params, pictures: jax.Array, *, training: bool
) -> tuple[jax.Array, Params]:
    """Logits [N, 10] of pictures [N, 1, 64, 64], and the statistics, moved along when training."""
    moved: Params = {}

    def conv_norm(x: jax.Array, conv: Conv) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x, params[f"{conv.name}.weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        names = f"{conv.name}.mean", f"{conv.name}.variance"
        mean, variance = (statistics[name] for name in names)
        if training:
            batch = y.mean((0, 1, 2)), y.var((0, 1, 2))
            for name, now in zip(names, batch, strict=True):
                moved[name] = MOMENTUM * statistics[name] + (1.0 - MOMENTUM) * jax.lax.stop_gradient(now)
            mean, variance = batch
        scale = params[f"{conv.name}.scale"] * jax.lax.rsqrt(variance + EPSILON)
        return (y - mean) * scale + params[f"{conv.name}.shift"]

    x = pictures.transpose(0, 2, 3, 1)
    x = _halve(jax.nn.relu(conv_norm(x, STEM)))
    x = _halve(jax.nn.relu(conv_norm(x, WIDEN)))
    branch = conv_norm(jax.nn.relu(conv_norm(x, BLOCK_A)), BLOCK_B)
    x = _halve(jax.nn.relu(x + branch))
    x = jax.nn.relu(conv_norm(x, DEEPEN))
    x = jax.nn.relu(conv_norm(x, TOP))
    logits = x.mean((1, 2)) @ params["head.weight"] + params["head.bias"]
    return logits, moved if training else statistics


def _halve(x: jax.Array) -> jax.Array:
    """Maximum over 2x2 windows. As a reshape, because its gradient is much faster on a CPU."""
    count, height, width, channels = x.shape
    return x.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))
