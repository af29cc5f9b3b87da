"""From values per picture to a table: means with intervals, paired tests, and who wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naflow_core.evaluate.metrics import Metric
from naflow_core.evaluate.statistics import difference, estimate

FLOW = "whole flow"
"""Stands for all evaluated layers together: each picture's mean over them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One value.

    Attributes:
        picture: its name.
        layer: tensor name.
        method, metric: names.
        value: None where the measure does not apply.
        curve: points behind it.
    """

    picture: str
    layer: str
    method: str
    metric: str
    value: float | None
    curve: tuple[tuple[float, float], ...] = ()


Cell = tuple[str, str, str]


@dataclass
class Values:
    """All values by (measure, layer, method), then by picture."""

    by_cell: dict[Cell, dict[str, float]]
    curves: dict[Cell, list[tuple[tuple[float, float], ...]]]

    @classmethod
    def of(cls, rows: Iterable[Row], layers: Sequence[str]) -> Values:
        """From rows in any order; adds the mean over all layers as layer `FLOW` where every layer has one."""
        by_cell: dict[Cell, dict[str, float]] = {}
        curves: dict[Cell, list[tuple[tuple[float, float], ...]]] = {}
        for row in rows:
            if row.value is None:
                continue
            cell = row.metric, row.layer, row.method
            by_cell.setdefault(cell, {})[row.picture] = row.value
            if row.curve:
                curves.setdefault(cell, []).append(row.curve)
        for metric, method in dict.fromkeys((m, x) for m, _, x in by_cell):
            parts = [by_cell.get((metric, layer, method), {}) for layer in layers]
            shared = [p for p in parts[0] if all(p in part for part in parts)]
            if shared:
                whole = {p: float(np.mean([part[p] for part in parts])) for p in shared}
                by_cell[metric, FLOW, method] = whole
        return cls(by_cell, curves)


def summarised(
    values: Values,
    metrics: Sequence[Metric],
    layers: Sequence[str],
    methods: Sequence[str],
    against: str,
    seed: int,
) -> list[dict[str, Any]]:
    """One entry per measure, layer (`FLOW` last) and method that has values.

    Each has "mean", "low", "high" (95 %), "count", "curve" (mean over pictures), and "difference": the method
    `against` minus this one, paired, with its interval and p-value; None for `against` itself.
    """
    found = []
    for metric in metrics:
        for layer in (*layers, FLOW):
            first = values.by_cell.get((metric.name, layer, against), {})
            for method in methods:
                cell = metric.name, layer, method
                own = values.by_cell.get(cell)
                if not own:
                    continue
                names = sorted(own)
                both = [name for name in names if name in first]
                compared = None
                if method != against and both:
                    a, b = (np.array([part[name] for name in both]) for part in (first, own))
                    gap = difference(a, b, seed)
                    compared = {"mean": gap.mean, "low": gap.low, "high": gap.high, "p": gap.p}
                whole = estimate(np.array([own[name] for name in names]), seed)
                found.append(
                    {
                        "metric": metric.name,
                        "layer": layer,
                        "method": method,
                        "mean": whole.mean,
                        "low": whole.low,
                        "high": whole.high,
                        "count": whole.count,
                        "difference": compared,
                        "curve": _mean_curve(values.curves.get(cell, [])),
                    }
                )
    return found


def _mean_curve(curves: Sequence[tuple[tuple[float, float], ...]]) -> list[list[float]]:
    """Pictures' curves share their places."""
    if not curves:
        return []
    mean = np.mean([[y for _, y in sorted(curve)] for curve in curves], axis=0)
    return [[x, float(y)] for (x, _), y in zip(sorted(curves[0]), mean, strict=True)]


def best(
    entries: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], controls: Sequence[str]
) -> list[dict[str, Any]]:
    """Per measure with a direction and layer: the best method, and whether that is a control.

    Nothing where all methods are equal.
    """
    found = []
    for metric in metrics:
        if metric.better == "neither" or metric.stability:
            continue
        sign = 1 if metric.better == "higher" else -1
        for layer in dict.fromkeys(entry["layer"] for entry in entries):
            here = [e for e in entries if (e["metric"], e["layer"]) == (metric.name, layer)]
            means = {e["mean"] for e in here}
            if len(means) > 1 or len(here) == 1:
                winner = max(here, key=lambda e: sign * e["mean"])["method"]
                found.append(
                    {
                        "metric": metric.name,
                        "layer": layer,
                        "method": winner,
                        "control": winner in controls,
                        "faithfulness": metric.faithfulness,
                    }
                )
    return found
