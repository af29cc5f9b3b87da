"""The self-contained HTML report."""

from naflow_client.report.document import render_report, write_report
from naflow_client.report.model import (
    Compared,
    Comparison,
    LayerReport,
    PictureReport,
    Prediction,
    Report,
)

__all__ = [
    "Compared",
    "Comparison",
    "LayerReport",
    "PictureReport",
    "Prediction",
    "Report",
    "render_report",
    "write_report",
]
