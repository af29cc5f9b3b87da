"""Faithfulness of maps on a user's own model, beside controls and the methods people would use instead."""

from naflow_core.evaluate import rivals
from naflow_core.evaluate.evaluation import METHODS, Evaluation
from naflow_core.evaluate.metrics import METRICS, Metric
from naflow_core.evaluate.picture import Picture
from naflow_core.evaluate.statistics import Difference, Estimate, difference, estimate
from naflow_core.evaluate.subject import Subject
from naflow_core.evaluate.summary import FLOW, Row

__all__ = [
    "FLOW",
    "METHODS",
    "METRICS",
    "Difference",
    "Estimate",
    "Evaluation",
    "Metric",
    "Picture",
    "Row",
    "Subject",
    "difference",
    "estimate",
    "rivals",
]
