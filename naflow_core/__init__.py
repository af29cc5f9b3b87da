"""NAFlow: layer-by-layer attention flows for CNNs, straight from an ONNX file."""

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
