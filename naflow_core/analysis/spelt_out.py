"""Normalisations that an exporter spelt out: mean, difference, variance, root and quotient, node by node.

With its statistics held at their forward value a normalisation is affine element by element, and is inverted
as the LayerNormalization, InstanceNormalization or GroupNormalization that it stands for. What tells it from
other composites of a reduction and a product, such as squeeze-and-excitation: the statistics are only
computed with, they meet no trained layer and no activation.
"""

from __future__ import annotations

from collections.abc import Sequence

from naflow_core.inverse.affine import STATISTICS
from naflow_core.model.program import Program, Step

LINEAR = frozenset({"Add", "Sub", "Sum", "Neg", "Identity", "Cast", "Dropout"})
REARRANGING = frozenset(
    {"Expand", "Flatten", "Gather", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
ARITHMETIC = LINEAR | {"Abs", "Clip", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Reciprocal", "Sqrt"}


def is_normalisation(program: Program, steps: Sequence[Step], source: str, target: str) -> bool:
    """Whether the steps from `source` to `target` are affine element by element, their statistics held."""
    known = STATISTICS | ARITHMETIC | REARRANGING
    if any(step.node.domain or step.node.op_type not in known for step in steps):
        return False
    direct = {source}  # what depends on the source otherwise than through a statistic
    for step in steps:
        if step.node.op_type not in STATISTICS and direct.intersection(_names(step)):
            direct.update(step.outputs)
    if target not in direct or all(set(step.outputs) <= direct for step in steps):
        return False
    wanted = {target}
    for step in reversed(steps):
        if wanted.isdisjoint(step.outputs):
            continue
        inputs = [name for name in _names(step) if name in direct]
        if program.shapes[step.outputs[0]] != program.shapes[source] or not _affine(step, inputs):
            return False
        wanted.update(inputs)
    return True


def _names(step: Step) -> list[str]:
    return [name for name in step.sources if isinstance(name, str)]


def _affine(step: Step, inputs: Sequence[str]) -> bool:
    """Whether the step is affine in these of its inputs together, all others held."""
    if step.node.op_type == "Div":
        return list(inputs) == [step.sources[0]]
    return step.node.op_type in LINEAR or (step.node.op_type == "Mul" and len(inputs) == 1)
