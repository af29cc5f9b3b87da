"""Models, their states and their coverage reports to messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naflow.v1 import model_report_pb2 as rep
from naflow.v1 import model_repository_pb2 as repo
from naflow_server.engine.types import ModelInfo

RULE_CLASSES = {
    "exact": rep.RULE_CLASS_EXACT,
    "least_squares": rep.RULE_CLASS_LEAST_SQUARES,
    "mask": rep.RULE_CLASS_MASK,
    "passthrough": rep.RULE_CLASS_PASSTHROUGH,
}


def model_status(info: ModelInfo) -> repo.ModelStatus:
    """A model of the repository."""
    return repo.ModelStatus(
        model_name=info.name,
        ready=info.ready,
        reason=info.reason,
        versions=[
            repo.VersionStatus(
                model_version=version.version,
                state=repo.ModelState.Value(f"MODEL_STATE_{version.state.name}"),
                reason=version.reason,
                sha256=version.sha256,
                memory_bytes=version.bytes,
            )
            for version in info.versions
        ],
    )


def model_report(facts: Mapping[str, Any]) -> rep.ModelReport:
    """The coverage report, from `CoverageReport.to_dict`."""
    return rep.ModelReport(
        explainable=facts["explainable"],
        reason=facts["reason"],
        sha256=facts["model"]["sha256"],
        size_bytes=facts["model"]["bytes"],
        producer=facts["model"]["producer"],
        ir_version=facts["model"]["ir_version"],
        opsets=facts["model"]["opset"],
        inputs=[_tensor_info(spec) for spec in facts["inputs"]],
        outputs=[_tensor_info(spec) for spec in facts["outputs"]],
        explained_output=facts["explained_output"] or "",
        scores=facts["scores"] or "",
        top_feature_map=facts["top_feature_map"] or "",
        spine=[rep.SpineTensor(**tensor) for tensor in facts["spine"]],
        blocks=facts["blocks"],
        segments=[
            rep.Segment(**_ruled(segment), cost=rep.Cost(**segment["cost"])) for segment in facts["segments"]
        ],
        nodes=[rep.NodeReport(**_ruled(node)) for node in facts["nodes"]],
        unsupported=[rep.UnsupportedNode(**node) for node in facts["unsupported"]],
        cost=rep.Cost(**{name: n for name, n in facts["cost"].items() if name != "typical_iterations"}),
        typical_iterations=facts["cost"]["typical_iterations"],
        flows=rep.FlowCounts(**facts["flows"]),
        without_flow=[rep.WithoutFlow(**group) for group in facts["without_flow"]],
        notes=facts["notes"],
        head=rep.Head(**facts["head"]) if facts["head"] else None,
    )


def _tensor_info(spec: Mapping[str, Any]) -> rep.TensorInfo:
    return rep.TensorInfo(
        name=spec["name"],
        dtype=spec["dtype"],
        has_declared_shape=spec["shape"] is not None,
        declared_shape=[
            rep.DeclaredDimension(size=d)
            if isinstance(d, int)
            else rep.DeclaredDimension(symbol=d)
            if d
            else rep.DeclaredDimension()
            for d in spec["shape"] or ()
        ],
        used_shape=spec["used_shape"] or (),
    )


def _ruled(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Field values of a segment or node, costs aside: its rule's class is called `class` in the report."""
    left_out = {"class", "cost"}
    values = {key: value for key, value in facts.items() if key not in left_out and value is not None}
    return values | {"rule_class": RULE_CLASSES.get(facts["class"], rep.RULE_CLASS_UNSPECIFIED)}
