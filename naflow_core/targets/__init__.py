"""What scalar is explained, and its coefficients at the top feature map."""

from naflow_core.targets import metrics
from naflow_core.targets.banks import Bank
from naflow_core.targets.classes import ClassTarget, PerPicture
from naflow_core.targets.labels import Labels
from naflow_core.targets.prototypes import PrototypeTarget
from naflow_core.targets.similarity import SimilarityTarget
from naflow_core.targets.voting import BankTarget

__all__ = [
    "Bank",
    "BankTarget",
    "ClassTarget",
    "Labels",
    "PerPicture",
    "PrototypeTarget",
    "SimilarityTarget",
    "metrics",
]
