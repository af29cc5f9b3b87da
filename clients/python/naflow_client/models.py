"""What a server says about its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class ModelState(Enum):
    """What a version of a model is doing."""

    UNKNOWN = "unknown"
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """A version of a model.

    Attributes:
        version: name in the repository.
        state: what it is doing; evicted ones load again at the next request.
        reason: why it is not ready, or why an older file still answers; may be empty.
        sha256: of the file that answers; "" when none is loaded.
        memory_bytes: that its weights take; 0 unless loaded.
    """

    version: str
    state: ModelState
    reason: str
    sha256: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model of the server's repository.

    Attributes:
        model: its name.
        ready: whether a request for it is taken.
        versions: lowest first.
        reason: why it has no versions to offer; may be empty.
    """

    model: str
    ready: bool
    versions: tuple[VersionStatus, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a model.

    Attributes:
        dtype: in ONNX's own words, such as "float".
        shape: as declared: a size, a symbol, or None per axis; None where nothing is declared.
        used_shape: that it was inspected with; None where it could not be computed.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    used_shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class SpineTensor:
    """A tensor that all information passes through; index 0 is nearest to the input."""

    index: int
    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimates for a segment or a whole cascade.

    Attributes:
        jacobian_multiply_adds: of one application of the Jacobian.
        solve_multiply_adds: of the inverse.
        memory_bytes: that the inverse needs beside weights and forward activations, at most at a time.
    """

    jacobian_multiply_adds: int = 0
    solve_multiply_adds: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WithoutFlow:
    """Tensors that get no map whatever layers are asked for, and why."""

    reason: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """What lies between the top feature map and the output where a similarity is explained.

    Attributes:
        kind: "class scores", "embedding", "local descriptors" or "class scores or embedding".
        pooling: "GeM", the operator that pools, "Flatten" or "none".
        unit_length: whether the graph brings its output to unit length.
        steps: operators from the top feature map to the output.
        top_feature_map: for similarities.
        shape: of one embedding.
    """

    kind: str
    pooling: str
    unit_length: bool
    steps: tuple[str, ...]
    top_feature_map: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A step of the cascade.

    Attributes:
        kind: "node" or "composite".
        nodes, op_types: what it is made of.
        rule, rule_class: its inverse; the class is "exact", "least_squares", "mask" or "passthrough".
        input, output: tensors at its ends.
        cost: of inverting it.
    """

    index: int
    kind: str
    nodes: tuple[str, ...]
    op_types: tuple[str, ...]
    rule: str
    rule_class: str
    input: str
    output: str
    cost: Cost = Cost()


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node of the graph, its inverse rule on its own, and whether it can be computed."""

    name: str
    op_type: str
    domain: str
    since_version: int
    rule: str
    rule_class: str
    supported: bool


@dataclass(frozen=True, slots=True)
class UnsupportedNode:
    """A node that cannot be computed, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What will happen to a model.

    Attributes:
        model, version: what was inspected.
        explainable: whether it can be explained; `reason` says why not.
        opsets: operator set versions by domain ("" is ai.onnx).
        explained_output, scores: graph output that is explained, and the tensor that holds its logits.
        top_feature_map: where explanations start.
        blocks: spine tensors that end a block.
        cost: of the whole cascade, with `typical_iterations` for each least-squares solve; all 0 where an
            older server answers.
        flows: how many maps each choice of layers gives, by its name.
        without_flow: tensors that get none.
        notes: what is worth knowing about this graph, one sentence each.
        head: for similarities; None where none can be explained.
    """

    model: str
    version: str
    explainable: bool
    reason: str
    sha256: str
    size_bytes: int
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    explained_output: str
    scores: str
    top_feature_map: str
    spine: tuple[SpineTensor, ...]
    blocks: tuple[str, ...]
    segments: tuple[Segment, ...]
    nodes: tuple[NodeReport, ...]
    unsupported: tuple[UnsupportedNode, ...]
    cost: Cost = Cost()
    typical_iterations: int = 0
    flows: Mapping[str, int] = field(default_factory=dict)
    without_flow: tuple[WithoutFlow, ...] = ()
    notes: tuple[str, ...] = ()
    head: Head | None = None
