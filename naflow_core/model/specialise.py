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
from naflow_core.ops.array import fold_limit_bytes
from naflow_core.ops.registry import REALS, REGISTRY, Interval, Operator, OperatorRegistry


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
