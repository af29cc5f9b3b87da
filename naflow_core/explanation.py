"""One explanation in progress: forward pass, target, and the cascade that is drawn from it flow by flow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from naflow_core import cascade, single_pass
from naflow_core.ahead import AheadOfTime
from naflow_core.analysis.plan import Plan, Segment
from naflow_core.errors import NumericalError, TargetError
from naflow_core.flow import Flow, LayerDiagnostics, Prediction, Result, ranking
from naflow_core.method import Method
from naflow_core.model.program import evaluate
from naflow_core.records import Diagnostics, Layer
from naflow_core.targets import ClassTarget, PerPicture
from naflow_core.targets.aim import Aimed, joined, pull_back

Array = Any
NOT_FINITE = "activations are out of float32's range here, or the solve broke down; try --damping"


@dataclass
class Chunk:
    """Pictures that go through the cascade together.

    Attributes:
        plan: for this number of pictures.
        inputs: all graph inputs, on the device.
        values: forward value of every tensor the cascade reads; filled by the forward pass.
        names: the tensors among them that the forward pass computes.
    """

    plan: Plan
    inputs: Mapping[str, Array]
    values: dict[str, Array] = field(default_factory=dict)
    top_coefficients: Array = None
    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of pictures."""
        return int(self.inputs[self.plan.source].shape[0])


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the cascade.

    Attributes:
        tensor: where it arrived.
        flow: its map, None where none was asked for.
        finite: [N] which pictures' maps are free of nan and inf; empty without a map.
    """

    tensor: str
    flow: Flow | None
    finite: np.ndarray


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
        target: ClassTarget | PerPicture | Aimed,
        method: Method,
        layers: str | Sequence[str],
    ) -> None:
        self.plan, self.method = plan, method
        self._chunks = chunks
        self.layers = plan.layers(layers)
        wanted = set(self.layers)
        targets: Sequence[ClassTarget | PerPicture | Aimed] = target.parts([chunk.count for chunk in chunks])
        self._ahead = AheadOfTime(plan, method, wanted)
        try:
            begins = itertools.accumulate((chunk.count for chunk in chunks), initial=0)
            parts = [
                _forward(chunk, own, wanted, begin, method.inverse == "activation")
                for chunk, own, begin in zip(chunks, targets, begins, strict=False)
            ]
        except BaseException:
            self._ahead.close()
            raise
        self.prediction = _joined(parts)
        if method.inverse == "activation":
            runs = [single_pass.run(c.plan, method, c.values, c.top_coefficients, wanted) for c in chunks]
            self._later: dict[str, set[str]] = {plan.top: set()}  # by then all is computed
        else:
            overlap = jax.default_backend() != "cpu"  # there, copying and computing share the cores
            runs = [
                cascade.run(c.plan, method, c.values, c.top_coefficients, wanted, self._ahead.wait, overlap)
                for c in chunks
            ]
            self._later = _read_later(plan, wanted)
        self._reads_on = True
        self._steps = self._turns(zip(*runs, strict=True))

    def __next__(self) -> Flow:
        """The next flow.

        Raises:
            NumericalError: a layer's map has nan or infinite values.
        """
        while True:
            step = next(self._steps)
            if step.flow is not None:
                if not step.finite.all():
                    raise NumericalError(
                        f"the flow of layer {step.tensor!r} has nan or infinite values", hint=NOT_FINITE
                    )
                return step.flow

    def steps(self) -> Iterator[Step]:
        """What is left of the cascade, turn by turn: also the turns on the way to the next asked-for layer,
        and maps that are not finite. For callers that share one thread between explanations."""
        return self._steps

    def release(self) -> None:
        """Drop the activations of the forward pass while this explanation waits; the next turn computes them
        again (the same ones: flows do not change)."""
        for chunk in self._chunks:
            chunk.values.clear()

    def __del__(self) -> None:
        if hasattr(self, "_ahead"):
            self._ahead.close()

    def collect(self) -> Result:
        """All flows that are left, nearest to the input first."""
        return Result(tuple(sorted(self, key=lambda flow: flow.index)), self.prediction)

    def _drop_after(self, tensor: str) -> None:
        """Forget the activations that the cascade has passed when it is at a tensor."""
        later = self._later.get(tensor)
        if later is None:
            return
        self._reads_on = bool(later)
        for chunk in self._chunks:
            for name in chunk.values.keys() - later:
                del chunk.values[name]

    def _turns(self, turns: Iterator[tuple[Layer, ...]]) -> Iterator[Step]:
        while True:
            for chunk in self._chunks:
                if self._reads_on and not chunk.values:
                    _run_model(chunk)
            try:
                layers = next(turns, None)
            except BaseException:
                self._ahead.close()
                raise
            if layers is None:
                self._ahead.close()
                return
            tensor = layers[0].tensor
            self._drop_after(tensor)
            flow = self._flow(layers) if tensor in self.layers else None
            finite = np.zeros(0, bool)
            if flow is not None:
                finite = np.isfinite(flow.map.reshape(len(flow.map), -1)).all(axis=1)
            yield Step(tensor, flow, finite)

    def _flow(self, layers: Sequence[Layer]) -> Flow:
        tensor = layers[0].tensor
        maps = np.concatenate([np.asarray(layer.flow, np.float32) for layer in layers])
        program = self.plan.program
        step = program.steps[program.producer[tensor]] if tensor in program.producer else None
        segment = layers[0].segment
        joined = [
            np.concatenate([np.asarray(part) for part in values])
            for values in zip(*(layer.diagnostics for layer in layers), strict=True)
        ]
        fields = dict(zip(Diagnostics._fields, joined, strict=True))
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


def _forward(
    chunk: Chunk, target: ClassTarget | PerPicture | Aimed, wanted: set[str], begin: int, at_once: bool
) -> Prediction:
    """Run the model, keep what the cascade needs, and set the coefficients at the top.

    Args:
        begin: number of the chunk's first picture.
        at_once: whether all steps are one backward pass, which reads what is inside of segments as well.
    """
    plan = chunk.plan
    program, head = plan.program, plan.head
    end = head.scores if isinstance(target, ClassTarget | PerPicture) else head.output
    head_program, head_operands = program.extract(plan.top, (end,))
    segments = [part for s in plan.segments for part in (s, *plan.interior_for(s, wanted))]
    needed = {plan.top, head.scores, head.output, *head_operands}
    for segment in segments:
        needed |= _reads(segment) | (set(segment.inside) if at_once else set())
    chunk.names = tuple(name for name in program.shapes if name in needed and name not in program.inputs)
    _run_model(chunk)
    if not isinstance(target, ClassTarget | PerPicture):
        embedding = _finite(chunk.values[head.output], head.output)
        aim = target.aim(embedding.reshape(chunk.count, *program.shape_of_one(head.output)), begin)
        operands = program.operands(head_operands, chunk.values)
        chunk.top_coefficients = pull_back(head_program, chunk.values[plan.top], operands, aim.cotangent)
        return Prediction(
            head.output, aim.scores, aim.scores, "", aim.target, aim.similarity.score, aim.similarity
        )
    logits, scores = (
        _flat(chunk.values[name], name, chunk.count, head.is_feature_map)
        for name in (head.scores, head.output)
    )
    indices = target.indices(logits, ranking(scores, logits))
    chunk.top_coefficients = target.coefficients(
        head_program, chunk.values[plan.top], program.operands(head_operands, chunk.values), indices
    )
    score = logits[np.arange(len(logits)), indices]
    return Prediction(head.output, scores, logits, head.squashed_by, indices, score)


def _reads(segment: Segment) -> set[str]:
    """Names of what a step of the cascade reads."""
    following = {segment.activation} if segment.activation else set()
    return {segment.source, segment.target, *segment.operands, *following}


def _read_later(plan: Plan, wanted: set[str]) -> dict[str, set[str]]:
    """By the tensor that a segment's inversion arrives at: what the segments below it read."""
    found: dict[str, set[str]] = {}
    below: set[str] = set()
    for segment, inner in reversed(list(cascade.turns(plan, wanted))):
        found[segment.source] = set(below)
        below |= set().union(*map(_reads, (segment, *inner)))
    return found


def _run_model(chunk: Chunk) -> None:
    plan, program = chunk.plan, chunk.plan.program
    subprogram, operands = program.extract(plan.source, chunk.names, whole=True)
    tapped = evaluate(subprogram, chunk.inputs[plan.source], program.operands(operands, chunk.inputs))
    chunk.values.update(zip(chunk.names, tapped, strict=True))
    chunk.values.update(chunk.inputs)


def _flat(value: Array, name: str, count: int, is_feature_map: bool) -> np.ndarray:
    array = np.asarray(value)
    if is_feature_map:
        raise TargetError(
            f"output {name!r} is a feature map of shape {list(array.shape)}, not class scores",
            hint="explain a similarity (--reference, --bank), or name another --output",
        )
    return _finite(array, name).reshape(count, -1)


def _finite(value: Array, name: str) -> np.ndarray:
    array = np.asarray(value, np.float32)
    if not np.isfinite(array).all():
        raise NumericalError(
            f"tensor {name!r} has nan or infinite values for this input", hint="check preprocessing"
        )
    return array


def _joined(parts: Sequence[Prediction]) -> Prediction:
    first = parts[0]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("scores", "logits", "target", "target_score")
    }
    found = [part.similarity for part in parts if part.similarity is not None]
    return Prediction(
        output=first.output,
        squashed_by=first.squashed_by,
        similarity=joined(found) if found else None,
        **arrays,
    )
