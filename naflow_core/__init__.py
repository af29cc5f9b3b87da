"""NAFlow: layer-by-layer attention flows for CNNs, straight from an ONNX file.

Names are imported on first use: JAX takes most of a second, and what only reads a file does without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from naflow_core import evaluate, inverse, ops
    from naflow_core.ahead import drop_programs
    from naflow_core.analysis.report import CoverageReport
    from naflow_core.errors import (
        AnalysisError,
        InputError,
        ModelError,
        NaflowError,
        NumericalError,
        OptionError,
        Refusal,
        TargetError,
        UnsupportedNode,
        UnsupportedOperatorError,
    )
    from naflow_core.explainer import Model, load
    from naflow_core.explanation import Explanation, Step
    from naflow_core.flow import Flow, LayerDiagnostics, Neighbour, Prediction, Result, Similarity
    from naflow_core.method import PRESETS, QUALITIES, Abandonment, Method
    from naflow_core.model.source import Limits
    from naflow_core.pairs import Pair, explain_pair, point_to_point
    from naflow_core.targets import (
        Bank,
        BankTarget,
        ClassTarget,
        Labels,
        PerPicture,
        PrototypeTarget,
        SimilarityTarget,
        metrics,
    )

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "QUALITIES",
    "Abandonment",
    "AnalysisError",
    "Bank",
    "BankTarget",
    "ClassTarget",
    "CoverageReport",
    "Explanation",
    "Flow",
    "InputError",
    "Labels",
    "LayerDiagnostics",
    "Limits",
    "Method",
    "Model",
    "ModelError",
    "NaflowError",
    "Neighbour",
    "NumericalError",
    "OptionError",
    "Pair",
    "PerPicture",
    "Prediction",
    "PrototypeTarget",
    "Refusal",
    "Result",
    "Similarity",
    "SimilarityTarget",
    "Step",
    "TargetError",
    "UnsupportedNode",
    "UnsupportedOperatorError",
    "__version__",
    "drop_programs",
    "evaluate",
    "explain_pair",
    "inverse",
    "load",
    "metrics",
    "ops",
    "point_to_point",
]

_HOMES = (
    "errors",
    "method",
    "flow",
    "model.source",
    "targets",
    "analysis.report",
    "explanation",
    "explainer",
    "pairs",
    "ahead",
)
"""Where the names are, from light to heavy."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("evaluate", "inverse", "ops"):
        value = import_module(f"naflow_core.{name}")
    else:
        homes = (import_module(f"naflow_core.{home}") for home in _HOMES)
        value = next(vars(home)[name] for home in homes if name in vars(home))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
