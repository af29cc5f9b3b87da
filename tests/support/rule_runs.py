"""A row of the inverse table as a running model: its segment, forward values and rule."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from onnx import ModelProto, helper

import naflow_core as nf
from naflow_core.analysis.plan import Segment, make_segment
from naflow_core.inverse.registry import Site
from naflow_core.model.program import look_up
from support.inverse_cases import Row
from support.onnx_graphs import make_model, run_onnxruntime

NAMES = {"QuantizeLinear": ("x", "q"), "DequantizeLinear": ("q", "y")}
"""Source and target where the row's model has two nodes: quantise, then dequantise."""


class RuleRun:
    """The one-node model of a row, with the rule that the planner chose for it.

    Attributes:
        x0, y0: forward values at the tensor solved for and at the node's output.
    """

    def __init__(self, row: Row, x: np.ndarray | None = None) -> None:
        self.row, self.model = row, row_model(row)
        x = row.inputs[row.position] if x is None else x
        loaded = nf.load(self.model)
        self._source, self._target = NAMES.get(row.op_type, ("x", "y"))
        self._exposed = loaded.loaded.serialized_with_outputs([self._target])
        self.x0 = (
            x if self._source == "x" else self._value(loaded.loaded.serialized_with_outputs(["q"]), x, "q")
        )
        self.y0 = self.forward(x)
        program = loaded.program({"x": x.shape})
        assert not program.unsupported, program.unsupported
        self.segment: Segment = make_segment(program, self._source, self._target, ())
        self.operands = program.operands(self.segment.operands, {})

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The model's value at the node's output, by onnxruntime."""
        return self._value(self._exposed, x, self._target)

    @staticmethod
    def _value(content: bytes, x: np.ndarray, name: str) -> np.ndarray:
        return run_onnxruntime(content, {"x": x.astype(np.float32)}, [name])[0].astype(np.float32)

    def inverse(self, y: np.ndarray, retained: np.ndarray | None = None) -> np.ndarray:
        retained = np.ones(self.y0.shape, bool) if retained is None else retained
        segment = self.segment
        return np.asarray(
            _apply(
                segment.rule, segment.subprogram, segment.position, jnp.asarray(self.x0), self.operands,
                jnp.asarray(self.y0), jnp.asarray(y, jnp.float32), jnp.asarray(retained),
            )
        )  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(
    rule: Any, subprogram: Any, position: int, x0: Any, operands: Any, y0: Any, y: Any, retained: Any
) -> Any:
    inputs = tuple(look_up(subprogram.instructions[0].sources, dict(enumerate((x0, *operands)))))
    return rule.invert(y, Site(subprogram.instructions[0], inputs, position, y0, retained))


def row_model(row: Row) -> ModelProto:
    names = ["" if v is None else "x" if i == row.position else f"c{i}" for i, v in enumerate(row.inputs)]
    outputs = ["y", "positions"] if row.op_type == "TopK" else ["y"]
    nodes = [helper.make_node(row.op_type, names, outputs, name="node", domain=row.domain, **row.attributes)]
    if row.law == "quantised":
        nodes = [
            helper.make_node("QuantizeLinear", names, ["q"], name="first", **row.attributes),
            helper.make_node("DequantizeLinear", ["q", *names[1:]], ["y"], name="second", **row.attributes),
        ]
    constants = {n: v for n, v in zip(names, row.inputs, strict=True) if n.startswith("c") and v is not None}
    x = row.inputs[row.position]
    assert x is not None
    own = {row.domain: 1} if row.domain else None
    versions = {"opset": row.opset, "ir_version": 10, "extra_opsets": own}
    return make_model(nodes, {"x": x.shape}, constants=constants, **versions)
