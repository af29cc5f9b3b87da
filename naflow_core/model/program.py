"""A graph as a pure JAX function.

A program lists the steps that depend on the input, for concrete input shapes. Parts of it become subprograms:
functions identified by their structure alone, with weights as operands instead of closed-over constants, so
that layers of one shape share one compiled program.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from naflow_core.compiled import Compiled
from naflow_core.errors import AnalysisError, UnsupportedNode
from naflow_core.model.graph import Node
from naflow_core.ops.adjoint import as_known
from naflow_core.ops.conv import FEW_GROUPS
from naflow_core.ops.registry import Interval, Operator

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

    @property
    def shifts_maps(self) -> bool:
        """Whether it has convolutions of many groups: depthwise ones are sums of shifted maps."""
        attributes = itertools.chain.from_iterable(step.attributes for step in self.instructions)
        return any(name == "group" and value > FEW_GROUPS for name, value in attributes)

    def in_solve(self) -> Subprogram:
        """The same with derivatives made to be applied many times, less precise by a digit in float32."""
        told = (("in_solve", True),)
        instructions = (
            dataclasses.replace(step, attributes=(*step.attributes, *told))
            if step.operator.knows_solves
            else step
            for step in self.instructions
        )
        return dataclasses.replace(self, instructions=tuple(instructions))

    def __call__(
        self,
        x: Array,
        operands: Sequence[Array],
        held: frozenset[str] = frozenset(),
        inside: Mapping[int, Array] | None = None,
    ) -> tuple[Array, ...]:
        """Values of the output slots; nothing is differentiated through the operators in `held`.

        Args:
            inside: what slots in between are known to become for this `x`. A backward pass then computes
                only what it needs besides them.
        """
        slots: dict[int, Array] = dict(enumerate((x, *operands)))
        for instruction in self.instructions:
            values = instruction(look_up(instruction.sources, slots))
            if instruction.operator.op_type in held:
                values = jax.lax.stop_gradient(values)
            for slot, value in zip(instruction.outputs, values, strict=False):
                slots[slot] = as_known(value, inside[slot]) if inside and slot in inside else value
        return tuple(slots[number] for number in self.outputs)


def look_up(sources: Iterable[int | Known | None], slots: Mapping[int, Array]) -> list[Array]:
    """The value of each source: a slot, a known numpy array, or None."""
    return [
        source.value if isinstance(source, Known) else None if source is None else slots[source]
        for source in sources
    ]


@functools.partial(Compiled, static=1, quickly=lambda subprogram: not subprogram.shifts_maps)
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
        integers: element type of every tensor whose values are integers or booleans; all others are float32.
        ranges: interval that contains every value of a tensor (REALS where nothing is known).
        known: what nodes make that is known without running anything (shapes, folded constants).
        unsupported: nodes that could not be built; whatever depends on them is missing from `steps`.
        skipped: names of nodes that were not reached because of an unsupported one before them.
        initializers: constants that are the file's own, equal for all input shapes.
    """

    inputs: Mapping[str, Shape]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    integers: Mapping[str, np.dtype[Any]]
    ranges: Mapping[str, Interval]
    known: Mapping[str, np.ndarray]
    unsupported: tuple[UnsupportedNode, ...]
    skipped: tuple[str, ...]
    initializers: frozenset[str] = frozenset()
    _own_weights: dict[str, Array] = field(default_factory=dict, repr=False)
    _shared_weights: dict[str, Array] = field(default_factory=dict, repr=False)

    def struct(self, name: str) -> jax.ShapeDtypeStruct:
        """Shape and element type of an input or of a tensor that a step makes."""
        return jax.ShapeDtypeStruct(self.shapes[name], self.integers.get(name, np.dtype(np.float32)))

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

    @functools.cached_property
    def pictures(self) -> int:
        """How many pictures go through together: axis 0 of the inputs, picture-like ones before others."""
        shapes = sorted(self.inputs.values(), key=lambda shape: -min(len(shape), 3))
        return shapes[0][0] if shapes and shapes[0] else 1

    def numbers_pictures(self, name: str) -> bool:
        """Whether axis 0 of a tensor numbers the pictures, as far as its size tells."""
        return self.shapes[name][:1] == (self.pictures,)

    def shape_of_one(self, name: str) -> Shape:
        """The shape of one picture's part of a tensor. A single picture need not have an axis of its own."""
        return self.shapes[name][1:] if self.numbers_pictures(name) else self.shapes[name]

    def is_dynamic(self, name: str) -> bool:
        """True for inputs and for what steps produce (not for weights)."""
        return name in self.inputs or name in self.producer

    def weight(self, name: str) -> Array:
        """A constant on the device, put there once; a CPU takes a large one as it lies, without a copy."""
        store = self._shared_weights if name in self.initializers else self._own_weights
        if name not in store:
            store[name] = jax.device_put(self.constants[name])
        return store[name]

    def operands(self, names: Iterable[str], values: Mapping[str, Array]) -> tuple[Array, ...]:
        """Arrays for the operand names of a subprogram: forward values first, weights otherwise."""
        return tuple(values[name] if name in values else self.weight(name) for name in names)

    def between(self, source: str, targets: Iterable[str]) -> tuple[int, ...]:
        """Positions of the steps on some path from `source` to one of `targets`, in order.

        Paths lead through tensors that `passes_on` values.
        """
        reached = {source}
        path = []
        behind = self.producer.get(source, -1)  # what comes before the source does not depend on it
        for i in self._needed(targets, source, behind + 1):
            if any(s in reached for s in self.steps[i].sources if isinstance(s, str)):
                passed = [name for name in self.steps[i].outputs if self.passes_on(source, name)]
                reached.update(passed)
                path += [i] if passed else []
        return tuple(path)

    def passes_on(self, source: str, name: str) -> bool:
        """Whether a tensor that a step makes carries values that change with `source` little by little.

        Integers (the places that MaxPool hands to MaxUnpool, say) do not: they count as constants, unless the
        source itself is a tensor of integers.
        """
        return bool(name) and (name not in self.integers or source in self.integers)

    def needed(self, targets: Iterable[str], source: str = "") -> tuple[int, ...]:
        """Positions of the steps that make `targets`, in order; `source` counts as given."""
        return self._needed(targets, source, 0)

    def _needed(self, targets: Iterable[str], source: str, first: int) -> tuple[int, ...]:
        wanted = set(targets)
        last = max((self.producer.get(name, -1) for name in wanted), default=-1)
        found = []
        for i in range(last, first - 1, -1):
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
