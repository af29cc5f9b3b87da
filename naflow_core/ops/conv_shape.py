"""The shapes at either end of a convolution."""

from __future__ import annotations

from dataclasses import dataclass

from naflow_core.ops.window import WindowGeometry


@dataclass(frozen=True, slots=True)
class ConvShape:
    """What both directions of one convolution need: geometry and the spatial shapes at either end."""

    geometry: WindowGeometry
    spatial: tuple[int, ...]
    output: tuple[int, ...]
    group: int

    @property
    def high(self) -> list[int]:
        """End padding that makes exactly `output` windows; negative where the stride leaves cells over."""
        g = self.geometry
        sizes = zip(self.output, g.strides, g.reach, self.spatial, g.pads_lo, strict=True)
        return [(m - 1) * s + e - n - lo for m, s, e, n, lo in sizes]

    @property
    def keeps_size(self) -> bool:
        """Whether there is a window for each cell, one cell apart."""
        return set(self.geometry.strides) == {1} and self.output == self.spatial

    @property
    def is_pointwise(self) -> bool:
        """Whether every output is made of the channels of one cell."""
        g = self.geometry
        return set(g.kernel) == {1} and not any(g.pads_lo) and max(self.high) <= 0
