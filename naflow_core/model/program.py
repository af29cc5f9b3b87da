"""From a graph and concrete input shapes to a pure JAX function.

Evaluation has two levels. Whatever is known once the input shapes are known (shapes, indices, constant
arithmetic) is computed here with numpy and disappears; what is left are the steps that depend on the input.
Weights are operands of those steps, never closed-over constants, so that layers of one shape share one
compiled program.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.errors import AnalysisError, Refusal, UnsupportedNode
from naflow_core.model.graph import Graph, Node
from naflow_core.ops.array import fold_limit_bytes
from naflow_core.ops.registry import REALS, REGISTRY, Interval, Operator, OperatorRegistry

Array = Any
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A numpy value that is part of a program's structure: compared and hashed by content."""

    value: np.ndarray

    def _key(self) -> tuple[Shape, str, bytes]:
        return self.value.shape, self.value.dtype.str, self.value.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True, slots=True)
class Step:
    """One node that depends on the input. Each source is a tensor name, a known value or None (absent)."""

    node: Node
    operator: Operator
    attributes: tuple[tuple[str, Any], ...]
    sources: tuple[str | Known | None, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Instruction:
    """A step with its tensor names replaced by slot numbers."""

    operator: Operator
    attributes: tuple[tuple[str, Any], ...]
    sources: tuple[int | Known | None, ...]
    outputs: tuple[int, ...]

    def __call__(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Apply the operator to values already looked up (same order as `sources`)."""
        results = self.operator.function(*inputs, **thawed(self.attributes))
        return results if isinstance(results, tuple) else (results,)


@dataclass(frozen=True, slots=True)
class Subprogram:
    """A pure function of one input and some operands, identified by its structure alone.

    Two blocks of the same shape give equal subprograms, so that a jitted function that takes a subprogram as
    static argument compiles once for both. Slot 0 is the input, slots 1..operand_count the operands.
    """

    instructions: tuple[Instruction, ...]
    operand_count: int
    outputs: tuple[int, ...]

    def __call__(self, x: Array, operands: Sequence[Array]) -> tuple[Array, ...]:
        """Values of the output slots."""
        slots: dict[int, Array] = dict(enumerate((x, *operands)))
        for instruction in self.instructions:
            values = instruction(look_up(instruction.sources, slots))
            slots.update(zip(instruction.outputs, values, strict=False))
        return tuple(slots[number] for number in self.outputs)


def look_up(sources: Iterable[int | Known | None], slots: Mapping[int, Array]) -> list[Array]:
    """The value of each source: a slot, a known numpy array, or None."""
    return [
        source.value if isinstance(source, Known) else None if source is None else slots[source]
        for source in sources
    ]


@functools.partial(jax.jit, static_argnums=0)
def evaluate(subprogram: Subprogram, x: Array, operands: Sequence[Array]) -> tuple[Array, ...]:
    """`subprogram(x, operands)`, compiled once per structure and shapes."""
    return subprogram(x, operands)


@dataclass(frozen=True)
class Program:
    """A graph specialised to concrete input shapes.

    Attributes:
        inputs: shape of every graph input by name.
        outputs: names of the graph outputs.
        steps: what depends on the input, in topological order.
        constants: weights that steps read, by tensor name.
        shapes: shape of every tensor that a step produces, and of the inputs.
        integers: names of the tensors whose values are integers or booleans.
        ranges: interval that contains every value of a tensor (REALS where nothing is known).
        known: folded values, by tensor name.
        unsupported: nodes that could not be built; whatever depends on them is missing from `steps`.
        skipped: names of nodes that were not reached because of an unsupported one before them.
        initializers: constants that are the file's own, equal for all input shapes.
    """

    inputs: Mapping[str, Shape]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    integers: frozenset[str]
    ranges: Mapping[str, Interval]
    known: Mapping[str, np.ndarray]
    unsupported: tuple[UnsupportedNode, ...]
    skipped: tuple[str, ...]
    initializers: frozenset[str] = frozenset()
    _own_weights: dict[str, Array] = field(default_factory=dict, repr=False)
    _shared_weights: dict[str, Array] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def producer(self) -> dict[str, int]:
        """Position in `steps` of the step that makes a tensor."""
        return {name: i for i, step in enumerate(self.steps) for name in step.outputs if name}

    @functools.cached_property
    def consumers(self) -> dict[str, tuple[int, ...]]:
        """Positions in `steps` of the steps that read a tensor, each once."""
        found: dict[str, list[int]] = {}
        for i, step in enumerate(self.steps):
            for name in dict.fromkeys(s for s in step.sources if isinstance(s, str)):
                found.setdefault(name, []).append(i)
        return {name: tuple(positions) for name, positions in found.items()}

    def is_dynamic(self, name: str) -> bool:
        """True for inputs and for what steps produce (not for weights)."""
        return name in self.inputs or name in self.producer

    def weight(self, name: str) -> Array:
        """A constant on the device, put there once."""
        store = self._shared_weights if name in self.initializers else self._own_weights
        if name not in store:
            store[name] = jnp.asarray(self.constants[name])
        return store[name]

    def operands(self, names: Iterable[str], values: Mapping[str, Array]) -> tuple[Array, ...]:
        """Arrays for the operand names of a subprogram: forward values first, weights otherwise."""
        return tuple(values[name] if name in values else self.weight(name) for name in names)

    def between(self, source: str, targets: Iterable[str]) -> tuple[int, ...]:
        """Positions of the steps on some path from `source` to one of `targets`, in order."""
        reached = {source}
        path = []
        for i in self.needed(targets, source):
            if any(s in reached for s in self.steps[i].sources if isinstance(s, str)):
                reached.update(name for name in self.steps[i].outputs if name)
                path.append(i)
        return tuple(path)

    def needed(self, targets: Iterable[str], source: str = "") -> tuple[int, ...]:
        """Positions of the steps that make `targets`, in order; `source` counts as given."""
        wanted = set(targets)
        found = []
        for i in range(len(self.steps) - 1, -1, -1):
            if any(name in wanted for name in self.steps[i].outputs if name):
                found.append(i)
                wanted.update(s for s in self.steps[i].sources if isinstance(s, str) and s != source)
        return tuple(reversed(found))

    def extract(
        self, source: str, targets: Sequence[str], *, whole: bool = False
    ) -> tuple[Subprogram, tuple[str, ...]]:
        """The function from `source` to `targets`; everything else it reads becomes an operand.

        Args:
            whole: also compute what does not depend on `source` (from other inputs).

        Returns the subprogram and the names of its operands (weights, other inputs, or tensors whose forward
        value is to be held fixed), in order.

        Raises:
            AnalysisError: a target does not depend on `source`.
        """
        positions = self.needed(targets, source) if whole else self.between(source, targets)
        made = {name for i in positions for name in self.steps[i].outputs if name}
        operand_names = tuple(
            dict.fromkeys(
                s
                for i in positions
                for s in self.steps[i].sources
                if isinstance(s, str) and s != source and s not in made
            )
        )
        slots = {name: number for number, name in enumerate((source, *operand_names))}
        instructions = []
        for i in positions:
            step = self.steps[i]
            sources = tuple(slots[s] if isinstance(s, str) else s for s in step.sources)
            for name in step.outputs:
                slots[name or f"\0unused{len(slots)}"] = len(slots)
            outputs = tuple(range(len(slots) - len(step.outputs), len(slots)))
            instructions.append(Instruction(step.operator, step.attributes, sources, outputs))
        missing = [name for name in targets if name not in slots]
        if missing:
            raise AnalysisError(f"tensor {missing[0]!r} does not depend on {source!r}")
        subprogram = Subprogram(tuple(instructions), len(operand_names), tuple(slots[t] for t in targets))
        return subprogram, operand_names


def freeze(value: Any) -> Any:
    """An attribute value in hashable form."""
    return Known(value) if isinstance(value, np.ndarray) else value


def thawed(attributes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Attributes as keyword arguments again."""
    return {k: v.value if isinstance(v, Known) else v for k, v in attributes}


class _Builder:
    """Walks the graph once; see `build_program`."""

    def __init__(
        self, graph: Graph, shapes: Mapping[str, Shape], registry: OperatorRegistry, folded_bytes: int
    ) -> None:
        self.registry, self.bytes_left = registry, folded_bytes
        self.known: dict[str, np.ndarray] = dict(graph.constants)
        self.abstract: dict[str, jax.ShapeDtypeStruct] = {}
        self.ranges: dict[str, Interval] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.steps: list[Step] = []
        self.unsupported: list[UnsupportedNode] = []
        self.skipped: list[str] = []
        for spec in graph.inputs:
            dtype = {"int32": jnp.int32, "int64": jnp.int32, "bool": jnp.bool_}.get(spec.dtype, jnp.float32)
            self.abstract[spec.name] = jax.ShapeDtypeStruct(shapes[spec.name], dtype)
            self.ranges[spec.name] = (0.0, 255.0) if spec.dtype == "uint8" else REALS

    def visit(self, node: Node) -> None:
        if any(name and name not in self.known and name not in self.abstract for name in node.inputs):
            self.skipped.append(node.name)
            return
        try:
            operator = self.registry.find(node.op_type, node.version, node.domain)
            operator.check_attributes(node.attributes)
            if all(name == "" or name in self.known for name in node.inputs) and operator.foldable:
                self._fold(node, operator)
            else:
                self._trace(node, operator)
        except Refusal as refusal:
            self._refuse(node, str(refusal))
        except (TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError, MemoryError) as error:
            # jax and numpy report shapes that do not fit this way; the first line says which.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._refuse(node, f"{lines[0]}; inputs {self._describe(node)}")

    def _refuse(self, node: Node, reason: str) -> None:
        self.unsupported.append(UnsupportedNode(node.name, node.op_type, reason))

    def _describe(self, node: Node) -> str:
        shapes = (self.known.get(n, self.abstract.get(n)) for n in node.inputs if n)
        return ", ".join(str(tuple(s.shape)) for s in shapes if s is not None)

    def _fold(self, node: Node, operator: Operator) -> None:
        values = [self.known[name] if name else None for name in node.inputs]
        with np.errstate(all="ignore"):
            results = operator.function(*values, **node.attributes)
        results = results if isinstance(results, tuple) else (results,)
        self._check_outputs(node, len(results))
        for name, value in zip(node.outputs, results, strict=False):
            if name:
                self.known[name] = np.asarray(value)
                self.bytes_left -= self.known[name].nbytes
        if self.bytes_left < 0:
            raise Refusal("the constants computed while loading exceed the limit `folded_bytes`")

    def _trace(self, node: Node, operator: Operator) -> None:
        sources: list[str | Known | None] = []
        for position, name in enumerate(node.inputs):
            if not name:
                sources.append(None)
            elif position in operator.static:
                if name not in self.known:
                    raise Refusal(
                        f"input {position} ({name!r}) must be a constant, but depends on the model's input"
                    )
                sources.append(Known(self.known[name]))
            else:
                sources.append(name)
        attributes = tuple(sorted((key, freeze(value)) for key, value in node.attributes.items()))
        dynamic = [s for s in sources if isinstance(s, str)]

        def apply(*values: Array) -> tuple[Array, ...]:
            given = iter(values)
            inputs = [next(given) if isinstance(s, str) else s.value if s else None for s in sources]
            results = operator.function(*inputs, **node.attributes)
            results = results if isinstance(results, tuple) else (results,)
            if all(isinstance(r, np.ndarray | np.generic) for r in results):
                static.extend(results)
                return ()
            return results

        static: list[np.ndarray] = []
        results = jax.eval_shape(apply, *(self._struct(name) for name in dynamic))
        self._check_outputs(node, len(static or results))
        if static:  # Shape and the like: known although the input is not
            self.known.update(
                (name, np.asarray(v)) for name, v in zip(node.outputs, static, strict=False) if name
            )
            return
        for name in dynamic:
            if name in self.known:
                self.constants[name] = self.known[name]
        interval = self._interval(operator, node, sources)
        for name, struct in zip(node.outputs, results, strict=False):
            if name:
                self.abstract[name] = struct
                self.ranges[name] = interval
        outputs = tuple(node.outputs[: len(results)])
        self.steps.append(Step(node, operator, attributes, tuple(sources), outputs))

    def _struct(self, name: str) -> jax.ShapeDtypeStruct:
        if name in self.abstract:
            return self.abstract[name]
        value = self.known[name]
        return jax.ShapeDtypeStruct(value.shape, jax.dtypes.canonicalize_dtype(value.dtype))

    def _interval(self, operator: Operator, node: Node, sources: Sequence[str | Known | None]) -> Interval:
        if operator.value_range is None:
            return REALS
        intervals = []
        attributes: dict[str, Any] = dict(node.attributes)
        for position, source in enumerate(sources):
            value = source.value if isinstance(source, Known) else self.known.get(source) if source else None
            if isinstance(source, Known):
                attributes[f"input_{position}"] = source.value
            if value is not None and value.size and np.issubdtype(value.dtype, np.number):
                intervals.append((float(value.min()), float(value.max())))
            else:
                intervals.append(self.ranges.get(source, REALS) if isinstance(source, str) else REALS)
        low, high = operator.value_range(intervals, attributes)
        return (low, high) if low <= high else REALS

    @staticmethod
    def _check_outputs(node: Node, count: int) -> None:
        extra = [name for name in node.outputs[count:] if name]
        if extra:
            raise Refusal(f"output {extra[0]!r} (number {node.outputs.index(extra[0])}) is not implemented")


def build_program(
    graph: Graph,
    shapes: Mapping[str, Shape],
    *,
    folded_bytes: int = 1 << 30,
    registry: OperatorRegistry = REGISTRY,
    shared_weights: dict[str, Array] | None = None,
) -> Program:
    """Specialise `graph` to concrete input shapes.

    Nodes that cannot be built do not stop the walk: they are listed in `Program.unsupported`.

    Args:
        shapes: one concrete shape per graph input.
        folded_bytes: limit on what constant folding may allocate in total.
        shared_weights: initializers on the device by name, shared by the programs of one graph.
    """
    builder = _Builder(graph, shapes, registry, folded_bytes)
    with _limit(folded_bytes):
        for node in graph.nodes:
            builder.visit(node)
    return Program(
        inputs={spec.name: tuple(shapes[spec.name]) for spec in graph.inputs},
        outputs=tuple(spec.name for spec in graph.outputs),
        steps=tuple(builder.steps),
        constants=builder.constants,
        shapes={name: tuple(struct.shape) for name, struct in builder.abstract.items()},
        integers=frozenset(
            n for n, s in builder.abstract.items() if not jnp.issubdtype(s.dtype, jnp.floating)
        ),
        ranges=builder.ranges,
        known={o.name: builder.known[o.name] for o in graph.outputs if o.name in builder.known},
        unsupported=tuple(builder.unsupported),
        skipped=tuple(builder.skipped),
        initializers=frozenset(graph.constants),
        _shared_weights={} if shared_weights is None else shared_weights,
    )


@contextlib.contextmanager
def _limit(folded_bytes: int) -> Any:
    token = fold_limit_bytes.set(folded_bytes)
    try:
        yield
    finally:
        fold_limit_bytes.reset(token)
