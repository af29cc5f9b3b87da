"""The encoder in JAX: five convolutions, average pooling, a linear layer, an embedding of length one.

Every convolution is followed by BatchNormalization, which the ONNX file keeps as a node of its own, and Relu.
Channels are last in here and second in the ONNX file.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Params = dict[str, jax.Array]


class Conv(NamedTuple):
    """A 3x3 convolution of stride 1 without bias, by name and channels; `halve`: 2x2 max pooling after it."""

    name: str
    inputs: int
    outputs: int
    halve: bool


CONVOLUTIONS = (
    Conv("stem", 1, 16, True),
    Conv("widen", 16, 32, False),
    Conv("shape", 32, 32, True),
    Conv("deepen", 32, 64, False),
    Conv("top", 64, 64, False),
)
EMBEDDING = 64
EPSILON = 1e-5
SHORTEST = 1e-6  # a vector shorter than this is not stretched to length one
MOMENTUM = 0.9


def initialise(key: jax.Array) -> tuple[Params, Params]:
    """He-normal weights, and the running statistics of the normalisations (mean 0, variance 1)."""
    params: Params = {}
    statistics: Params = {}
    *keys, last = jax.random.split(key, len(CONVOLUTIONS) + 1)
    for conv, conv_key in zip(CONVOLUTIONS, keys, strict=True):
        shape = (3, 3, conv.inputs, conv.outputs)
        params[f"{conv.name}.weight"] = (2.0 / (9 * conv.inputs)) ** 0.5 * jax.random.normal(conv_key, shape)
        params[f"{conv.name}.scale"] = jnp.ones(conv.outputs)
        params[f"{conv.name}.shift"] = jnp.zeros(conv.outputs)
        statistics[f"{conv.name}.mean"] = jnp.zeros(conv.outputs)
        statistics[f"{conv.name}.variance"] = jnp.ones(conv.outputs)
    features = CONVOLUTIONS[-1].outputs
    params["project.weight"] = features**-0.5 * jax.random.normal(last, (features, EMBEDDING))
    params["project.bias"] = jnp.zeros(EMBEDDING)
    return params, statistics


def embed(
    params: Params, statistics: Params, pictures: jax.Array, *, training: bool
) -> tuple[jax.Array, Params]:
    """Embeddings [N, 64] of length one of pictures [N, 1, 32, 32], and the statistics, moved along when
    training."""
    moved: Params = {}
    x = pictures.transpose(0, 2, 3, 1)
    for conv in CONVOLUTIONS:
        y = jax.lax.conv_general_dilated(
            x, params[f"{conv.name}.weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        names = f"{conv.name}.mean", f"{conv.name}.variance"
        mean, variance = (statistics[name] for name in names)
        if training:
            mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
            for name, now in zip(names, (mean, variance), strict=True):
                moved[name] = MOMENTUM * statistics[name] + (1.0 - MOMENTUM) * jax.lax.stop_gradient(now)
        scale = params[f"{conv.name}.scale"] * jax.lax.rsqrt(variance + EPSILON)
        x = jax.nn.relu((y - mean) * scale + params[f"{conv.name}.shift"])
        if conv.halve:
            x = _halve(x)
    e = x.mean((1, 2)) @ params["project.weight"] + params["project.bias"]
    length = jnp.sqrt(jnp.maximum((e * e).sum(1, keepdims=True), SHORTEST**2))
    return e / length, moved if training else statistics


def _halve(x: jax.Array) -> jax.Array:
    """Maximum over 2x2 windows. As a reshape, because its gradient is much faster on a CPU."""
    count, height, width, channels = x.shape
    return x.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))
