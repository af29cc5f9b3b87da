"""Networks whose blocks have several branches: inception, dense, split attention, NASNet; and ConvNeXt."""

from __future__ import annotations

import torch
from torch import nn

from frameworks.pytorch.residual import classifier, conv, unit


class Inception(nn.Module):
    """1x1, 3x3, 5x5 and pooling side by side."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.one = unit(inside, 4, 1)
        self.three = nn.Sequential(unit(inside, 4, 1), unit(4, 6, 3))
        self.five = nn.Sequential(unit(inside, 2, 1), unit(2, 4, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(inside, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pooled(x)), dim=1)


class DenseLayer(nn.Module):
    """New features from all that came before."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), conv(inside, growth, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, self.body(x)), dim=1)


class SplitAttention(nn.Module):
    """ResNeSt: two groups of features, mixed by a softmax over the groups."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = unit(channels, 2 * channels, 3, groups=2)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels // 2, 1), nn.ReLU(),
            nn.Conv2d(channels // 2, 2 * channels, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = self.features(x)
        n, c, h, w = both.shape
        both = both.view(n, 2, c // 2, h, w)
        weights = torch.softmax(self.weigh(both.sum(dim=1)).view(n, 2, c // 2, 1, 1), dim=1)
        return torch.relu(x + (both * weights).sum(dim=1))


class Separable(nn.Module):
    """NASNet's ReLU, depthwise, pointwise, normalisation."""

    def __init__(self, inside: int, outside: int, size: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            conv(inside, inside, size, 1, inside),
            conv(inside, outside, 1),
            nn.BatchNorm2d(outside),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class NasCell(nn.Module):
    """A NASNet cell: it reads the two cells before it and joins sums of pairs of operations."""

    def __init__(self, older: int, inside: int, width: int) -> None:
        super().__init__()
        self.older = nn.Sequential(nn.ReLU(), conv(older, width, 1), nn.BatchNorm2d(width))
        self.inside = nn.Sequential(nn.ReLU(), conv(inside, width, 1), nn.BatchNorm2d(width))
        self.left, self.right = Separable(width, width, 3), Separable(width, width, 5)
        self.average, self.largest = nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.MaxPool2d(3, 1, 1)

    def forward(self, older: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        p, h = self.older(older), self.inside(x)
        return torch.cat((self.left(h) + self.right(p), self.average(h) + p, self.largest(p) + h), dim=1)


class NasNet(nn.Module):
    """A stem and two NASNet cells."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 3, 2), nn.BatchNorm2d(8))
        self.first, self.second = NasCell(8, 8, 4), NasCell(8, 12, 4)
        self.head = nn.Sequential(nn.ReLU(), classifier(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        first = self.first(stem, stem)
        return self.head(self.second(stem, first))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, and two linear layers with GELU between them, channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.body = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.scale = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.body(changed)).permute(0, 3, 1, 2)


def inception() -> nn.Module:
    """GoogLeNet in small."""
    return nn.Sequential(
        unit(3, 8, 3, 2), Inception(8), nn.MaxPool2d(3, 2, ceil_mode=True), Inception(18), classifier(18)
    )


def dense() -> nn.Module:
    """DenseNet in small: two dense blocks with a transition between them."""
    transition = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), conv(16, 8, 1), nn.AvgPool2d(2))
    end = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(
        unit(3, 8, 3, 2), DenseLayer(8, 4), DenseLayer(12, 4), transition,
        DenseLayer(8, 4), DenseLayer(12, 4), end, classifier(16),
    )  # fmt: skip


def split_attention() -> nn.Module:
    """ResNeSt in small."""
    return nn.Sequential(
        unit(3, 8, 3, 2), SplitAttention(8), unit(8, 12, 3, 2), SplitAttention(12), classifier(12)
    )


def nasnet() -> nn.Module:
    """NASNet-A in small."""
    return NasNet()


def convnext() -> nn.Module:
    """ConvNeXt in small: patches, two stages, LayerNorm behind the pooling."""
    stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), ChannelNorm(8))
    down = nn.Sequential(ChannelNorm(8), nn.Conv2d(8, 16, 2, 2))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 10))
    return nn.Sequential(stem, ConvNextBlock(8), down, ConvNextBlock(16), head)
