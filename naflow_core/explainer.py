"""`load` and `Model`: the way in."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from naflow_core.analysis.head import scores_output
from naflow_core.analysis.nested import with_running_concatenations
from naflow_core.analysis.plan import Plan, make_plan
from naflow_core.analysis.report import CoverageReport
from naflow_core.errors import (
    AnalysisError,
    InputError,
    ModelError,
    NaflowError,
    NumericalError,
    UnsupportedOperatorError,
)
from naflow_core.explanation import Chunk, Explanation
from naflow_core.method import Method
from naflow_core.model.graph import TensorSpec
from naflow_core.model.inputs import checked_inputs, device_value, pictures_of
from naflow_core.model.load import LoadedModel, read_model
from naflow_core.model.program import Program, evaluate
from naflow_core.model.source import Limits, Source
from naflow_core.model.specialise import build_program
from naflow_core.targets import BankTarget, ClassTarget, PerPicture, PrototypeTarget, SimilarityTarget
from naflow_core.targets.aim import Aimed, Space
from naflow_core.verify import Verification, random_inputs, run_onnxruntime, verify_program

Shape = tuple[int, ...]
SimilarityKind = SimilarityTarget | PrototypeTarget | BankTarget
Target = ClassTarget | PerPicture | SimilarityKind


class Ends(NamedTuple):
    """What the caller chose: names of output, top feature map and input, and whether the output is an
    embedding."""

    output: str | None = None
    top: str | None = None
    source: str | None = None
    embedding: bool = False


CACHED_PROGRAMS = 16
CACHE_BYTES = 4 << 20
"""A CPU computes feature maps of more than this one after the other: together they leave its cache."""
DEFAULT_SPATIAL = 224
DEFAULT_LIMITS = Limits()


def load(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> Model:
    """Read an ONNX model.

    Args:
        source: path, bytes, or onnx.ModelProto.
        limits: what a model may cost at most.

    Raises:
        ModelError: unreadable, malformed, cyclic, over a limit, or external data missing or outside its
            folder.
    """
    return Model(read_model(source, limits), limits)


class Model:
    """A loaded ONNX model. Programs are built per concrete input shape and kept; thread-safe."""

    def __init__(self, loaded: LoadedModel, limits: Limits = DEFAULT_LIMITS) -> None:
        self.loaded = loaded
        self._limits = limits
        self._programs: OrderedDict[tuple[tuple[str, Shape], ...], Program] = OrderedDict()
        self._plans: dict[tuple[int, Ends], Plan] = {}  # by number of pictures
        self._weights: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, as declared."""
        return self.loaded.graph.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, as declared."""
        return self.loaded.graph.outputs

    @property
    def sha256(self) -> str:
        """Digest of the model file."""
        return self.loaded.source.sha256

    def default_shapes(self, /, **given: Sequence[int]) -> dict[str, Shape]:
        """A concrete shape for every input: `given` (by input name), else the declared one with batch 1 and
        224 for other open dimensions.

        Raises:
            InputError: an input's shape is neither declared nor given, or one is given for no input.
        """
        shapes = {}
        if unknown := set(given) - {spec.name for spec in self.inputs}:
            raise InputError(
                f"a shape is given for {min(unknown)!r}, which is no input of the model",
                hint=f"its inputs are {', '.join(repr(spec.name) for spec in self.inputs)}",
            )
        for spec in self.inputs:
            if spec.name in given:
                shapes[spec.name] = tuple(int(n) for n in given[spec.name])
            elif spec.shape is None:
                raise InputError(f"input {spec.name!r} declares no shape", hint="give a concrete input shape")
            else:
                shapes[spec.name] = tuple(
                    d if isinstance(d, int) else 1 if axis == 0 else DEFAULT_SPATIAL
                    for axis, d in enumerate(spec.shape)
                )
        return shapes

    def program(self, shapes: Mapping[str, Shape]) -> Program:
        """The program for concrete input shapes (cached)."""
        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        with self._lock:
            if key not in self._programs:
                built = build_program(
                    self.loaded.graph,
                    shapes,
                    folded_bytes=self._limits.folded_bytes,
                    shared_weights=self._weights,
                )
                self._programs[key] = with_running_concatenations(built)
                while len(self._programs) > CACHED_PROGRAMS:
                    self._programs.popitem(last=False)
            self._programs.move_to_end(key)
            return self._programs[key]

    def inspect(
        self,
        *,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        output: str | None = None,
        top_feature_map: str | None = None,
        explained_input: str | None = None,
    ) -> CoverageReport:
        """What will happen to this model: spine, segments, rules, unsupported nodes. Nothing is computed.

        Raises:
            InputError: an input's shape is neither declared nor given, or one is given for no input.
            AnalysisError: `output`, `top_feature_map` or `explained_input` names nothing that can be used.
        """
        program = self.program(self.default_shapes(**(input_shapes or {})))
        try:
            plan = make_plan(program, output=output, top=top_feature_map, source=explained_input)
        except UnsupportedOperatorError as error:
            return CoverageReport(self.loaded, program, None, str(error))
        except AnalysisError as error:
            if (output, top_feature_map, explained_input) != (None, None, None):
                raise  # a name that the caller gave, not a property of the model
            return CoverageReport(self.loaded, program, None, str(error))
        return CoverageReport(self.loaded, program, plan, "")

    def verify(
        self,
        x: np.ndarray | Mapping[str, np.ndarray] | None = None,
        *,
        tolerance: float = 1e-4,
        seed: int = 0,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> Verification:
        """Compare every tensor of the normalised graph with onnxruntime.

        Args:
            x: input; standard normal numbers (or uniform integers) from `seed` when None.
            tolerance: largest allowed max|a - b| / max|b|.
            input_shapes: by input name, for an `x` of None where the model leaves sizes open.

        Raises:
            UnsupportedOperatorError: a node cannot be computed.
            InputError: `x` does not fit.
        """
        if x is None:
            x = random_inputs(self.inputs, self.default_shapes(**(input_shapes or {})), seed)
        feeds = self.check_inputs(x)
        program = self.program({name: value.shape for name, value in feeds.items()})
        values = {name: device_value(value) for name, value in feeds.items()}
        return verify_program(self.loaded, program, feeds, values, tolerance)

    def reference_scores(self, x: np.ndarray | Mapping[str, np.ndarray], output: str) -> np.ndarray:
        """One output as onnxruntime computes it, [N, classes].

        Raises:
            InputError: `x` does not fit.
            ModelError: onnxruntime refuses the model.
        """
        feeds = self.check_inputs(x)
        total = pictures_of(feeds)
        size = self._fixed_batch() or total
        try:
            return self._reference_scores(feeds, total, size, output)
        except ModelError:
            if size == 1 or self._fixed_batch():
                raise
        return self._reference_scores(feeds, total, 1, output)  # as `explain` does where a batch fails

    def _reference_scores(
        self, feeds: dict[str, np.ndarray], total: int, size: int, output: str
    ) -> np.ndarray:
        parts = []
        for begin in range(0, total, size):
            part = {name: value[begin : begin + size] for name, value in feeds.items()}
            (found,) = run_onnxruntime(self.loaded, part, [output])
            count = min(size, total - begin)
            if count > 1 and found.shape[:1] != (count,):
                raise ModelError(f"output {output!r} {list(found.shape)} has no axis for {count} pictures")
            parts.append(found.astype(np.float32).reshape(count, -1))
        return np.concatenate(parts)

    def explain(
        self,
        x: np.ndarray | Mapping[str, np.ndarray],
        target: Target | None = None,
        *,
        method: Method | None = None,
        layers: str | Sequence[str] = "blocks",
        output: str | None = None,
        top_feature_map: str | None = None,
        explained_input: str | None = None,
        batch_size: int | None = None,
    ) -> Explanation:
        """Explain pictures: an iterator of layer flows, deepest first.

        The forward pass runs at once (so that bad input, targets and options are refused here); each flow is
        computed when it is asked for.

        Args:
            x: [N, ...] as the model takes it, or a mapping from input name to array for several inputs.
            target: what is explained, for all pictures or for each: a class, or a similarity for models that
                give embeddings; each picture's best class when None.
            method: options of the method; the preset "default" when None.
            layers: "blocks", "spine", "nodes", a tensor name or a list of names.
            output: which graph output; needed when there are several.
            top_feature_map: name of t_K; found by analysis when None.
            explained_input: which of several inputs the flows lead to, the others held as they are; the first
                picture-like one when None.
            batch_size: pictures per batch; when None what the model's fixed batch asks for, else as many as
                a CPU's cache holds, or all at once on other devices.

        Raises:
            InputError, TargetError, AnalysisError, UnsupportedOperatorError, OptionError: see each.
            NumericalError: the model gives nan or inf for this input.
        """
        feeds = self.check_inputs(x)
        ends = Ends(output, top_feature_map, explained_input, isinstance(target, SimilarityKind))
        chunks, plan = self._chunks(feeds, batch_size, ends)
        aimed: ClassTarget | PerPicture | Aimed
        if isinstance(target, SimilarityKind):
            shape = plan.program.shape_of_one(plan.head.output)
            aimed = target.bind(Space(self, plan.head.output, shape, batch_size))
        else:
            aimed = target or ClassTarget()
        return Explanation(chunks, plan, aimed, method or Method(), layers)

    def plan(
        self,
        x: np.ndarray | Mapping[str, np.ndarray],
        *,
        output: str | None = None,
        top_feature_map: str | None = None,
    ) -> Plan:
        """How the similarity of pictures `x` would be explained, all of them in one batch.

        Raises:
            InputError, AnalysisError, UnsupportedOperatorError: as for `explain`.
        """
        feeds = self.check_inputs(x)
        return self._plan(feeds, pictures_of(feeds), Ends(output, top_feature_map, embedding=True))

    def embed(
        self,
        x: np.ndarray | Mapping[str, np.ndarray],
        *,
        output: str | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Embeddings of pictures: one output of the model as float32, [N, C] or [N, C, H, W].

        Args:
            x: as for `explain`.
            output: which graph output; needed when there are several.
            batch_size: pictures per batch; all at once when None (or what the model's fixed batch asks for).

        Raises:
            InputError, AnalysisError, UnsupportedOperatorError: as for `explain`.
            NumericalError: the output has nan or infinite values.
        """
        feeds = self.check_inputs(x)
        total = pictures_of(feeds)
        sizes = [self._batch(batch_size, total)]
        if sizes[0] > 1 and not self._fixed_batch():
            sizes.append(1)  # a batch size may be written into the graph, although the input declares none
        for size in sizes:
            program = self.program({name: (size, *value.shape[1:]) for name, value in feeds.items()})
            try:
                name = scores_output(program, output)
                break
            except (AnalysisError, UnsupportedOperatorError):
                if size == sizes[-1]:
                    raise
        source = next(iter(program.inputs))
        subprogram, operands = program.extract(source, (name,), whole=True)
        parts = []
        for begin in range(0, total, size):
            part = {
                key: device_value(_filled(value[begin : begin + size], size)) for key, value in feeds.items()
            }
            (value,) = evaluate(subprogram, part[source], program.operands(operands, part))
            parts.append(np.asarray(value, np.float32).reshape(size, *program.shape_of_one(name)))
        found = np.concatenate(parts)[:total]
        if not np.isfinite(found).all():
            raise NumericalError(f"output {name!r} has nan or infinite values", hint="check preprocessing")
        return found

    def check_inputs(self, x: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs by name, checked against the declaration.

        Raises:
            InputError: names the input and what does not fit.
        """
        return checked_inputs(self.inputs, x)

    def _fixed_batch(self) -> int | None:
        """The batch size that the model's inputs declare, if they declare one."""
        sizes = {s.shape[0] for s in self.inputs if s.shape and isinstance(s.shape[0], int)}
        return sizes.pop() if len(sizes) == 1 else None

    def _batch(self, wanted: int | None, total: int) -> int:
        """How many of `total` pictures go together: what the inputs declare, else what is wanted."""
        if wanted is not None and wanted < 1:
            raise InputError(f"batch size {wanted} must be at least 1")
        return self._fixed_batch() or min(wanted or total, total)

    def _chunks(
        self, feeds: dict[str, np.ndarray], batch_size: int | None, ends: Ends
    ) -> tuple[list[Chunk], Plan]:
        total = pictures_of(feeds)
        fixed = self._fixed_batch()
        if batch_size is None and not fixed:
            batch_size = self._fitting(feeds, total)
        size = self._batch(batch_size, total)
        if total % size and fixed:
            raise InputError(f"the model takes batches of {size}, the input has {total} pictures")
        try:
            plan = self._plan(feeds, size, ends)
        except NaflowError:
            if size == 1 or fixed:
                raise
            size = 1  # a batch size written into the graph, although the input declares none
            plan = self._plan(feeds, size, ends)
        chunks = []
        for begin in range(0, total, size):
            part = {name: value[begin : begin + size] for name, value in feeds.items()}
            length = len(next(iter(part.values())))
            own = plan if length == size else self._plan(feeds, length, ends)
            chunks.append(Chunk(own, {name: device_value(value) for name, value in part.items()}))
        return chunks, plan

    def _fitting(self, feeds: Mapping[str, np.ndarray], total: int) -> int:
        """How many of so many pictures go together where nobody says it, all batches being equal."""
        if total <= 1 or jax.default_backend() != "cpu":
            return total
        one = self.program({name: (1, *value.shape[1:]) for name, value in feeds.items()})
        if one.unsupported:
            return total
        largest = max(math.prod(one.shapes[name]) for step in one.steps for name in step.outputs if name)
        most = CACHE_BYTES // (4 * largest)
        return max((size for size in range(1, min(most, total) + 1) if total % size == 0), default=1)

    def _plan(self, feeds: dict[str, np.ndarray], size: int, ends: Ends) -> Plan:
        program = self.program({name: (size, *value.shape[1:]) for name, value in feeds.items()})
        with self._lock:
            known = self._plans.get((size, ends))
        if known is None or known.program is not program:
            known = make_plan(program, **ends._asdict())
            with self._lock:
                self._plans[size, ends] = known
                while len(self._plans) > CACHED_PROGRAMS:
                    self._plans.pop(next(iter(self._plans)))
        return known


def _filled(part: np.ndarray, size: int) -> np.ndarray:
    """A last, shorter batch at full size: the same program again. What was added is cut off later."""
    return part if len(part) == size else np.concatenate([part, *[part[-1:]] * (size - len(part))])
