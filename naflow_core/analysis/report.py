"""The coverage report: what will happen to a model, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import onnx.defs

from naflow_core.analysis.cost import TYPICAL_ITERATIONS, Cost, segment_cost, total_cost
from naflow_core.analysis.coverage import coverage
from naflow_core.analysis.embedding import HeadDescription, describe_head
from naflow_core.analysis.head import find_head
from naflow_core.analysis.plan import Plan, Segment, make_segment
from naflow_core.errors import AnalysisError, UnsupportedNode
from naflow_core.model.graph import Node, TensorSpec
from naflow_core.model.load import LoadedModel
from naflow_core.model.program import Program


@dataclass(frozen=True)
class CoverageReport:
    """What `naflow inspect` shows.

    Attributes:
        model: the loaded model.
        program: the graph specialised to `program.inputs`.
        plan: None when the model cannot be explained.
        reason: why not; "" when it can.
    """

    model: LoadedModel
    program: Program
    plan: Plan | None
    reason: str

    @property
    def explainable(self) -> bool:
        """True when every node that the explanation needs is supported and a spine was found."""
        return self.plan is not None

    @property
    def unsupported(self) -> tuple[UnsupportedNode, ...]:
        """Nodes that cannot be computed, with reasons."""
        return self.program.unsupported

    @property
    def head(self) -> HeadDescription | None:
        """What kind of output is explained; None when no similarity of it could be."""
        if self.plan is None:
            return None
        output = self.plan.head.output if self.plan.head.output in self.program.outputs else None
        try:
            found = find_head(
                self.program, self.plan.layouts, output=output, source=self.plan.source, embedding=True
            )
        except AnalysisError:
            return None
        return describe_head(
            self.program,
            found.output,
            found.top,
            squashed=bool(found.squashed_by),
            is_feature_map=found.is_feature_map,
        )

    def costs(self) -> tuple[Cost, ...]:
        """Estimated cost of inverting each segment, in order; empty when the model cannot be explained."""
        return tuple(segment_cost(self.program, s) for s in (self.plan.segments if self.plan else ()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `naflow inspect --json` prints them."""
        graph, plan, head = self.model.graph, self.plan, self.head
        costs = self.costs()
        return {
            "model": {
                "file": self.model.source.name,
                "sha256": self.model.source.sha256,
                "bytes": self.model.source.size,
                "opset": dict(graph.original_opsets),
                "normalised_opset": dict(graph.opsets),
                "ir_version": graph.ir_version,
                "producer": graph.producer,
            },
            "inputs": [_spec(spec, self.program.inputs.get(spec.name)) for spec in graph.inputs],
            "outputs": [_spec(spec, self.program.shapes.get(spec.name)) for spec in graph.outputs],
            "explained_output": plan.head.output if plan else None,
            "scores": plan.head.scores if plan else None,
            "top_feature_map": plan.top if plan else None,
            "head": asdict(head) if head else None,
            "spine": [
                {"index": i, "tensor": name, "shape": list(self.program.shapes[name])}
                for i, name in enumerate(plan.spine if plan else ())
            ],
            "blocks": list(plan.blocks()) if plan else [],
            "segments": [
                {**_segment(i, segment), "cost": cost.to_dict()}
                for i, (segment, cost) in enumerate(zip(plan.segments if plan else (), costs, strict=True))
            ],
            "cost": {**total_cost(costs).to_dict(), "typical_iterations": TYPICAL_ITERATIONS},
            **coverage(plan),
            "nodes": [self._node(node) for node in graph.nodes],
            "unsupported": [
                {"node": u.node, "op_type": u.op_type, "reason": u.reason} for u in self.program.unsupported
            ],
            "explainable": self.explainable,
            "reason": self.reason,
        }

    def _node(self, node: Node) -> dict[str, Any]:
        refused = any(
            u.node == node.name or u.node.startswith(f"{node.name}/") for u in self.program.unsupported
        )
        rule, kind = (None, None) if refused else self._rule(node)
        return {
            "name": node.name,
            "op_type": node.op_type,
            "domain": node.domain,
            "since_version": _since(node),
            "rule": rule,
            "class": kind,
            "supported": not refused,
        }

    def _rule(self, node: Node) -> tuple[str | None, str | None]:
        """The rule of the node on its own, for its first input that depends on the model's input."""
        made = [name for name in node.outputs if name in self.program.producer]
        if not made:
            unreached = node.name in set(self.program.skipped)
            return (None, None) if unreached else ("constant", "passthrough")
        step = self.program.steps[self.program.producer[made[0]]]
        source = next((s for s in step.sources if isinstance(s, str) and self.program.is_dynamic(s)), None)
        if source is None:
            return "constant", "passthrough"
        rule = make_segment(self.program, source, made[0], following=()).rule
        return rule.name, rule.kind


def _spec(spec: TensorSpec, used: tuple[int, ...] | None) -> dict[str, Any]:
    declared = None if spec.shape is None else list(spec.shape)
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": declared,
        "used_shape": list(used) if used else None,
    }


def _segment(index: int, segment: Segment) -> dict[str, Any]:
    return {
        "index": index,
        "kind": segment.kind,
        "nodes": [step.node.name for step in segment.steps],
        "op_types": [step.node.op_type for step in segment.steps],
        "rule": segment.rule.name,
        "class": segment.rule.kind,
        "input": segment.source,
        "output": segment.target,
    }


def _since(node: Node) -> int:
    try:
        return int(onnx.defs.get_schema(node.op_type, node.version, node.domain).since_version)
    except onnx.defs.SchemaError:
        return node.version
