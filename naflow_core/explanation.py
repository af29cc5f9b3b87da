"""One explanation in progress: forward pass, target, and the cascade that is drawn from it flow by flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from naflow_core import cascade
from naflow_core.ahead import AheadOfTime
from naflow_core.analysis.plan import Plan
from naflow_core.errors import NumericalError, TargetError
from naflow_core.flow import Flow, LayerDiagnostics, Prediction, Result, ranking
from naflow_core.method import Method
from naflow_core.model.program import evaluate
from naflow_core.targets import ClassTarget

Array = Any


@dataclass
class Chunk:
    """Pictures that go through the cascade together.

    Attributes:
        plan: for this number of pictures.
        inputs: all graph inputs, on the device.
        values: forward value of every tensor the cascade reads; filled by the forward pass.
    """

    plan: Plan
    inputs: Mapping[str, Array]
    values: dict[str, Array] = field(default_factory=dict)
    top_coefficients: Array = None


class Explanation(Iterator[Flow]):
    """Iterator over layer flows, deepest first; see `Model.explain`.

    Attributes:
        prediction: what the model says, and what is explained.
        layers: tensor names that will come, nearest to the input first; a flow's `index` counts in this
            order.
        plan: the cascade.
        method: its options.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        plan: Plan,
        target: ClassTarget,
        method: Method,
        layers: str | Sequence[str],
    ) -> None:
        self.plan, self.method = plan, method
        self.layers = plan.layers(layers)
        wanted = set(self.layers)
        self._ahead = AheadOfTime(plan, method, wanted)
        try:
            self.prediction = _joined([_forward(chunk, target, wanted) for chunk in chunks])
        except BaseException:
            self._ahead.close()
            raise
        runs = [
            cascade.run(c.plan, method, c.values, c.top_coefficients, wanted, self._ahead.wait)
            for c in chunks
        ]
        self._layers = zip(*runs, strict=True)

    def __next__(self) -> Flow:
        """The next flow.

        Raises:
            NumericalError: a layer's map has nan or infinite values.
        """
        while True:
            try:
                layers = next(self._layers)
            except BaseException:
                self._ahead.close()
                raise
            if layers[0].tensor in self.layers:
                return self._flow(layers)

    def __del__(self) -> None:
        if hasattr(self, "_ahead"):
            self._ahead.close()

    def collect(self) -> Result:
        """All flows that are left, nearest to the input first."""
        return Result(tuple(sorted(self, key=lambda flow: flow.index)), self.prediction)

    def _flow(self, layers: Sequence[cascade.Layer]) -> Flow:
        tensor = layers[0].tensor
        maps = np.concatenate([np.asarray(layer.flow, np.float32) for layer in layers])
        if not np.isfinite(maps).all():
            raise NumericalError(
                f"the flow of layer {tensor!r} has nan or infinite values",
                hint="activations are out of float32's range here, or the solve broke down; try --damping",
            )
        program = self.plan.program
        step = program.steps[program.producer[tensor]] if tensor in program.producer else None
        segment = layers[0].segment
        joined = [
            np.concatenate([np.asarray(part) for part in values])
            for values in zip(*(layer.diagnostics for layer in layers), strict=True)
        ]
        fields = dict(zip(cascade.Diagnostics._fields, joined, strict=True))
        return Flow(
            self.layers.index(tensor),
            tensor,
            maps,
            LayerDiagnostics(
                node=step.node.name if step else "",
                op_type=step.node.op_type if step else "Input",
                shape=program.shapes[tensor],
                rule="start"
                if segment is None
                else segment.rule.name
                if self.method.inverse != "activation"
                else "activation",
                seconds=sum(layer.seconds for layer in layers),
                **fields,
            ),
        )


def _forward(chunk: Chunk, target: ClassTarget, wanted: set[str]) -> Prediction:
    """Run the model, keep what the cascade needs, and set the coefficients at the top."""
    plan = chunk.plan
    program, head = plan.program, plan.head
    head_program, head_operands = program.extract(plan.top, (head.scores,))
    segments = [part for s in plan.segments for part in (s, *plan.interior_for(s, wanted))]
    needed = {plan.top, head.scores, head.output, *head_operands}
    for segment in segments:
        needed.update((segment.source, segment.target, *segment.operands))
        if segment.activation:
            needed.add(segment.activation)
    names = [name for name in program.shapes if name in needed and name not in program.inputs]
    subprogram, operands = program.extract(plan.source, names, whole=True)
    tapped = evaluate(subprogram, chunk.inputs[plan.source], program.operands(operands, chunk.inputs))
    chunk.values = dict(zip(names, tapped, strict=True)) | dict(chunk.inputs)
    logits, scores = (
        _flat(chunk.values[name], name, head.is_feature_map) for name in (head.scores, head.output)
    )
    indices = target.indices(logits, ranking(scores, logits))
    score, chunk.top_coefficients = target.coefficients(
        head_program, chunk.values[plan.top], program.operands(head_operands, chunk.values), indices
    )
    return Prediction(head.output, scores, logits, head.squashed_by, indices, np.asarray(score))


def _flat(value: Array, name: str, is_feature_map: bool) -> np.ndarray:
    array = np.asarray(value)
    if is_feature_map:
        raise TargetError(
            f"output {name!r} is a feature map of shape {list(array.shape)}, not class scores",
            hint="explain a class score, or name another --output",
        )
    if not np.isfinite(array).all():
        raise NumericalError(
            f"tensor {name!r} has nan or infinite values for this input", hint="check preprocessing"
        )
    return array.reshape(array.shape[0], -1)


def _joined(parts: Sequence[Prediction]) -> Prediction:
    first = parts[0]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("scores", "logits", "target", "target_score")
    }
    return Prediction(output=first.output, squashed_by=first.squashed_by, **arrays)
