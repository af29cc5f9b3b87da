"""What goes into the engine and what comes out: plain data, no transport."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

import naflow_core as nf
from naflow_server.tracing import Trace


class Code(enum.Enum):
    """Why a request failed. The names are those of gRPC, so that a transport maps them by name."""

    CANCELLED = "CANCELLED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"


class EngineError(Exception):
    """A request that cannot be served, or not to its end.

    Attributes:
        code: see `Code`.
        message: one line, names the model, tensor or field.
        hint: what to do about it; may be empty.
        field: the request's field at fault ("inputs", "target", "layers", ...), or None.
        retry_after: seconds after which trying again makes sense, or None.
        reason: stable machine-readable name, e.g. "queue_full", or the `code` of a core exception.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        hint: str = "",
        field: str | None = None,
        retry_after: float | None = None,
        reason: str = "",
    ) -> None:
        self.code = code
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())
        self.field = field
        self.retry_after = retry_after
        self.reason = reason or code.name.lower()
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True, slots=True, eq=False)
class LabelledEmbeddings:
    """A small bank that comes with a request.

    Attributes:
        embeddings: float32 [M, C, ...].
        labels: [M], none of them empty.
        model_sha256: of the model that made them; "" is not checked.
    """

    embeddings: np.ndarray
    labels: tuple[str, ...]
    model_sha256: str = ""


@dataclass(frozen=True, slots=True)
class BankQuery:
    """The similarity with the nearest of a bank: `nf.BankTarget` before the bank is looked up.

    Attributes:
        bank: name of one that the server keeps, or one that comes along.
        k, wanted, metric, normalise, coefficients, temperature: as in `nf.BankTarget`.
    """

    bank: str | LabelledEmbeddings
    k: int = 20
    wanted: str | None = None
    metric: str = "cosine"
    normalise: str = "minmax"
    coefficients: str = "gradient"
    temperature: float = 0.07


@dataclass(frozen=True, slots=True)
class BankVersion:
    """One content of a bank that the server keeps."""

    id: str
    version: int


Target = nf.ClassTarget | nf.SimilarityTarget | nf.PrototypeTarget | nf.BankTarget | BankQuery


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """One explanation to compute.

    Attributes:
        model: name in the repository.
        inputs: arrays by the model's input names, each [N, ...] with the same N; the name "" stands for the
            only input of a model that has one.
        version: of the model; the highest that is ready when None.
        target: what is explained, for every picture of this request. References of a similarity are
            embeddings, or a mapping of pictures by input name.
        method: options of the method.
        layers: "blocks", "spine", "nodes", a tensor name or several.
        output: which graph output; needed when there are several.
        top_feature_map: name of t_K; found by analysis when None.
        explained_input: which of several inputs the flows lead to; found by analysis when None.
        grouped: whether the reader takes several maps at a time.
        request_id: for logs.
        deadline: `time.monotonic()` seconds after which the result is of no use, or None.
        trace: span that the spans of the work are put under, or None.
    """

    model: str
    inputs: Mapping[str, np.ndarray]
    version: str | None = None
    target: Target = field(default_factory=nf.ClassTarget)
    method: nf.Method = field(default_factory=nf.Method)
    layers: str | tuple[str, ...] = "blocks"
    output: str | None = None
    top_feature_map: str | None = None
    explained_input: str | None = None
    grouped: bool = False
    request_id: str = ""
    deadline: float | None = None
    trace: Trace | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer that will be explained. `shape` is its map's, [N, H, W] (or [N, L], [N, D, H, W])."""

    index: int
    tensor: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Header:
    """First event of a stream.

    Attributes:
        model, version: what answers.
        sha256: of the model file.
        prediction: what the model says about this request's pictures, and which class is explained.
        layers: in order of index, nearest to the input first; the flows come deepest first.
        reference: onnxruntime's scores of the explained output, [N, classes], where they were asked for.
        bank: the content of the server's bank that answered, if one did.
    """

    model: str
    version: str
    sha256: str
    prediction: nf.Prediction
    layers: tuple[LayerInfo, ...]
    reference: np.ndarray | None = None
    bank: BankVersion | None = None

    @property
    def total(self) -> int:
        """Number of layers that will come."""
        return len(self.layers)


@dataclass(frozen=True, slots=True)
class LayerFlow:
    """One layer's map of this request's pictures, with its diagnostics."""

    flow: nf.Flow


@dataclass(frozen=True, slots=True)
class Progress:
    """Sign of life while no other event is ready.

    Attributes:
        done, total: layers finished and asked for; total is 0 before the header.
        tensor: the last tensor that was reached; "" before the forward pass is done.
        seconds: since the request was admitted.
    """

    done: int
    total: int
    tensor: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LayerFailure:
    """One layer that has no map; the stream goes on."""

    index: int
    tensor: str
    code: Code
    message: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time went.

    Attributes:
        queue: from admission to the start of the forward pass.
        compute: on the compute thread; shared with the other requests of a batch.
        first_flow: from admission to the first layer's map; 0 when there was none.
        total: from admission to the last map.
    """

    queue: float
    compute: float
    first_flow: float
    total: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Last event of a complete stream.

    Attributes:
        layers: flows that were delivered.
        failed: layers that were reported as failures.
        seconds: see there.
        iterations: of all least-squares solves together, largest over this request's pictures per layer.
        batch_size: pictures that were computed together, this request's included (padding is not counted).
    """

    layers: int
    failed: int
    seconds: Seconds
    iterations: int
    batch_size: int


Event = Header | LayerFlow | Progress | LayerFailure | Summary


class State(enum.Enum):
    """Where a model version stands."""

    UNLOADED = "UNLOADED"
    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"
    EVICTED = "EVICTED"


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of a model.

    Attributes:
        state: EVICTED versions were unloaded to keep the memory budget and load again at the next request.
        reason: why it is not ready, or why an older file still serves; "" otherwise.
        sha256: of the file that serves; "" when none is loaded.
        bytes: memory that its weights take.
    """

    version: str
    state: State
    reason: str = ""
    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model of the repository with its versions, lowest first.

    Attributes:
        reason: why the model has no versions to offer (an unreadable config.pbtxt, ...); "" otherwise.
    """

    name: str
    versions: tuple[VersionInfo, ...]
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether a request would be taken: some version is loaded, or loads at the next request."""
        return any(v.state in (State.READY, State.EVICTED) for v in self.versions)


@dataclass(frozen=True, slots=True)
class Statistics:
    """How busy the engine is, for metrics.

    Attributes:
        waiting: requests that are not yet computed, by model.
        active: explanations that are computed in turns.
        stalled: explanations that wait for their reader.
        calls: requests in all states.
        model_bytes: weights of all loaded models.
        programs, cache_hits: compiled, and fetched from the cache folder instead, since the process began.
        compile_seconds: spent on that.
        device_bytes: memory in use by device, where the device tells.
        programs_held: programs in memory; the others were dropped.
        program_drops: how often all programs were dropped to keep `compilation.programs`.
        banks, bank_embeddings, bank_bytes: reference banks, and what they hold together.
    """

    waiting: Mapping[str, int]
    active: int
    stalled: int
    calls: int
    model_bytes: int
    programs: int
    cache_hits: int
    compile_seconds: float
    device_bytes: Mapping[str, int]
    programs_held: int = 0
    program_drops: int = 0
    banks: int = 0
    bank_embeddings: int = 0
    bank_bytes: int = 0
