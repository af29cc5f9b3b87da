"""Networks for small devices: depthwise convolutions, gates, channel shuffle, cheap features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from frameworks.pytorch.residual import classifier, conv, unit


class Gate(nn.Module):
    """Squeeze-and-excitation: channels weighed by a small network on their means."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            activation(),
            nn.Conv2d(channels // 4, channels, 1),
        )
        self.limit: nn.Module = nn.Hardsigmoid() if activation is nn.ReLU else nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.limit(self.weigh(x))


class Inverted(nn.Module):
    """Inverted residual: widen, depthwise, gate, narrow without activation."""

    def __init__(
        self,
        inside: int,
        outside: int,
        stride: int,
        activation: Callable[[], nn.Module] = nn.ReLU6,
        gate: nn.Module | None = None,
        size: int = 3,
    ) -> None:
        super().__init__()
        wide = 4 * inside
        self.skips = stride == 1 and inside == outside
        self.body = nn.Sequential(
            conv(inside, wide, 1), nn.BatchNorm2d(wide), activation(),
            conv(wide, wide, size, stride, wide), nn.BatchNorm2d(wide), activation(),
            gate or nn.Identity(),
            conv(wide, outside, 1), nn.BatchNorm2d(outside),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.skips else self.body(x)


class UniversalInverted(nn.Module):
    """MobileNetV4's block: depthwise before widening, and again on the wide tensor."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        wide = 3 * channels
        self.body = nn.Sequential(
            conv(channels, channels, size, 1, channels), nn.BatchNorm2d(channels),
            unit(channels, wide, 1), unit(wide, wide, size, 1, wide),
            conv(wide, channels, 1), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.body(x)


class Shuffle(nn.Module):
    """ShuffleNet v2: half the channels pass, half are convolved, then the halves are mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            unit(half, half, 1), conv(half, half, 3, 1, half), nn.BatchNorm2d(half), unit(half, half, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = x.chunk(2, dim=1)
        joined = torch.cat((kept, self.body(changed)), dim=1)
        n, c, h, w = joined.shape
        return joined.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Ghost(nn.Module):
    """GhostNet: half the features by convolution, the other half cheaply from the first."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.first = unit(inside, half, 1)
        self.cheap = unit(half, half, 3, 1, half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        return torch.cat((first, self.cheap(first)), dim=1)


def depthwise_separable() -> nn.Module:
    """MobileNet v1 in small."""
    return nn.Sequential(
        unit(3, 8, 3, 2), unit(8, 8, 3, 1, 8), unit(8, 16, 1), unit(16, 16, 3, 2, 16), unit(16, 24, 1),
        classifier(24),
    )  # fmt: skip


def inverted_residual() -> nn.Module:
    """MobileNet v2 with squeeze-and-excitation, in small."""
    return nn.Sequential(
        unit(3, 8, 3, 2),
        Inverted(8, 8, 1, gate=Gate(32)),
        Inverted(8, 12, 2),
        unit(12, 24, 1),
        classifier(24),
    )


def efficientnet() -> nn.Module:
    """EfficientNet in small: SiLU everywhere, gates with a sigmoid."""
    stem = nn.Sequential(conv(3, 8, 3, 2), nn.BatchNorm2d(8), nn.SiLU())
    end = nn.Sequential(conv(12, 24, 1), nn.BatchNorm2d(24), nn.SiLU())
    return nn.Sequential(
        stem,
        Inverted(8, 8, 1, nn.SiLU, Gate(32, nn.SiLU)),
        Inverted(8, 12, 2, nn.SiLU, Gate(32, nn.SiLU), 5),
        end,
        classifier(24),
    )


def mobilenet_v3() -> nn.Module:
    """MobileNet v3 in small: hard swish, hard sigmoid gates, a hidden layer in the classifier."""
    stem = nn.Sequential(conv(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Hardswish())
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 32),
        nn.Hardswish(),
        nn.Dropout(0.2),
        nn.Linear(32, 10),
    )
    return nn.Sequential(
        stem, Inverted(8, 8, 1, nn.ReLU, Gate(32)), Inverted(8, 12, 2, nn.Hardswish, Gate(32), 5), head
    )


def mobilenet_v4() -> nn.Module:
    """MobileNet v4 in small."""
    return nn.Sequential(
        unit(3, 8, 3, 2),
        unit(8, 12, 3, 2),
        UniversalInverted(12, 3),
        UniversalInverted(12, 5),
        classifier(12),
    )


def channel_shuffle() -> nn.Module:
    """ShuffleNet v2 in small."""
    return nn.Sequential(
        unit(3, 8, 3, 2), nn.MaxPool2d(3, 2, 1), Shuffle(8), Shuffle(8), unit(8, 16, 1), classifier(16)
    )


def ghost() -> nn.Module:
    """GhostNet in small."""
    return nn.Sequential(
        unit(3, 8, 3, 2), Ghost(8, 16), unit(16, 16, 3, 2, 16), Ghost(16, 24), classifier(24)
    )
