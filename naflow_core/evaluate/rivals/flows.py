"""The layer flows of this package, as one method among the others."""

from __future__ import annotations

import numpy as np

from naflow_core.evaluate.memory import digest
from naflow_core.evaluate.rivals.registry import REGISTRY, Rival, register
from naflow_core.evaluate.subject import Subject
from naflow_core.method import PRESETS, Method

NAFLOW = "Liao, Gao and Zhang, Neuron Abandoning Attention Flow, 2024"
DEFAULT = Method()


@register("naflow", runs=60, source=NAFLOW)
def naflow(
    subject: Subject,
    x: np.ndarray,
    classes: np.ndarray,
    layer: str,
    _random: np.random.Generator,
    *,
    method: Method = DEFAULT,
) -> np.ndarray:
    """The layer's flow. Those of all studied layers come from one cascade, and are kept for the next call.

    Args:
        method: its options.
    """
    names = subject.studied if layer in subject.studied else (layer,)

    key = ("naflow", method, names, digest(x, classes))
    return subject.memory.get(key, lambda: subject.flows(x, classes, names, method))[layer]


def variant(name: str, method: Method) -> Rival:
    """The flow with other options, under a name of its own."""
    return REGISTRY.find("naflow").configured(name, method=method)


for preset in ("net", "positive", "paper", "published-code"):
    REGISTRY.add(variant(preset, PRESETS[preset]))
