from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RuleClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RULE_CLASS_UNSPECIFIED: _ClassVar[RuleClass]
    RULE_CLASS_EXACT: _ClassVar[RuleClass]
    RULE_CLASS_LEAST_SQUARES: _ClassVar[RuleClass]
    RULE_CLASS_MASK: _ClassVar[RuleClass]
    RULE_CLASS_PASSTHROUGH: _ClassVar[RuleClass]
RULE_CLASS_UNSPECIFIED: RuleClass
RULE_CLASS_EXACT: RuleClass
RULE_CLASS_LEAST_SQUARES: RuleClass
RULE_CLASS_MASK: RuleClass
RULE_CLASS_PASSTHROUGH: RuleClass

class ModelReport(_message.Message):
    __slots__ = ("explainable", "reason", "sha256", "size_bytes", "producer", "ir_version", "opsets", "inputs", "outputs", "explained_output", "scores", "top_feature_map", "spine", "blocks", "segments", "nodes", "unsupported", "cost", "typical_iterations", "flows", "without_flow", "notes", "head")
    class OpsetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    EXPLAINABLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    IR_VERSION_FIELD_NUMBER: _ClassVar[int]
    OPSETS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EXPLAINED_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TOP_FEATURE_MAP_FIELD_NUMBER: _ClassVar[int]
    SPINE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    UNSUPPORTED_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    FLOWS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_FLOW_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    explainable: bool
    reason: str
    sha256: str
    size_bytes: int
    producer: str
    ir_version: int
    opsets: _containers.ScalarMap[str, int]
    inputs: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    explained_output: str
    scores: str
    top_feature_map: str
    spine: _containers.RepeatedCompositeFieldContainer[SpineTensor]
    blocks: _containers.RepeatedScalarFieldContainer[str]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeReport]
    unsupported: _containers.RepeatedCompositeFieldContainer[UnsupportedNode]
    cost: Cost
    typical_iterations: int
    flows: FlowCounts
    without_flow: _containers.RepeatedCompositeFieldContainer[WithoutFlow]
    notes: _containers.RepeatedScalarFieldContainer[str]
    head: Head
    def __init__(self, explainable: bool = ..., reason: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., producer: _Optional[str] = ..., ir_version: _Optional[int] = ..., opsets: _Optional[_Mapping[str, int]] = ..., inputs: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., explained_output: _Optional[str] = ..., scores: _Optional[str] = ..., top_feature_map: _Optional[str] = ..., spine: _Optional[_Iterable[_Union[SpineTensor, _Mapping]]] = ..., blocks: _Optional[_Iterable[str]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., nodes: _Optional[_Iterable[_Union[NodeReport, _Mapping]]] = ..., unsupported: _Optional[_Iterable[_Union[UnsupportedNode, _Mapping]]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., typical_iterations: _Optional[int] = ..., flows: _Optional[_Union[FlowCounts, _Mapping]] = ..., without_flow: _Optional[_Iterable[_Union[WithoutFlow, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ..., head: _Optional[_Union[Head, _Mapping]] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("jacobian_multiply_adds", "solve_multiply_adds", "memory_bytes")
    JACOBIAN_MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    SOLVE_MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    jacobian_multiply_adds: int
    solve_multiply_adds: int
    memory_bytes: int
    def __init__(self, jacobian_multiply_adds: _Optional[int] = ..., solve_multiply_adds: _Optional[int] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class FlowCounts(_message.Message):
    __slots__ = ("blocks", "spine", "nodes")
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    SPINE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    spine: int
    nodes: int
    def __init__(self, blocks: _Optional[int] = ..., spine: _Optional[int] = ..., nodes: _Optional[int] = ...) -> None: ...

class WithoutFlow(_message.Message):
    __slots__ = ("reason", "tensors")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    tensors: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reason: _Optional[str] = ..., tensors: _Optional[_Iterable[str]] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("kind", "pooling", "unit_length", "steps", "top_feature_map", "shape")
    KIND_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    UNIT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOP_FEATURE_MAP_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    pooling: str
    unit_length: bool
    steps: _containers.RepeatedScalarFieldContainer[str]
    top_feature_map: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, kind: _Optional[str] = ..., pooling: _Optional[str] = ..., unit_length: bool = ..., steps: _Optional[_Iterable[str]] = ..., top_feature_map: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class TensorInfo(_message.Message):
    __slots__ = ("name", "dtype", "has_declared_shape", "declared_shape", "used_shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    HAS_DECLARED_SHAPE_FIELD_NUMBER: _ClassVar[int]
    DECLARED_SHAPE_FIELD_NUMBER: _ClassVar[int]
    USED_SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    has_declared_shape: bool
    declared_shape: _containers.RepeatedCompositeFieldContainer[DeclaredDimension]
    used_shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., has_declared_shape: bool = ..., declared_shape: _Optional[_Iterable[_Union[DeclaredDimension, _Mapping]]] = ..., used_shape: _Optional[_Iterable[int]] = ...) -> None: ...

class DeclaredDimension(_message.Message):
    __slots__ = ("size", "symbol")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    size: int
    symbol: str
    def __init__(self, size: _Optional[int] = ..., symbol: _Optional[str] = ...) -> None: ...

class SpineTensor(_message.Message):
    __slots__ = ("index", "tensor", "shape")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    index: int
    tensor: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[int] = ..., tensor: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("index", "kind", "nodes", "op_types", "rule", "rule_class", "input", "output", "cost")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    OP_TYPES_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    RULE_CLASS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    index: int
    kind: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    op_types: _containers.RepeatedScalarFieldContainer[str]
    rule: str
    rule_class: RuleClass
    input: str
    output: str
    cost: Cost
    def __init__(self, index: _Optional[int] = ..., kind: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ..., op_types: _Optional[_Iterable[str]] = ..., rule: _Optional[str] = ..., rule_class: _Optional[_Union[RuleClass, str]] = ..., input: _Optional[str] = ..., output: _Optional[str] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ...) -> None: ...

class NodeReport(_message.Message):
    __slots__ = ("name", "op_type", "domain", "since_version", "rule", "rule_class", "supported")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OP_TYPE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SINCE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    RULE_CLASS_FIELD_NUMBER: _ClassVar[int]
    SUPPORTED_FIELD_NUMBER: _ClassVar[int]
    name: str
    op_type: str
    domain: str
    since_version: int
    rule: str
    rule_class: RuleClass
    supported: bool
    def __init__(self, name: _Optional[str] = ..., op_type: _Optional[str] = ..., domain: _Optional[str] = ..., since_version: _Optional[int] = ..., rule: _Optional[str] = ..., rule_class: _Optional[_Union[RuleClass, str]] = ..., supported: bool = ...) -> None: ...

class UnsupportedNode(_message.Message):
    __slots__ = ("node", "op_type", "reason")
    NODE_FIELD_NUMBER: _ClassVar[int]
    OP_TYPE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node: str
    op_type: str
    reason: str
    def __init__(self, node: _Optional[str] = ..., op_type: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
