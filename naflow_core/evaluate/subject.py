"""What an evaluation needs of a model: scores, values and gradients at the tensors of its spine.

Everything runs in batches of two sizes at most, padded to fit, through programs that are identified by their
structure: whatever is asked again, of this subject or of one with other weights, compiles nothing.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from naflow_core.analysis.plan import Plan, make_plan
from naflow_core.errors import AnalysisError, InputError, NaflowError, NumericalError, TargetError
from naflow_core.evaluate.differentiate import values_and_gradients
from naflow_core.evaluate.layers import SpineTensor, spine_tensors
from naflow_core.evaluate.memory import REMEMBERED_BYTES, Memory, digest
from naflow_core.evaluate.randomise import WithOtherWeights, permuted, weights_between
from naflow_core.explainer import Model
from naflow_core.method import Method
from naflow_core.model.inputs import device_value
from naflow_core.model.program import Subprogram, evaluate
from naflow_core.targets import ClassTarget, PerPicture

Array = Any

BATCH = 8
INTEGERS = frozenset({"uint8", "int8", "uint16", "int16"})
NO_SPINE_TENSOR = "use the input or a block that `naflow inspect` lists"


class _Prepared(NamedTuple):
    """The program for one number of pictures."""

    plan: Plan
    extracts: dict[tuple[str, str], tuple[Subprogram, tuple[Array, ...]]]


class Subject:
    """A loaded model, as something to be measured. Thread-safe.

    Pictures `x` are [N, ...] as the model takes them; where it takes integers of 8 or 16 bits, fractions are
    rounded. Every answer is a numpy array in the order of `x`.

    Attributes:
        model: the model; its `explain` explains what this subject measures.
        plan: how that is done, for one batch.
        layers: the spine's tensors that have a map and through which alone the scores are reached; the input
            is the first of them.
        studied: names of those of them that are to be evaluated, input side first.
        source: name of the input.
        top: name of the top feature map.
        classes: how many class scores there are.
        memory: recent results that several explanations need.
    """

    def __init__(
        self,
        model: Model,
        *,
        output: str | None = None,
        top_feature_map: str | None = None,
        layers: str | Sequence[str] = "blocks",
        shape: Sequence[int] | None = None,
        batch: int = BATCH,
    ) -> None:
        """Args:
            output: which graph output; needed when there are several.
            top_feature_map: name of t_K; found by analysis when None.
            layers: which tensors are studied: "blocks", "spine", or names of spine tensors.
            shape: of one picture, without the batch axis, where the model leaves it open; 224 for open sizes
                when None.
            batch: pictures per run at most.

        Raises:
            InputError: the model has several inputs, or `shape` does not fit.
            TargetError: its output is a feature map.
            AnalysisError, UnsupportedOperatorError: there is nothing to explain, or it cannot be computed.
        """
        if len(model.inputs) != 1:
            names = ", ".join(spec.name for spec in model.inputs)
            raise InputError(
                f"the model has {len(model.inputs)} inputs ({names}); an evaluation takes models with one",
                hint="fix the others inside the file",
            )
        self.model = model
        self._spec = model.inputs[0]
        self._ends = {"output": output, "top": top_feature_map}
        given = {} if shape is None else {self._spec.name: (1, *shape)}
        self._picture = model.default_shapes(**given)[self._spec.name][1:]
        self._prepared: dict[int, _Prepared] = {}
        self._lock = threading.RLock()
        self.memory = Memory()
        self._sizes = self._possible_sizes(batch)
        self.plan = self._prepare(self._sizes[-1]).plan
        self.source, self.top = self.plan.source, self.plan.top
        if self.plan.head.is_feature_map:
            raise TargetError(
                f"output {self.plan.head.output!r} is a feature map, not class scores",
                hint="an evaluation measures class scores; name another --output",
            )
        self.classes = math.prod(self.plan.program.shape_of_one(self.plan.head.scores))
        self.layers = tuple(spine_tensors(self.plan))
        if not self.layers or self.layers[0].name != self.source:
            raise AnalysisError(
                f"input {self.source!r} {list(self._picture)} is not a picture with height and width"
            )
        self.studied = self._choose(layers)

    def layer(self, name: str) -> SpineTensor:
        """One of `layers` by name.

        Raises:
            AnalysisError: there is none of that name.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise AnalysisError(f"layer {name!r} is no tensor of the spine with a map", hint=NO_SPINE_TENSOR)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """[N, classes] float32: what a class target explains, the logits before a closing softmax.

        Raises:
            InputError: `x` does not fit.
            NumericalError: nan or infinite scores.
        """
        return self.scores_from(self.source, self._checked(x))

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """[N, classes] float32: softmax of `scores`; sigmoid where the model itself ends in one."""
        return self.as_probabilities(self.scores(x))

    def as_probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities of scores that are known already."""
        if self.plan.head.squashed_by == "Sigmoid":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)), np.float32)
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)

    def tap(self, x: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Forward values [N, *shape] at some of `layers`."""
        names, x = self._in_order(layers), self._checked(x)
        stations = self._in_order((self.source, *self.studied, *names))
        stations = stations[: stations.index(names[-1]) + 1]
        parts = list(self._along(stations, x, names))
        return {
            name: np.concatenate(found) for name, found in zip(names, zip(*parts, strict=True), strict=True)
        }

    def scores_from(self, tensor: str, value: np.ndarray) -> np.ndarray:
        """[N, classes]: only what lies behind one of `layers`, for given values [N, *shape] of it.

        Raises:
            InputError: `value` does not fit.
            NumericalError: nan or infinite scores.
        """
        shape = self.layer(tensor).shape
        if value.shape[1:] != shape:
            raise InputError(
                f"tensor {tensor!r} has shape {list(shape)} per picture, not {list(value.shape[1:])}"
            )
        end, order = self.plan.head.scores, [layer.name for layer in self.layers]
        behind = [name for name in self.studied if order.index(name) > order.index(tensor)]
        stations = (tensor, end) if tensor == self.source else (tensor, *behind, end)
        found = np.concatenate([part[0] for part in self._along(stations, value, (end,))])
        scores = found.reshape(len(value), -1).astype(np.float32, copy=False)
        if not np.isfinite(scores).all():
            raise NumericalError(f"tensor {end!r} has nan or infinite scores")
        return scores

    def gradients(
        self, x: np.ndarray, classes: np.ndarray, layers: Sequence[str]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By layer: forward value and gradient of each picture's class score, [N, *shape] both.

        Args:
            classes: [N] class indices.
        """
        names, x = self._in_order(layers), self._checked(x)
        classes = self._checked_classes(classes, len(x))
        stations = (*names, self.plan.head.scores)
        parts: list[list[tuple[np.ndarray, np.ndarray]]] = []
        for begin, size in self._batches(len(x)):
            prepared = self._prepare(size)
            steps = [self._extract(prepared, a, b) for a, b in itertools.pairwise(stations)]
            before = self._extract(prepared, self.source, names[0]) if names[0] != self.source else None
            found = values_and_gradients(
                before[0] if before else None,
                tuple(subprogram for subprogram, _ in steps),
                device_value(_padded(x[begin : begin + size], size)),
                jnp.asarray(_padded(classes[begin : begin + size], size)),
                before[1] if before else (),
                tuple(operands for _, operands in steps),
            )
            kept = min(size, len(x) - begin)
            parts.append([(np.asarray(value)[:kept], np.asarray(slope)[:kept]) for value, slope in found])
        return {
            name: (np.concatenate([part[i][0] for part in parts]), np.concatenate([p[i][1] for p in parts]))
            for i, name in enumerate(names)
        }

    def studied_gradients(
        self, x: np.ndarray, classes: np.ndarray, layer: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """`gradients` at one layer, for callers that will ask for the others too: those at all studied layers
        are computed at once, and kept for the next call with the same pictures."""
        names = self.studied if layer in self.studied else (layer,)
        elements = sum(int(np.prod(self.layer(name).shape)) for name in names)
        if 2 * 4 * elements * len(x) > REMEMBERED_BYTES:
            return self.gradients(x, classes, (layer,))[layer]
        key = ("gradients", names, digest(x, classes))
        return self.memory.get(key, lambda: self.gradients(x, classes, names))[layer]

    def flows(
        self, x: np.ndarray, classes: np.ndarray, layers: Sequence[str], method: Method
    ) -> dict[str, np.ndarray]:
        """Layer flows [N, H, W] at some of `layers`, for each picture's class.

        Raises:
            NumericalError: a map has nan or infinite values.
        """
        names, x = self._in_order(layers), self._checked(x)
        classes = self._checked_classes(classes, len(x))
        parts = []
        for begin, size in self._batches(len(x)):
            part = slice(begin, begin + size)
            found = self.model.explain(
                _padded(x[part], size),
                PerPicture(tuple(ClassTarget(int(k)) for k in _padded(classes[part], size))),
                method=method,
                layers=names,
                output=self._ends["output"],
                top_feature_map=self._ends["top"],
            )
            parts.append({flow.tensor: flow.map[: len(x) - begin] for flow in found})
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    @functools.cached_property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """Names of the weights of each block, the head first; blocks without weights are left out.

        A weight that several blocks share belongs to the one nearest to the head.
        """
        stations = [self.plan.head.scores, *reversed(self.plan.blocks()), self.source]
        seen: set[str] = set()
        parts = []
        for end, begin in itertools.pairwise(stations):
            if end != begin:
                names = [n for n in weights_between(self.plan.program, begin, end) if n not in seen]
                seen.update(names)
                parts.append(tuple(names))
        return tuple(part for part in parts if part)

    @property
    def depth(self) -> int:
        """How many blocks, the head included, have weights."""
        return len(self.parts)

    def randomised(self, depth: int, seed: int = 0) -> Subject:
        """The same network with the weights of its top `depth` blocks shuffled, from the head downwards.

        Each weight tensor keeps its values (so its mean, its spread and every known range) and loses their
        order; a tensor is shuffled alike at every depth. The cascading parameter randomisation of Adebayo et
        al., "Sanity Checks for Saliency Maps", 2018.

        Args:
            depth: 0 (nothing) to `self.depth` (everything).

        Raises:
            AnalysisError: there are fewer blocks.
        """
        if not 0 <= depth <= self.depth:
            raise AnalysisError(f"randomisation depth {depth} is not in 0 to {self.depth}")
        names = frozenset(name for part in self.parts[:depth] for name in part)
        other = WithOtherWeights(self.model, names, functools.partial(permuted, seed=seed))
        return Subject(
            other,
            output=self._ends["output"],
            top_feature_map=self._ends["top"],
            layers=self.studied,
            shape=self._picture,
            batch=self._sizes[-1],
        )

    def _possible_sizes(self, batch: int) -> tuple[int, ...]:
        """The model's own batch size; else one picture, and as many as fit, if the graph allows that."""
        if batch < 1:
            raise InputError(f"batch size {batch} must be at least 1")
        declared = self._spec.shape[0] if self._spec.shape else None
        if isinstance(declared, int):
            return (declared,)
        try:
            self._prepare(batch)
        except NaflowError:
            return (1,)  # a batch size written into the graph, although the input declares none
        return (1, batch) if batch > 1 else (1,)

    def _batches(self, count: int) -> Iterator[tuple[int, int]]:
        """(first picture, batch size): full batches, then a padded one or single pictures."""
        large, small = self._sizes[-1], self._sizes[0]
        begin = 0
        while begin < count:
            size = large if 2 * (count - begin) > large else small
            yield begin, size
            begin += size

    def _prepare(self, size: int) -> _Prepared:
        with self._lock:
            if size not in self._prepared:
                program = self.model.program({self._spec.name: (size, *self._picture)})
                plan = make_plan(program, output=self._ends["output"], top=self._ends["top"])
                self._prepared[size] = _Prepared(plan, {})
            return self._prepared[size]

    def _extract(self, prepared: _Prepared, source: str, target: str) -> tuple[Subprogram, tuple[Array, ...]]:
        """The function from one tensor to another, and the weights that it reads."""
        with self._lock:
            if (source, target) not in prepared.extracts:
                program = prepared.plan.program
                subprogram, names = program.extract(source, (target,), whole=source == self.source)
                prepared.extracts[source, target] = subprogram, program.operands(names, {})
            return prepared.extracts[source, target]

    def _along(
        self, stations: Sequence[str], value: np.ndarray, wanted: Sequence[str]
    ) -> Iterator[list[np.ndarray]]:
        """For each batch the wanted tensors among `stations`, from values of the first of them.

        It goes from one to the next, so that whatever begins or ends at another one runs the same programs.
        """
        for begin, size in self._batches(len(value)):
            prepared, kept = self._prepare(size), min(size, len(value) - begin)
            found = {stations[0]: device_value(_padded(value[begin : begin + size], size))}
            for before, after in itertools.pairwise(stations):
                subprogram, operands = self._extract(prepared, before, after)
                (found[after],) = evaluate(subprogram, found[before], operands)
                if before not in wanted:
                    del found[before]
            yield [np.asarray(found[name])[:kept] for name in wanted]

    def _choose(self, layers: str | Sequence[str]) -> tuple[str, ...]:
        names = self.plan.layers(layers)
        if layers in ("blocks", "spine"):
            existing = {layer.name for layer in self.layers}
            names = tuple(name for name in names if name in existing)
        return self._in_order(names)

    def _in_order(self, layers: Sequence[str]) -> tuple[str, ...]:
        wanted = {self.layer(name).name for name in layers}
        if not wanted:
            raise AnalysisError("no layer is named", hint=NO_SPINE_TENSOR)
        return tuple(layer.name for layer in self.layers if layer.name in wanted)

    def _checked(self, x: np.ndarray) -> np.ndarray:
        value = self.model.check_inputs(self._rounded(x))[self._spec.name]
        if value.shape[1:] != self._picture:
            raise InputError(
                f"input {self._spec.name!r} has shape {list(value.shape)}, this evaluation takes pictures of "
                f"{list(self._picture)}"
            )
        return value

    def _rounded(self, x: np.ndarray) -> np.ndarray:
        """Pictures that became fractions on the way (blurred, noisy), for a model that takes integers."""
        if self._spec.dtype not in INTEGERS or x.dtype.kind != "f":
            return x
        limits = np.iinfo(self._spec.dtype)
        return np.clip(np.rint(x), limits.min, limits.max).astype(self._spec.dtype)

    def _checked_classes(self, classes: np.ndarray, count: int) -> np.ndarray:
        array = np.asarray(classes)
        if array.shape != (count,) or array.dtype.kind not in "iu":
            raise TargetError(f"{count} pictures need {count} class indices, not {list(array.shape)}")
        if count and not (array.min() >= 0 and array.max() < self.classes):
            raise TargetError(f"a class index is out of range: the model has {self.classes} classes")
        return array.astype(np.int32)


def _padded(part: np.ndarray, size: int) -> np.ndarray:
    """A shorter batch at full size; what was added is cut off from the answer."""
    return part if len(part) == size else np.concatenate([part, *[part[-1:]] * (size - len(part))])
