"""Measures of maps, each in the table `METRICS` with its direction and whether it measures faithfulness."""

from naflow_core.evaluate.metrics import cells, removal, sanity, shape, stability
from naflow_core.evaluate.metrics.registry import METRICS, Metric, Metrics, Outcome, Sample, Shown

__all__ = [
    "METRICS",
    "Metric",
    "Metrics",
    "Outcome",
    "Sample",
    "Shown",
    "cells",
    "removal",
    "sanity",
    "shape",
    "stability",
]
