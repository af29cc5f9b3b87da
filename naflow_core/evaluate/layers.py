"""The tensors at which methods are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from naflow_core.analysis.plan import Plan
from naflow_core.evaluate.picture import Axes
from naflow_core.ops.registry import REALS


@dataclass(frozen=True, slots=True)
class SpineTensor:
    """A tensor that every path from the input to the scores passes through, and that has a map.

    Attributes:
        name: ONNX tensor name.
        shape: without the batch axis.
        axes: where height and width are.
        ends_block: what follows looks at other positions or channels.
        signed: its values may be negative.
    """

    name: str
    shape: tuple[int, ...]
    axes: Axes
    ends_block: bool
    signed: bool

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width."""
        return self.axes.size((1, *self.shape))


def spine_tensors(plan: Plan) -> Iterator[SpineTensor]:
    """Tensors of the spine with height and width that the scores depend on alone: nothing behind them reads
    what lies before them, so that a value of one tells the scores."""
    program, blocks = plan.program, plan.blocks()
    for name in plan.spine:
        shape, spatial = program.shapes[name], plan.layouts.get(name, ())
        if len(spatial) != 2:
            continue
        _, operands = program.extract(name, (plan.head.scores,))
        if not any(program.is_dynamic(operand) for operand in operands):
            signed = program.ranges.get(name, REALS)[0] < 0
            axes = Axes.of(name, len(shape), spatial)
            yield SpineTensor(name, shape[1:], axes, name in blocks, signed)
