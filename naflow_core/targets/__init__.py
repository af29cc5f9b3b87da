"""What scalar is explained, and its coefficients at the top feature map."""

from naflow_core.targets.classes import ClassTarget, PerPicture
from naflow_core.targets.labels import Labels

__all__ = ["ClassTarget", "Labels", "PerPicture"]
