"""From a graph and concrete input shapes to a program.

Evaluation has two levels. Whatever is known once the input shapes are known (shapes, indices, constant
arithmetic) is computed here with numpy and disappears; what is left are the steps that depend on the input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.errors import Refusal, UnsupportedNode
from naflow_core.model.graph import Graph, Node
from naflow_core.model.program import Array, Known, Program, Shape, Step, freeze
from naflow_core.model.unfold import unfold
from naflow_core.ops.array import fold_limit_bytes
from naflow_core.ops.integer import CARRIED_DIVISION
from naflow_core.ops.registry import REALS, REGISTRY, Interval, Operator, OperatorRegistry

_WHOLE = {"int32": jnp.int32, "int64": jnp.int32, "uint32": jnp.int32, "uint64": jnp.int32, "bool": jnp.bool_}
_TO_FLOAT = frozenset(("Cast", "CastLike", "DequantizeLinear", "OneHot"))
_RANGES = {"uint8": (0.0, 255.0), "int8": (-128.0, 127.0), "uint16": (0.0, 65535.0)}
_SMALL = frozenset(("int8", "uint8", "int16", "uint16"))
"""Integers that as inputs are carried in float32, so that flows reach the picture itself."""


class _Builder:
    """Walks the graph once; see `build_program`."""

    def __init__(
        self, graph: Graph, shapes: Mapping[str, Shape], registry: OperatorRegistry, folded_bytes: int
    ) -> None:
        self.registry, self.bytes_left = registry, folded_bytes
        self.known: dict[str, np.ndarray] = dict(graph.constants)
        self.abstract: dict[str, jax.ShapeDtypeStruct] = {}
        self.carried: set[str] = set()  # integers in float32
        self.ranges: dict[str, Interval] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.steps: list[Step] = []
        # what operators make of shapes: networks repeat their layers, and tracing one takes milliseconds
        self.traced: dict[Any, tuple[tuple[jax.ShapeDtypeStruct, ...], list[np.ndarray]]] = {}
        self.sequences: dict[str, tuple[str, ...]] = {}
        self.unfolded = 0
        self.unsupported: list[UnsupportedNode] = []
        self.skipped: list[str] = []
        for spec in graph.inputs:
            dtype = _WHOLE.get(spec.dtype, jnp.float32)
            self.abstract[spec.name] = jax.ShapeDtypeStruct(shapes[spec.name], dtype)
            self.ranges[spec.name] = _RANGES.get(spec.dtype, REALS)
            if spec.dtype in _SMALL:
                self.carried.add(spec.name)

    def visit(self, node: Node) -> None:
        """Add one node, or say why it cannot be."""
        if not all(self.holds(name) for name in node.inputs if name):
            self.skipped.append(node.name)
            return
        try:
            if unfold(self, node):
                return
            for name in node.inputs:
                if name in self.sequences:
                    raise Refusal(f"input {name!r} is a sequence of tensors, not a tensor")
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

    def holds(self, name: str) -> bool:
        """Whether a tensor or a sequence of that name has been made."""
        return name in self.known or name in self.abstract or name in self.sequences

    def shape_of(self, name: str) -> Shape:
        """Shape of a tensor that has been made."""
        return tuple(self.known[name].shape if name in self.known else self.abstract[name].shape)

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
            elif position in operator.static_if_known and name in self.known:
                sources.append(Known(self.known[name]))
            else:
                sources.append(name)
        given = dict(node.attributes)
        if operator.counts_outputs:
            given["outputs"] = max(number for number, name in enumerate(node.outputs, start=1) if name)
        attributes = tuple(sorted((key, freeze(value)) for key, value in given.items()))
        dynamic = [s for s in sources if isinstance(s, str)]
        carried = any(name in self.carried for name in dynamic)
        if carried and node.op_type == "Div" and not node.domain:
            operator = CARRIED_DIVISION

        def apply(*values: Array) -> tuple[Array, ...]:
            queue = iter(values)
            inputs = [next(queue) if isinstance(s, str) else s.value if s else None for s in sources]
            results = operator.function(*inputs, **given)
            results = results if isinstance(results, tuple) else (results,)
            if all(isinstance(r, np.ndarray | np.generic) for r in results):
                static.extend(results)
                return ()
            return results

        static: list[np.ndarray] = []
        structs = tuple(self._struct(name) for name in dynamic)
        pattern = tuple("" if isinstance(s, str) else s for s in sources)
        key = (operator, attributes, pattern, tuple((s.shape, s.dtype) for s in structs))
        if key not in self.traced:
            results = jax.eval_shape(apply, *structs)
            self.traced[key] = results, static
        results, static = self.traced[key]
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
                if carried and struct.dtype == jnp.float32 and node.op_type not in _TO_FLOAT:
                    self.carried.add(name)
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
        integers={
            n: np.dtype(s.dtype)
            for n, s in builder.abstract.items()
            if not jnp.issubdtype(s.dtype, jnp.floating)
        },
        ranges=builder.ranges,
        known={name: value for name, value in builder.known.items() if name not in graph.constants},
        unsupported=tuple(builder.unsupported),
        skipped=tuple(builder.skipped),
        initializers=frozenset(graph.constants),
        _shared_weights={} if shared_weights is None else shared_weights,
    )


@contextlib.contextmanager
def _limit(folded_bytes: int) -> Iterator[None]:
    token = fold_limit_bytes.set(folded_bytes)
    try:
        yield
    finally:
        fold_limit_bytes.reset(token)
