"""Our forward pass against onnxruntime, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from naflow_core.errors import ModelError
from naflow_core.model.load import LoadedModel

QUANTISED_ALLOWANCE = 1e-3


@dataclass(frozen=True, slots=True)
class TensorComparison:
    """One tensor: largest absolute difference, and that relative to the largest reference value.

    `off_by_more_than_one` is the share of elements that differ by more than one quantisation step; None for
    tensors that are not quantised.
    """

    tensor: str
    node: str
    max_abs_error: float
    max_rel_error: float
    off_by_more_than_one: float | None

    def within(self, tolerance: float) -> bool:
        """Relative error for float tensors; for quantised ones the share of elements off by more than a step."""
        if self.off_by_more_than_one is not None:
            return self.off_by_more_than_one <= QUANTISED_ALLOWANCE
        return self.max_rel_error <= tolerance


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of `Model.verify`."""

    tolerance: float
    tensors: tuple[TensorComparison, ...]

    @property
    def ok(self) -> bool:
        """True when every tensor is within the tolerance."""
        return all(t.within(self.tolerance) for t in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `naflow verify --json` prints them."""
        return {
            "ok": self.ok,
            "tolerance": self.tolerance,
            "max_rel_error": max((t.max_rel_error for t in self.tensors), default=0.0),
            "quantised_allowance": QUANTISED_ALLOWANCE,
            "tensors": [
                {
                    "tensor": t.tensor,
                    "node": t.node,
                    "max_abs_error": t.max_abs_error,
                    "max_rel_error": t.max_rel_error,
                    "off_by_more_than_one": t.off_by_more_than_one,
                    "ok": t.within(self.tolerance),
                }
                for t in self.tensors
            ],
        }


def run_onnxruntime(model: LoadedModel, inputs: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    """The named tensors as onnxruntime computes them on the CPU, graph optimisations off.

    Raises:
        ModelError: onnxruntime refuses the model or the input.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    try:
        session = onnxruntime.InferenceSession(
            model.serialized_with_outputs(names), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(list(names), dict(inputs)))
    except Exception as error:  # onnxruntime has no common base for its errors
        if isinstance(error, ModelError):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{model.source.name}: onnxruntime cannot run the model: {lines[0]}") from error


def compare(tensor: str, node: str, ours: np.ndarray, reference: np.ndarray, *, step: float | None) -> TensorComparison:
    """Compare one tensor; `step` is its quantisation step, None for plain float tensors."""
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    if a.shape != b.shape:
        return TensorComparison(tensor, node, float("inf"), float("inf"), None)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.where(same, 0.0, np.abs(np.where(same, 0.0, a) - np.where(same, 0.0, b)))
    difference = np.where(np.isnan(difference), np.inf, difference)
    largest = float(difference.max(initial=0.0))
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max(initial=0.0))
    relative = 0.0 if largest == 0 else largest / scale if scale > 0 else float("inf")
    off = None if step is None else float(np.mean(difference > 1.5 * step)) if a.size else 0.0
    return TensorComparison(tensor, node, largest, relative, off)
