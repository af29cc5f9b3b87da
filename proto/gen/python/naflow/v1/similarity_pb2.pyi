from naflow.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Coefficients(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COEFFICIENTS_UNSPECIFIED: _ClassVar[Coefficients]
    COEFFICIENTS_GRADIENT: _ClassVar[Coefficients]
    COEFFICIENTS_CONTRIBUTION: _ClassVar[Coefficients]

class Normalisation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NORMALISATION_UNSPECIFIED: _ClassVar[Normalisation]
    NORMALISATION_MINMAX: _ClassVar[Normalisation]
    NORMALISATION_NONE: _ClassVar[Normalisation]
COEFFICIENTS_UNSPECIFIED: Coefficients
COEFFICIENTS_GRADIENT: Coefficients
COEFFICIENTS_CONTRIBUTION: Coefficients
NORMALISATION_UNSPECIFIED: Normalisation
NORMALISATION_MINMAX: Normalisation
NORMALISATION_NONE: Normalisation

class Comparison(_message.Message):
    __slots__ = ("metric", "coefficients", "normalisation")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    NORMALISATION_FIELD_NUMBER: _ClassVar[int]
    metric: str
    coefficients: Coefficients
    normalisation: Normalisation
    def __init__(self, metric: _Optional[str] = ..., coefficients: _Optional[_Union[Coefficients, str]] = ..., normalisation: _Optional[_Union[Normalisation, str]] = ...) -> None: ...

class References(_message.Message):
    __slots__ = ("embeddings", "pictures")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    embeddings: _tensor_pb2.Tensor
    pictures: Pictures
    def __init__(self, embeddings: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., pictures: _Optional[_Union[Pictures, _Mapping]] = ...) -> None: ...

class Pictures(_message.Message):
    __slots__ = ("inputs",)
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.MessageMap[str, _tensor_pb2.Tensor]
    def __init__(self, inputs: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ...) -> None: ...

class SimilarityTarget(_message.Message):
    __slots__ = ("references", "comparison", "paired")
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    PAIRED_FIELD_NUMBER: _ClassVar[int]
    references: References
    comparison: Comparison
    paired: bool
    def __init__(self, references: _Optional[_Union[References, _Mapping]] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ..., paired: bool = ...) -> None: ...

class PrototypeTarget(_message.Message):
    __slots__ = ("supports", "labels", "wanted", "contrast", "comparison")
    SUPPORTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    CONTRAST_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    supports: References
    labels: _containers.RepeatedScalarFieldContainer[str]
    wanted: str
    contrast: bool
    comparison: Comparison
    def __init__(self, supports: _Optional[_Union[References, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., wanted: _Optional[str] = ..., contrast: bool = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ...) -> None: ...

class BankTarget(_message.Message):
    __slots__ = ("bank_name", "embeddings", "neighbours", "wanted", "temperature", "comparison")
    BANK_NAME_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    bank_name: str
    embeddings: LabelledEmbeddings
    neighbours: int
    wanted: str
    temperature: float
    comparison: Comparison
    def __init__(self, bank_name: _Optional[str] = ..., embeddings: _Optional[_Union[LabelledEmbeddings, _Mapping]] = ..., neighbours: _Optional[int] = ..., wanted: _Optional[str] = ..., temperature: _Optional[float] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ...) -> None: ...

class LabelledEmbeddings(_message.Message):
    __slots__ = ("embeddings", "labels", "model_sha256")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    embeddings: _tensor_pb2.Tensor
    labels: _containers.RepeatedScalarFieldContainer[str]
    model_sha256: str
    def __init__(self, embeddings: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., model_sha256: _Optional[str] = ...) -> None: ...

class Similarity(_message.Message):
    __slots__ = ("score", "comparison", "channels", "neighbours", "bank_id", "bank_version")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    BANK_ID_FIELD_NUMBER: _ClassVar[int]
    BANK_VERSION_FIELD_NUMBER: _ClassVar[int]
    score: float
    comparison: Comparison
    channels: _containers.RepeatedCompositeFieldContainer[ChannelContribution]
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    bank_id: str
    bank_version: int
    def __init__(self, score: _Optional[float] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ..., channels: _Optional[_Iterable[_Union[ChannelContribution, _Mapping]]] = ..., neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ..., bank_id: _Optional[str] = ..., bank_version: _Optional[int] = ...) -> None: ...

class ChannelContribution(_message.Message):
    __slots__ = ("channel", "contribution")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    channel: int
    contribution: float
    def __init__(self, channel: _Optional[int] = ..., contribution: _Optional[float] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("index", "label", "similarity", "used")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    similarity: float
    used: bool
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., similarity: _Optional[float] = ..., used: bool = ...) -> None: ...
