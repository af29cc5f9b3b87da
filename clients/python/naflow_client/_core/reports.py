"""Reading messages about models."""

from __future__ import annotations

from naflow.v1 import explanation_pb2, model_report_pb2, model_repository_pb2
from naflow_client.models import (
    Cost,
    Head,
    ModelReport,
    ModelState,
    ModelStatus,
    NodeReport,
    Segment,
    SpineTensor,
    TensorInfo,
    UnsupportedNode,
    VersionStatus,
    WithoutFlow,
)


def model_report(message: explanation_pb2.InspectModelResponse) -> ModelReport:
    """The coverage report of a model."""
    report = message.report
    return ModelReport(
        model=message.model_name,
        version=message.model_version,
        explainable=report.explainable,
        reason=report.reason,
        sha256=report.sha256,
        size_bytes=report.size_bytes,
        producer=report.producer,
        ir_version=report.ir_version,
        opsets=dict(report.opsets),
        inputs=tuple(_tensor(item) for item in report.inputs),
        outputs=tuple(_tensor(item) for item in report.outputs),
        explained_output=report.explained_output,
        scores=report.scores,
        top_feature_map=report.top_feature_map,
        spine=tuple(SpineTensor(item.index, item.tensor, tuple(item.shape)) for item in report.spine),
        blocks=tuple(report.blocks),
        segments=tuple(
            Segment(
                index=item.index,
                kind=item.kind,
                nodes=tuple(item.nodes),
                op_types=tuple(item.op_types),
                rule=item.rule,
                rule_class=_rule_class(item.rule_class),
                input=item.input,
                output=item.output,
                cost=_cost(item.cost),
            )
            for item in report.segments
        ),
        nodes=tuple(
            NodeReport(
                name=item.name,
                op_type=item.op_type,
                domain=item.domain,
                since_version=item.since_version,
                rule=item.rule,
                rule_class=_rule_class(item.rule_class),
                supported=item.supported,
            )
            for item in report.nodes
        ),
        unsupported=tuple(UnsupportedNode(x.node, x.op_type, x.reason) for x in report.unsupported),
        cost=_cost(report.cost),
        typical_iterations=report.typical_iterations,
        flows={
            "blocks": report.flows.blocks,
            "spine": report.flows.spine,
            "nodes": report.flows.nodes,
        },
        without_flow=tuple(WithoutFlow(group.reason, tuple(group.tensors)) for group in report.without_flow),
        notes=tuple(report.notes),
        head=_head(report.head) if report.HasField("head") else None,
    )


def model_status(message: model_repository_pb2.ModelStatus) -> ModelStatus:
    """One model of the repository."""
    versions = tuple(
        VersionStatus(
            version=item.model_version,
            state=_state(item.state),
            reason=item.reason,
            sha256=item.sha256,
            memory_bytes=item.memory_bytes,
        )
        for item in message.versions
    )
    return ModelStatus(message.model_name, message.ready, versions, message.reason)


def _cost(message: model_report_pb2.Cost) -> Cost:
    return Cost(message.jacobian_multiply_adds, message.solve_multiply_adds, message.memory_bytes)


def _head(message: model_report_pb2.Head) -> Head:
    return Head(
        kind=message.kind,
        pooling=message.pooling,
        unit_length=message.unit_length,
        steps=tuple(message.steps),
        top_feature_map=message.top_feature_map,
        shape=tuple(message.shape),
    )


def _state(value: int) -> ModelState:
    """A state that this client does not know yet reads as UNKNOWN."""
    found = model_repository_pb2.ModelState.DESCRIPTOR.values_by_number.get(value)
    name = found.name.removeprefix("MODEL_STATE_") if found else ""
    return ModelState.__members__.get(name, ModelState.UNKNOWN)


def _tensor(message: model_report_pb2.TensorInfo) -> TensorInfo:
    return TensorInfo(
        name=message.name,
        dtype=message.dtype,
        shape=tuple(_dimension(item) for item in message.declared_shape)
        if message.has_declared_shape
        else None,
        used_shape=tuple(message.used_shape) or None,
    )


def _dimension(message: model_report_pb2.DeclaredDimension) -> int | str | None:
    kind = message.WhichOneof("dimension")
    return message.size if kind == "size" else message.symbol if kind == "symbol" else None


def _rule_class(value: int) -> str:
    found = model_report_pb2.RuleClass.DESCRIPTOR.values_by_number.get(value)
    name = found.name.removeprefix("RULE_CLASS_").lower() if found else ""
    return "" if name == "unspecified" else name
