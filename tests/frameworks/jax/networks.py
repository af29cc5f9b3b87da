"""Networks written with Flax (nnx): channels last, as everything in Flax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Unit(nnx.Module):
    """Convolution, normalisation and an activation."""

    def __init__(self, inside, outside, size, rngs, *, strides=1, groups=1, activation=nnx.relu):
        self.conv = nnx.Conv(
            inside, outside, size, strides=strides, feature_group_count=groups, use_bias=False, rngs=rngs
        )
        self.norm = nnx.BatchNorm(outside, rngs=rngs)
        self.activation = activation

    def __call__(self, x):
        return self.activation(self.norm(self.conv(x)))


class Chain(nnx.Module):
    """One after the other."""

    def __init__(self, *parts):
        self.parts = nnx.List(parts)

    def __call__(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Head(nnx.Module):
    """Mean over all places and a linear layer."""

    def __init__(self, channels, classes, rngs):
        self.linear = nnx.Linear(channels, classes, rngs=rngs)

    def __call__(self, x):
        return self.linear(jnp.mean(x, axis=tuple(range(1, x.ndim - 1))))


class Residual(nnx.Module):
    """x + f(x), rectified."""

    def __init__(self, body):
        self.body = body

    def __call__(self, x):
        return nnx.relu(x + self.body(x))


class Gate(nnx.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels, rngs):
        self.down = nnx.Linear(channels, channels // 4, rngs=rngs)
        self.up = nnx.Linear(channels // 4, channels, rngs=rngs)

    def __call__(self, x):
        weights = nnx.sigmoid(self.up(nnx.relu(self.down(jnp.mean(x, axis=(1, 2))))))
        return x * weights[:, None, None, :]


class ConvNextBlock(nnx.Module):
    """Depthwise 7x7, LayerNorm, two linear layers with GELU."""

    def __init__(self, channels, rngs):
        self.depthwise = nnx.Conv(channels, channels, (7, 7), feature_group_count=channels, rngs=rngs)
        self.norm = nnx.LayerNorm(channels, rngs=rngs)
        self.wide = nnx.Linear(channels, 4 * channels, rngs=rngs)
        self.narrow = nnx.Linear(4 * channels, channels, rngs=rngs)

    def __call__(self, x):
        return x + 0.3 * self.narrow(nnx.gelu(self.wide(self.norm(self.depthwise(x)))))


class Dense(nnx.Module):
    """New features beside the old ones."""

    def __init__(self, inside, growth, rngs):
        self.unit = Unit(inside, growth, (3, 3), rngs)

    def __call__(self, x):
        return jnp.concatenate([x, self.unit(x)], axis=-1)


def pool(x):
    """2x2 max pooling."""
    return nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))


def average(x):
    """2x2 average pooling."""
    return nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))


def residual(rngs):
    """A small residual network."""
    body = Chain(Unit(8, 8, (3, 3), rngs), Unit(8, 8, (3, 3), rngs, activation=lambda x: x))
    return Chain(
        Unit(3, 8, (3, 3), rngs, strides=2),
        Residual(body),
        pool,
        Unit(8, 16, (3, 3), rngs),
        Head(16, 10, rngs),
    )


def inverted_residual(rngs):
    """MobileNet v2 blocks with squeeze-and-excitation and SiLU."""
    body = Chain(
        Unit(8, 32, (1, 1), rngs, activation=nnx.silu),
        Unit(32, 32, (3, 3), rngs, groups=32, activation=nnx.silu),
        Gate(32, rngs),
        Unit(32, 8, (1, 1), rngs, activation=lambda x: x),
    )
    return Chain(
        Unit(3, 8, (3, 3), rngs, strides=2),
        Sum(body),
        Unit(8, 16, (3, 3), rngs, strides=2),
        Head(16, 10, rngs),
    )


class Sum(nnx.Module):
    """x + f(x), not rectified."""

    def __init__(self, body):
        self.body = body

    def __call__(self, x):
        return x + self.body(x)


def convnext(rngs):
    """ConvNeXt in small."""
    patches = nnx.Conv(3, 8, (4, 4), strides=4, padding="VALID", rngs=rngs)
    return Chain(
        patches,
        nnx.LayerNorm(8, rngs=rngs),
        ConvNextBlock(8, rngs),
        ConvNextBlock(8, rngs),
        Head(8, 10, rngs),
    )


def dense(rngs):
    """DenseNet in small."""
    return Chain(
        Unit(3, 8, (3, 3), rngs, strides=2), Dense(8, 4, rngs), Dense(12, 4, rngs), Unit(16, 8, (1, 1), rngs),
        average, Dense(8, 4, rngs), Head(12, 10, rngs),
    )  # fmt: skip


def signal(rngs):
    """1-D convolutions over two leads."""
    return Chain(
        Unit(2, 8, (5,), rngs, strides=2),
        Unit(8, 16, (5,), rngs, strides=2),
        Unit(16, 16, (3,), rngs),
        Head(16, 5, rngs),
    )


NETWORKS = {
    "residual": (residual, (32, 32, 3)),
    "inverted_residual": (inverted_residual, (32, 32, 3)),
    "convnext": (convnext, (32, 32, 3)),
    "dense": (dense, (32, 32, 3)),
    "signal": (signal, (256, 2)),
}


def make(name: str) -> nnx.Module:
    """The network with seeded weights and settled running statistics, in evaluation mode."""
    build, shape = NETWORKS[name]
    seed = sorted(NETWORKS).index(name)
    network = build(nnx.Rngs(seed))
    step = nnx.jit(lambda net, x: net(x))
    for key in jax.random.split(jax.random.key(seed), 100):
        step(network, jax.random.normal(key, (8, *shape)))
    network.eval()
    return network
