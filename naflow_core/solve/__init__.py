"""Least-squares solvers. A leaf: knows nothing of ONNX or of the cascade."""

from naflow_core.solve.cells import least_squares_by_cells
from naflow_core.solve.least_squares import (
    Solution,
    Stopping,
    View,
    bounded_least_squares,
    least_squares,
)

__all__ = ["Solution", "Stopping", "View", "bounded_least_squares", "least_squares", "least_squares_by_cells"]
