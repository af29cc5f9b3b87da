"""Networks of residual blocks: plain, bottleneck, pre-activation, grouped."""

from __future__ import annotations

import torch
from torch import nn


def conv(inside: int, outside: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size (divided by the stride)."""
    return nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False)


def unit(inside: int, outside: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(conv(inside, outside, size, stride, groups), nn.BatchNorm2d(outside), nn.ReLU())


def classifier(channels: int, classes: int = 10) -> nn.Sequential:
    """Global average pooling and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Residual(nn.Module):
    """x + f(x), with a projection where shapes differ, and ReLU behind the addition."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def projection(inside: int, outside: int, stride: int) -> nn.Sequential:
    """1x1 convolution and normalisation on the skip connection."""
    return nn.Sequential(conv(inside, outside, 1, stride), nn.BatchNorm2d(outside))


def basic(inside: int, outside: int, stride: int = 1) -> Residual:
    """Two 3x3 convolutions, as in ResNet-18."""
    body = nn.Sequential(unit(inside, outside, 3, stride), conv(outside, outside, 3), nn.BatchNorm2d(outside))
    return Residual(body, projection(inside, outside, stride) if stride > 1 or inside != outside else None)


def bottleneck(inside: int, width: int, outside: int, stride: int = 1, groups: int = 1) -> Residual:
    """1x1, 3x3, 1x1, as in ResNet-50; with groups, as in ResNeXt and RegNet."""
    body = nn.Sequential(
        unit(inside, width, 1),
        unit(width, width, 3, stride, groups),
        conv(width, outside, 1),
        nn.BatchNorm2d(outside),
    )
    return Residual(body, projection(inside, outside, stride) if stride > 1 or inside != outside else None)


class PreActivation(nn.Module):
    """Normalisation and ReLU before each convolution; the sum itself is not rectified."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU())
        self.body = nn.Sequential(
            conv(inside, outside, 3, stride), nn.BatchNorm2d(outside), nn.ReLU(), conv(outside, outside, 3)
        )
        self.shortcut = conv(inside, outside, 1, stride) if stride > 1 or inside != outside else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rectified = self.first(x)
        return self.body(rectified) + (x if self.shortcut is None else self.shortcut(rectified))


def residual() -> nn.Module:
    """ResNet-18 in small: 7x7 stem, max pooling, basic blocks."""
    stem = nn.Sequential(unit(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(stem, basic(8, 8), basic(8, 16, 2), classifier(16))


def bottlenecks() -> nn.Module:
    """ResNet-50 in small."""
    return nn.Sequential(unit(3, 8, 3), bottleneck(8, 4, 16), bottleneck(16, 8, 24, 2), classifier(24))


def pre_activation() -> nn.Module:
    """ResNet v2 in small."""
    end = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(conv(3, 8, 3), PreActivation(8, 8, 1), PreActivation(8, 16, 2), end, classifier(16))


def regnet() -> nn.Module:
    """RegNet in small: grouped bottlenecks without a bottleneck, stages that widen."""
    return nn.Sequential(
        unit(3, 8, 3, 2), bottleneck(8, 8, 8, groups=2), bottleneck(8, 16, 16, 2, groups=4), classifier(16)
    )
