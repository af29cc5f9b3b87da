"""Networks written with PaddlePaddle."""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import nn


def unit(
    inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1, act=nn.ReLU
) -> nn.Sequential:
    """Convolution, normalisation, activation."""
    conv = nn.Conv2D(inside, outside, size, stride, size // 2, groups=groups, bias_attr=False)
    return nn.Sequential(conv, nn.BatchNorm2D(outside), act())


def classifier(channels: int, classes: int = 10) -> nn.Sequential:
    """Global average pooling, a linear layer and softmax."""
    return nn.Sequential(nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(channels, classes), nn.Softmax())


class Residual(nn.Layer):
    """x + f(x), then an activation."""

    def __init__(self, body: nn.Layer, end: nn.Layer) -> None:
        super().__init__()
        self.body, self.end = body, end

    def forward(self, x):
        return self.end(x + self.body(x))


class Gate(nn.Layer):
    """Squeeze-and-excitation with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2D(1), nn.Conv2D(channels, channels // 4, 1), nn.ReLU(),
            nn.Conv2D(channels // 4, channels, 1), nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x):
        return x * self.weigh(x)


class Shuffle(nn.Layer):
    """Grouped convolutions with a channel shuffle between them."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            unit(channels, channels, 1, groups=groups),
            Mix(channels, groups),
            unit(channels, channels, 3, groups=channels, act=nn.Identity),
            unit(channels, channels, 1, groups=groups, act=nn.Identity),
        )

    def forward(self, x):
        return nn.functional.relu(x + self.body(x))


class Mix(nn.Layer):
    """Channel shuffle, spelled out: paddle2onnx knows no nn.ChannelShuffle."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.channels, self.groups = channels, groups

    def forward(self, x):
        height, width = x.shape[2:]
        split = x.reshape([-1, self.groups, self.channels // self.groups, height, width])
        return split.transpose([0, 2, 1, 3, 4]).reshape([-1, self.channels, height, width])


class Dense(nn.Layer):
    """New features beside the old ones."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        self.unit = unit(inside, growth)

    def forward(self, x):
        return paddle.concat([x, self.unit(x)], axis=1)


def residual() -> nn.Layer:
    """ResNet in small, with the average pooling of ResNet-vd."""
    body = nn.Sequential(unit(8, 8), unit(8, 8, act=nn.Identity))
    return nn.Sequential(
        unit(3, 8, stride=2),
        Residual(body, nn.ReLU()),
        nn.AvgPool2D(2, 2, ceil_mode=True),
        unit(8, 16),
        classifier(16),
    )


def mobilenet_v3() -> nn.Layer:
    """MobileNet v3 in small."""
    body = nn.Sequential(
        unit(8, 24, 1, act=nn.Hardswish), unit(24, 24, 5, groups=24, act=nn.Hardswish), Gate(24),
        unit(24, 8, 1, act=nn.Identity),
    )  # fmt: skip
    return nn.Sequential(
        unit(3, 8, stride=2, act=nn.Hardswish),
        Residual(body, nn.Identity()),
        unit(8, 16, act=nn.Hardswish),
        classifier(16),
    )


def channel_shuffle() -> nn.Layer:
    """ShuffleNet v1 in small."""
    return nn.Sequential(
        unit(3, 8, stride=2), nn.MaxPool2D(3, 2, 1), Shuffle(8, 2), unit(8, 16, 1), classifier(16)
    )


def dense() -> nn.Layer:
    """DenseNet in small."""
    return nn.Sequential(
        unit(3, 8, stride=2), Dense(8, 4), Dense(12, 4), unit(16, 8, 1), nn.AvgPool2D(2), classifier(8)
    )


def signal() -> nn.Layer:
    """1-D convolutions over two leads."""
    return nn.Sequential(
        nn.Conv1D(2, 8, 5, 2, 2), nn.BatchNorm1D(8), nn.ReLU(), nn.MaxPool1D(2), nn.Conv1D(8, 16, 5, 1, 2),
        nn.BatchNorm1D(16), nn.Swish(), nn.AdaptiveAvgPool1D(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Layer], tuple[int, ...]]] = {
    "residual": (residual, (3, 32, 32)),
    "mobilenet_v3": (mobilenet_v3, (3, 32, 32)),
    "channel_shuffle": (channel_shuffle, (3, 32, 32)),
    "dense": (dense, (3, 32, 32)),
    "signal": (signal, (2, 256)),
}


def make(name: str) -> nn.Layer:
    """The network with seeded weights and settled running statistics, in evaluation mode."""
    build, shape = NETWORKS[name]
    paddle.seed(sorted(NETWORKS).index(name))
    network = build()
    network.train()
    with paddle.no_grad():
        for _ in range(50):
            network(paddle.randn([8, *shape]))
    network.eval()
    return network
