"""The self-contained HTML report."""

from naflow_client.report.document import render_report, write_report
from naflow_client.report.model import LayerReport, PictureReport, Prediction, Report

__all__ = ["LayerReport", "PictureReport", "Prediction", "Report", "render_report", "write_report"]
