"""Networks of other shapes: skips over scales, two inputs, two outputs, class maps, signals, volumes."""

from __future__ import annotations

import torch
from torch import nn

from frameworks.pytorch.residual import Residual, classifier, unit


class UNet(nn.Module):
    """Down and up again with skip connections, and a classifier on the last map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = unit(3, 8, 3), unit(8, 12, 3, 2), unit(12, 16, 3, 2)
        self.up = nn.ConvTranspose2d(16, 12, 2, 2)
        self.join = unit(24, 12, 3)
        self.resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.last = unit(20, 8, 3)
        self.head = classifier(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        second = self.second(first)
        joined = self.join(torch.cat((second, self.up(self.third(second))), dim=1))
        return self.head(self.last(torch.cat((first, self.resize(joined)), dim=1)))


class Siamese(nn.Module):
    """Two pictures through the same network; scores for same and different."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            unit(1, 8, 3), nn.MaxPool2d(2), unit(8, 16, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.compare = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.compare(torch.abs(self.features(first) - self.features(second)))


class TwoInputs(nn.Module):
    """A picture and a row of numbers about it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            unit(3, 8, 3, 2), unit(8, 16, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.numbers = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
        self.head = nn.Linear(24, 10)

    def forward(self, picture: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat((self.features(picture), self.numbers(numbers)), dim=1))


class TwoOutputs(nn.Module):
    """One body, two classifiers, one of them on an earlier layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = unit(3, 8, 3, 2), unit(8, 16, 3, 2)
        self.early, self.late = classifier(8, 4), classifier(16, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.first(x)
        return self.late(self.second(first)), self.early(first)


def unet() -> nn.Module:
    """A U-Net with a classifier."""
    return UNet()


def siamese() -> nn.Module:
    """Two pictures, shared weights."""
    return Siamese()


def two_inputs() -> nn.Module:
    """A picture and a vector."""
    return TwoInputs()


def two_outputs() -> nn.Module:
    """Two classifiers."""
    return TwoOutputs()


def class_map() -> nn.Module:
    """Fully convolutional: a 1x1 convolution makes a map per class, which is averaged."""
    return nn.Sequential(
        unit(3, 8, 3, 2), unit(8, 16, 3, 2), nn.Dropout(0.5), nn.Conv2d(16, 10, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def _signal_unit(inside: int, outside: int, stride: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(inside, outside, 5, stride, 2 * dilation, dilation),
        nn.BatchNorm1d(outside),
        nn.LeakyReLU(0.1),
    )


def signal() -> nn.Module:
    """Two leads of an electrocardiogram: dilated 1-D convolutions and a residual block."""
    block = Residual(nn.Sequential(_signal_unit(16, 16, 1, 2), nn.Conv1d(16, 16, 3, padding=1)))
    return nn.Sequential(
        _signal_unit(2, 8, 2, 1), nn.MaxPool1d(2), _signal_unit(8, 16, 1, 2), block,
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def volume() -> nn.Module:
    """A scan: 3-D convolutions and pooling."""
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(4, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.AvgPool3d(2),
        nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
