from google.rpc import status_pb2 as _status_pb2
from naflow.v1 import method_pb2 as _method_pb2
from naflow.v1 import model_report_pb2 as _model_report_pb2
from naflow.v1 import similarity_pb2 as _similarity_pb2
from naflow.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExplainRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "inputs", "target", "method", "layers", "output", "top_feature_map", "request_id", "top_k", "reference_prediction", "explained_input", "grouped_flows")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    TOP_FEATURE_MAP_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_PREDICTION_FIELD_NUMBER: _ClassVar[int]
    EXPLAINED_INPUT_FIELD_NUMBER: _ClassVar[int]
    GROUPED_FLOWS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    inputs: _containers.MessageMap[str, _tensor_pb2.Tensor]
    target: _method_pb2.Target
    method: _method_pb2.Method
    layers: _method_pb2.Layers
    output: str
    top_feature_map: str
    request_id: str
    top_k: int
    reference_prediction: bool
    explained_input: str
    grouped_flows: bool
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., inputs: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., target: _Optional[_Union[_method_pb2.Target, _Mapping]] = ..., method: _Optional[_Union[_method_pb2.Method, _Mapping]] = ..., layers: _Optional[_Union[_method_pb2.Layers, _Mapping]] = ..., output: _Optional[str] = ..., top_feature_map: _Optional[str] = ..., request_id: _Optional[str] = ..., top_k: _Optional[int] = ..., reference_prediction: bool = ..., explained_input: _Optional[str] = ..., grouped_flows: bool = ...) -> None: ...

class ExplainEvent(_message.Message):
    __slots__ = ("request_id", "header", "layer_flow", "chunk", "progress", "layer_error", "summary", "layer_flows")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    LAYER_FLOW_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LAYER_ERROR_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    LAYER_FLOWS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    header: Header
    layer_flow: LayerFlow
    chunk: Chunk
    progress: Progress
    layer_error: LayerError
    summary: Summary
    layer_flows: LayerFlows
    def __init__(self, request_id: _Optional[str] = ..., header: _Optional[_Union[Header, _Mapping]] = ..., layer_flow: _Optional[_Union[LayerFlow, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., layer_error: _Optional[_Union[LayerError, _Mapping]] = ..., summary: _Optional[_Union[Summary, _Mapping]] = ..., layer_flows: _Optional[_Union[LayerFlows, _Mapping]] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("model_name", "model_version", "model_sha256", "output", "predictions", "layers", "total_layers", "total_bytes", "method")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_LAYERS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    model_sha256: str
    output: str
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    layers: _containers.RepeatedCompositeFieldContainer[LayerInfo]
    total_layers: int
    total_bytes: int
    method: _method_pb2.Method
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., model_sha256: _Optional[str] = ..., output: _Optional[str] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., layers: _Optional[_Iterable[_Union[LayerInfo, _Mapping]]] = ..., total_layers: _Optional[int] = ..., total_bytes: _Optional[int] = ..., method: _Optional[_Union[_method_pb2.Method, _Mapping]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("best", "target", "target_score", "squashed_by", "reference", "similarity")
    BEST_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TARGET_SCORE_FIELD_NUMBER: _ClassVar[int]
    SQUASHED_BY_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    best: _containers.RepeatedCompositeFieldContainer[ClassScore]
    target: ClassScore
    target_score: float
    squashed_by: str
    reference: ReferencePrediction
    similarity: _similarity_pb2.Similarity
    def __init__(self, best: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ..., target: _Optional[_Union[ClassScore, _Mapping]] = ..., target_score: _Optional[float] = ..., squashed_by: _Optional[str] = ..., reference: _Optional[_Union[ReferencePrediction, _Mapping]] = ..., similarity: _Optional[_Union[_similarity_pb2.Similarity, _Mapping]] = ...) -> None: ...

class ReferencePrediction(_message.Message):
    __slots__ = ("best", "scores", "largest_difference")
    BEST_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    LARGEST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    best: _containers.RepeatedCompositeFieldContainer[ClassScore]
    scores: _containers.RepeatedScalarFieldContainer[float]
    largest_difference: float
    def __init__(self, best: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ..., scores: _Optional[_Iterable[float]] = ..., largest_difference: _Optional[float] = ...) -> None: ...

class ClassScore(_message.Message):
    __slots__ = ("class_index", "score", "label")
    CLASS_INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    class_index: int
    score: float
    label: str
    def __init__(self, class_index: _Optional[int] = ..., score: _Optional[float] = ..., label: _Optional[str] = ...) -> None: ...

class LayerInfo(_message.Message):
    __slots__ = ("index", "tensor", "dtype", "shape")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    index: int
    tensor: str
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[int] = ..., tensor: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class LayerFlow(_message.Message):
    __slots__ = ("index", "tensor", "dtype", "shape", "data", "byte_size", "diagnostics")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    BYTE_SIZE_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSTICS_FIELD_NUMBER: _ClassVar[int]
    index: int
    tensor: str
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    byte_size: int
    diagnostics: LayerDiagnostics
    def __init__(self, index: _Optional[int] = ..., tensor: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., byte_size: _Optional[int] = ..., diagnostics: _Optional[_Union[LayerDiagnostics, _Mapping]] = ...) -> None: ...

class LayerFlows(_message.Message):
    __slots__ = ("flows",)
    FLOWS_FIELD_NUMBER: _ClassVar[int]
    flows: _containers.RepeatedCompositeFieldContainer[LayerFlow]
    def __init__(self, flows: _Optional[_Iterable[_Union[LayerFlow, _Mapping]]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("index", "offset", "last", "crc32c", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    offset: int
    last: bool
    crc32c: int
    data: bytes
    def __init__(self, index: _Optional[int] = ..., offset: _Optional[int] = ..., last: bool = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class LayerDiagnostics(_message.Message):
    __slots__ = ("node", "op_type", "shape", "rule", "seconds", "pictures")
    NODE_FIELD_NUMBER: _ClassVar[int]
    OP_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    node: str
    op_type: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    rule: str
    seconds: float
    pictures: _containers.RepeatedCompositeFieldContainer[PictureDiagnostics]
    def __init__(self, node: _Optional[str] = ..., op_type: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., rule: _Optional[str] = ..., seconds: _Optional[float] = ..., pictures: _Optional[_Iterable[_Union[PictureDiagnostics, _Mapping]]] = ...) -> None: ...

class PictureDiagnostics(_message.Message):
    __slots__ = ("retained_fraction", "iterations", "relative_residual", "converged", "conservation_gap")
    RETAINED_FRACTION_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    CONVERGED_FIELD_NUMBER: _ClassVar[int]
    CONSERVATION_GAP_FIELD_NUMBER: _ClassVar[int]
    retained_fraction: float
    iterations: int
    relative_residual: float
    converged: bool
    conservation_gap: float
    def __init__(self, retained_fraction: _Optional[float] = ..., iterations: _Optional[int] = ..., relative_residual: _Optional[float] = ..., converged: bool = ..., conservation_gap: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("layers_done", "layers_total", "tensor", "elapsed_seconds")
    LAYERS_DONE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    layers_done: int
    layers_total: int
    tensor: str
    elapsed_seconds: float
    def __init__(self, layers_done: _Optional[int] = ..., layers_total: _Optional[int] = ..., tensor: _Optional[str] = ..., elapsed_seconds: _Optional[float] = ...) -> None: ...

class LayerError(_message.Message):
    __slots__ = ("index", "tensor", "status")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    index: int
    tensor: str
    status: _status_pb2.Status
    def __init__(self, index: _Optional[int] = ..., tensor: _Optional[str] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ("layers_sent", "layers_failed", "queue_seconds", "compute_seconds", "first_flow_seconds", "total_seconds", "iterations", "batch_size", "error")
    LAYERS_SENT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FAILED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FLOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    layers_sent: int
    layers_failed: int
    queue_seconds: float
    compute_seconds: float
    first_flow_seconds: float
    total_seconds: float
    iterations: int
    batch_size: int
    error: _status_pb2.Status
    def __init__(self, layers_sent: _Optional[int] = ..., layers_failed: _Optional[int] = ..., queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., first_flow_seconds: _Optional[float] = ..., total_seconds: _Optional[float] = ..., iterations: _Optional[int] = ..., batch_size: _Optional[int] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class InspectModelRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "input_shapes", "output", "top_feature_map", "explained_input")
    class InputShapesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Shape
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Shape, _Mapping]] = ...) -> None: ...
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    TOP_FEATURE_MAP_FIELD_NUMBER: _ClassVar[int]
    EXPLAINED_INPUT_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    input_shapes: _containers.MessageMap[str, _tensor_pb2.Shape]
    output: str
    top_feature_map: str
    explained_input: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., input_shapes: _Optional[_Mapping[str, _tensor_pb2.Shape]] = ..., output: _Optional[str] = ..., top_feature_map: _Optional[str] = ..., explained_input: _Optional[str] = ...) -> None: ...

class InspectModelResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "report")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    report: _model_report_pb2.ModelReport
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., report: _Optional[_Union[_model_report_pb2.ModelReport, _Mapping]] = ...) -> None: ...
