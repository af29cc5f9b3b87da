from naflow.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BankStatus(_message.Message):
    __slots__ = ("bank_name", "bank_id", "dimension", "dtype", "model_sha256", "version", "embedding_count", "labelled_count", "size_bytes", "reason")
    BANK_NAME_FIELD_NUMBER: _ClassVar[int]
    BANK_ID_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_COUNT_FIELD_NUMBER: _ClassVar[int]
    LABELLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    bank_name: str
    bank_id: str
    dimension: int
    dtype: _tensor_pb2.DataType
    model_sha256: str
    version: int
    embedding_count: int
    labelled_count: int
    size_bytes: int
    reason: str
    def __init__(self, bank_name: _Optional[str] = ..., bank_id: _Optional[str] = ..., dimension: _Optional[int] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., model_sha256: _Optional[str] = ..., version: _Optional[int] = ..., embedding_count: _Optional[int] = ..., labelled_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class CreateBankRequest(_message.Message):
    __slots__ = ("bank_name", "dimension", "model_sha256", "bank_id")
    BANK_NAME_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    BANK_ID_FIELD_NUMBER: _ClassVar[int]
    bank_name: str
    dimension: int
    model_sha256: str
    bank_id: str
    def __init__(self, bank_name: _Optional[str] = ..., dimension: _Optional[int] = ..., model_sha256: _Optional[str] = ..., bank_id: _Optional[str] = ...) -> None: ...

class CreateBankResponse(_message.Message):
    __slots__ = ("bank",)
    BANK_FIELD_NUMBER: _ClassVar[int]
    bank: BankStatus
    def __init__(self, bank: _Optional[_Union[BankStatus, _Mapping]] = ...) -> None: ...

class AppendReferencesRequest(_message.Message):
    __slots__ = ("bank_name", "model_sha256", "embeddings", "labels", "append_id")
    BANK_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    APPEND_ID_FIELD_NUMBER: _ClassVar[int]
    bank_name: str
    model_sha256: str
    embeddings: _tensor_pb2.Tensor
    labels: _containers.RepeatedScalarFieldContainer[str]
    append_id: str
    def __init__(self, bank_name: _Optional[str] = ..., model_sha256: _Optional[str] = ..., embeddings: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., append_id: _Optional[str] = ...) -> None: ...

class AppendReferencesResponse(_message.Message):
    __slots__ = ("bank", "version", "first_index", "repeated")
    BANK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    bank: BankStatus
    version: int
    first_index: int
    repeated: bool
    def __init__(self, bank: _Optional[_Union[BankStatus, _Mapping]] = ..., version: _Optional[int] = ..., first_index: _Optional[int] = ..., repeated: bool = ...) -> None: ...

class ListBanksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBanksResponse(_message.Message):
    __slots__ = ("banks",)
    BANKS_FIELD_NUMBER: _ClassVar[int]
    banks: _containers.RepeatedCompositeFieldContainer[BankStatus]
    def __init__(self, banks: _Optional[_Iterable[_Union[BankStatus, _Mapping]]] = ...) -> None: ...

class GetBankRequest(_message.Message):
    __slots__ = ("bank_name",)
    BANK_NAME_FIELD_NUMBER: _ClassVar[int]
    bank_name: str
    def __init__(self, bank_name: _Optional[str] = ...) -> None: ...

class GetBankResponse(_message.Message):
    __slots__ = ("bank",)
    BANK_FIELD_NUMBER: _ClassVar[int]
    bank: BankStatus
    def __init__(self, bank: _Optional[_Union[BankStatus, _Mapping]] = ...) -> None: ...

class DeleteBankRequest(_message.Message):
    __slots__ = ("bank_name", "bank_id", "allow_missing")
    BANK_NAME_FIELD_NUMBER: _ClassVar[int]
    BANK_ID_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    bank_name: str
    bank_id: str
    allow_missing: bool
    def __init__(self, bank_name: _Optional[str] = ..., bank_id: _Optional[str] = ..., allow_missing: bool = ...) -> None: ...

class DeleteBankResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
