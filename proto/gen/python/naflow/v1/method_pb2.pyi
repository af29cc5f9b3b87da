from naflow.v1 import similarity_pb2 as _similarity_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LayerSet(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYER_SET_UNSPECIFIED: _ClassVar[LayerSet]
    LAYER_SET_BLOCKS: _ClassVar[LayerSet]
    LAYER_SET_SPINE: _ClassVar[LayerSet]
    LAYER_SET_NODES: _ClassVar[LayerSet]

class Inverse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INVERSE_UNSPECIFIED: _ClassVar[Inverse]
    INVERSE_LEAST_SQUARES: _ClassVar[Inverse]
    INVERSE_ACTIVATION: _ClassVar[Inverse]

class Rows(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROWS_UNSPECIFIED: _ClassVar[Rows]
    ROWS_RETAINED: _ClassVar[Rows]
    ROWS_ACTIVE: _ClassVar[Rows]
    ROWS_ALL: _ClassVar[Rows]

class Anchor(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANCHOR_UNSPECIFIED: _ClassVar[Anchor]
    ANCHOR_ORIGIN: _ClassVar[Anchor]
    ANCHOR_ACTIVATION: _ClassVar[Anchor]
    ANCHOR_SIGNED: _ClassVar[Anchor]
    ANCHOR_RELATIVE: _ClassVar[Anchor]

class Weighting(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEIGHTING_UNSPECIFIED: _ClassVar[Weighting]
    WEIGHTING_SCALED: _ClassVar[Weighting]
    WEIGHTING_PLAIN: _ClassVar[Weighting]

class Evidence(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVIDENCE_UNSPECIFIED: _ClassVar[Evidence]
    EVIDENCE_POSITIVE: _ClassVar[Evidence]
    EVIDENCE_NET: _ClassVar[Evidence]

class AbandonmentRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ABANDONMENT_RULE_UNSPECIFIED: _ClassVar[AbandonmentRule]
    ABANDONMENT_RULE_ZERO_GRADIENT: _ClassVar[AbandonmentRule]
    ABANDONMENT_RULE_MASS: _ClassVar[AbandonmentRule]
    ABANDONMENT_RULE_MASS_EACH: _ClassVar[AbandonmentRule]
    ABANDONMENT_RULE_SOFT_MASS: _ClassVar[AbandonmentRule]
    ABANDONMENT_RULE_BALANCED_MASS: _ClassVar[AbandonmentRule]
    ABANDONMENT_RULE_GRADED_MASS: _ClassVar[AbandonmentRule]
LAYER_SET_UNSPECIFIED: LayerSet
LAYER_SET_BLOCKS: LayerSet
LAYER_SET_SPINE: LayerSet
LAYER_SET_NODES: LayerSet
INVERSE_UNSPECIFIED: Inverse
INVERSE_LEAST_SQUARES: Inverse
INVERSE_ACTIVATION: Inverse
ROWS_UNSPECIFIED: Rows
ROWS_RETAINED: Rows
ROWS_ACTIVE: Rows
ROWS_ALL: Rows
ANCHOR_UNSPECIFIED: Anchor
ANCHOR_ORIGIN: Anchor
ANCHOR_ACTIVATION: Anchor
ANCHOR_SIGNED: Anchor
ANCHOR_RELATIVE: Anchor
WEIGHTING_UNSPECIFIED: Weighting
WEIGHTING_SCALED: Weighting
WEIGHTING_PLAIN: Weighting
EVIDENCE_UNSPECIFIED: Evidence
EVIDENCE_POSITIVE: Evidence
EVIDENCE_NET: Evidence
ABANDONMENT_RULE_UNSPECIFIED: AbandonmentRule
ABANDONMENT_RULE_ZERO_GRADIENT: AbandonmentRule
ABANDONMENT_RULE_MASS: AbandonmentRule
ABANDONMENT_RULE_MASS_EACH: AbandonmentRule
ABANDONMENT_RULE_SOFT_MASS: AbandonmentRule
ABANDONMENT_RULE_BALANCED_MASS: AbandonmentRule
ABANDONMENT_RULE_GRADED_MASS: AbandonmentRule

class Target(_message.Message):
    __slots__ = ("class_target", "similarity_target", "prototype_target", "bank_target")
    CLASS_TARGET_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_TARGET_FIELD_NUMBER: _ClassVar[int]
    PROTOTYPE_TARGET_FIELD_NUMBER: _ClassVar[int]
    BANK_TARGET_FIELD_NUMBER: _ClassVar[int]
    class_target: ClassTarget
    similarity_target: _similarity_pb2.SimilarityTarget
    prototype_target: _similarity_pb2.PrototypeTarget
    bank_target: _similarity_pb2.BankTarget
    def __init__(self, class_target: _Optional[_Union[ClassTarget, _Mapping]] = ..., similarity_target: _Optional[_Union[_similarity_pb2.SimilarityTarget, _Mapping]] = ..., prototype_target: _Optional[_Union[_similarity_pb2.PrototypeTarget, _Mapping]] = ..., bank_target: _Optional[_Union[_similarity_pb2.BankTarget, _Mapping]] = ...) -> None: ...

class ClassTarget(_message.Message):
    __slots__ = ("class_index", "class_name", "labels")
    CLASS_INDEX_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    class_index: int
    class_name: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, class_index: _Optional[int] = ..., class_name: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class Layers(_message.Message):
    __slots__ = ("set", "tensors")
    SET_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    set: LayerSet
    tensors: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, set: _Optional[_Union[LayerSet, str]] = ..., tensors: _Optional[_Iterable[str]] = ...) -> None: ...

class Abandonment(_message.Message):
    __slots__ = ("rule", "mass")
    RULE_FIELD_NUMBER: _ClassVar[int]
    MASS_FIELD_NUMBER: _ClassVar[int]
    rule: AbandonmentRule
    mass: float
    def __init__(self, rule: _Optional[_Union[AbandonmentRule, str]] = ..., mass: _Optional[float] = ...) -> None: ...

class Method(_message.Message):
    __slots__ = ("preset", "inverse", "rows", "abandonment", "feasible", "anchor", "damping", "tolerance", "max_iterations", "weighting", "evidence", "map_change")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    INVERSE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ABANDONMENT_FIELD_NUMBER: _ClassVar[int]
    FEASIBLE_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    DAMPING_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTING_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    MAP_CHANGE_FIELD_NUMBER: _ClassVar[int]
    preset: str
    inverse: Inverse
    rows: Rows
    abandonment: Abandonment
    feasible: bool
    anchor: Anchor
    damping: float
    tolerance: float
    max_iterations: int
    weighting: Weighting
    evidence: Evidence
    map_change: float
    def __init__(self, preset: _Optional[str] = ..., inverse: _Optional[_Union[Inverse, str]] = ..., rows: _Optional[_Union[Rows, str]] = ..., abandonment: _Optional[_Union[Abandonment, _Mapping]] = ..., feasible: bool = ..., anchor: _Optional[_Union[Anchor, str]] = ..., damping: _Optional[float] = ..., tolerance: _Optional[float] = ..., max_iterations: _Optional[int] = ..., weighting: _Optional[_Union[Weighting, str]] = ..., evidence: _Optional[_Union[Evidence, str]] = ..., map_change: _Optional[float] = ...) -> None: ...
