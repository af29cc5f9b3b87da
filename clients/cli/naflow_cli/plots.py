"""Bar charts and line charts as inline SVG: text, no script, colours from the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 420
NAME = 124
VALUE = 56
ROW = 20
HEIGHT = 220
MARGIN = 36


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval.

    Attributes:
        name: beside the bar.
        style: class of the style sheet.
        mean, low, high: the value and the ends of its interval.
    """

    name: str
    style: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: name, class of the style sheet, points (x, y)."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def bars(items: Sequence[Bar], title: str) -> str:
    """Horizontal bars from zero, intervals as thin lines."""
    low = min(0.0, *(item.low for item in items))
    high = max(0.0, *(item.high for item in items))
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return NAME + (value - low) / span * (WIDTH - NAME - VALUE)

    parts = [_text(0, 12, title, "plot-title")]
    for number, item in enumerate(items):
        top = 20 + number * ROW
        left, right = sorted((at(0), at(item.mean)))
        middle = top + ROW / 2 - 1
        parts += [
            _text(NAME - 6, middle + 4, item.name, "name"),
            f'<rect class="{item.style}" x="{left:.1f}" y="{top + 2}" width="{right - left:.1f}" '
            f'height="{ROW - 6}"/>',
            f'<path class="interval" d="M{at(item.low):.1f} {middle:.1f}H{at(item.high):.1f}"/>',
            _text(WIDTH - VALUE + 8, middle + 4, number_text(item.mean), "value"),
        ]
    height = 24 + len(items) * ROW
    parts.append(f'<path class="axis" d="M{at(0):.1f} 18V{height - 4}"/>')
    return _svg(WIDTH, height, title, parts)


def lines(items: Sequence[Line], title: str, x_name: str) -> str:
    """Curves over one axis."""
    xs = [x for item in items for x, _ in item.points]
    ys = [y for item in items for _, y in item.points]
    left, right = min(xs), max(xs)
    low, high = min(0.0, *ys), max(ys)
    width, height = (right - left) or 1.0, (high - low) or 1.0

    def place(point: tuple[float, float]) -> str:
        x = MARGIN + (point[0] - left) / width * (WIDTH - MARGIN - 8)
        y = HEIGHT - MARGIN - (point[1] - low) / height * (HEIGHT - MARGIN - 28)
        return f"{x:.1f} {y:.1f}"

    bottom = HEIGHT - MARGIN
    parts = [
        _text(0, 12, title, "plot-title"),
        f'<path class="axis" d="M{MARGIN} 24V{bottom}H{WIDTH - 8}"/>',
        _text(MARGIN - 4, 32, number_text(high), "name"),
        _text(MARGIN - 4, bottom, number_text(low), "name"),
        _text(MARGIN, bottom + 14, number_text(left), "value"),
        _text(WIDTH - 8, bottom + 14, number_text(right), "name"),
        _text((WIDTH + MARGIN) / 2, bottom + 14, x_name, "middle"),
    ]
    for item in items:
        path = "L".join(place(point) for point in item.points)
        parts.append(
            f'<path class="{item.style} curve" d="M{path}"><title>{html.escape(item.name)}</title></path>'
        )
    return _svg(WIDTH, HEIGHT, title, parts)


def number_text(value: float) -> str:
    """Three significant digits."""
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.1e}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:.{min(max(digits, 0), 3)}f}"


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
