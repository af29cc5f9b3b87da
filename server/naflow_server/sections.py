"""The sections of the settings: their names, defaults and bounds, wherever they come from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """Base of the sections: unknown fields are refused, nothing changes after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    """Listening and lifecycle.

    Attributes:
        host: address to listen on; loopback unless it is opened on purpose.
        port: of the gRPC service; 0 takes a free one.
        metrics_host, metrics_port: of the Prometheus endpoint; no endpoint when metrics_port is None.
        reflection: whether clients may ask for the service descriptions.
        drain_seconds: after SIGTERM, how long the listener stays open while health says NOT_SERVING.
        grace_seconds: how long running streams may then go on before they get UNAVAILABLE.
        log_level: lowest level that is logged.
        log_format: "json" (one object per line) or "text".
    """

    host: str = "127.0.0.1"
    port: Port = 8001
    metrics_host: str = "127.0.0.1"
    metrics_port: Port | None = None
    reflection: bool = True
    drain_seconds: Seconds = 5.0
    grace_seconds: Seconds = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"


class SecuritySettings(Section):
    """TLS and authentication. Keys and tokens are never printed.

    Attributes:
        tls_certificate, tls_key: PEM files (chain and private key); plain text when both are None.
        client_ca: PEM file of the authority that signs client certificates; required of clients when given.
        token: bearer token that every call but health must carry.
        tokens_file: file with one such token a line, read again when it changes; "#" starts a comment line.
    """

    tls_certificate: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    token: SecretStr | None = None
    tokens_file: Path | None = None

    @model_validator(mode="after")
    def _complete(self) -> SecuritySettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        if self.client_ca is not None and self.tls_certificate is None:
            raise ValueError("client_ca needs tls_certificate and tls_key")
        if self.token is not None and not self.token.get_secret_value().strip():
            raise ValueError("token must not be empty")
        return self


class LimitSettings(Section):
    """What one request and all requests together may cost.

    Attributes:
        message_bytes: largest gRPC message that is read.
        pictures: in one request.
        input_bytes: of all input tensors of one request.
        references: that one request is compared with, and the most of a bank that may vote.
        reference_bytes: of all of them; references that come as pictures are at most `pictures`.
        layers: names in one request's list of layers.
        queue: requests that wait for computation, per model; more are refused with RESOURCE_EXHAUSTED.
        active: explanations that are computed in turns on one device. Each holds the activations of its
            forward pass in device memory.
        calls: requests in all states together, those whose reader has stalled included.
        stream_requests: requests in flight on one ExplainStream call.
        events: finished events that wait for one reader before its computation pauses.
        gather_bytes: of the maps that are put together for a caller's next message and do not count as
            waiting, where the caller reads several maps in one.
        gather_seconds: for this long after a message with maps, the next ones are gathered for such a
            message; 0 sends what is there at once.
        stalled_seconds: how long a reader may take no event before its request is ended; no limit when None.
        deadline_seconds: for requests that bring none; no limit when None.
        progress_seconds: at most this long between two events of a stream; clients count on 15.
    """

    message_bytes: PositiveInt = 64 * MIB
    pictures: PositiveInt = 64
    input_bytes: PositiveInt = 64 * MIB
    references: PositiveInt = 4096
    reference_bytes: PositiveInt = 16 * MIB
    layers: PositiveInt = 2000
    queue: PositiveInt = 64
    active: PositiveInt = 4
    calls: PositiveInt = 512
    stream_requests: PositiveInt = 16
    events: Annotated[int, Field(ge=2, le=64)] = 4
    gather_bytes: Annotated[int, Field(ge=0, le=MIB)] = 192 * KIB
    gather_seconds: Annotated[float, Field(ge=0, le=1)] = 0.01
    stalled_seconds: PositiveFloat | None = 300.0
    deadline_seconds: PositiveFloat | None = 600.0
    progress_seconds: Annotated[float, Field(gt=0, le=15)] = 10.0


class ModelLimitSettings(Section):
    """What a model file may cost before it is refused; see `naflow_core.Limits`.

    Attributes:
        file_bytes: the model file itself.
        structure_bytes: the file without its weights.
        nodes: nodes in the graph.
        tensor_bytes: any one constant.
        total_bytes: all constants together, external files included.
        folded_bytes: what may be computed ahead from known values.
    """

    file_bytes: PositiveInt = 2 * GIB
    structure_bytes: PositiveInt = 64 * MIB
    nodes: PositiveInt = 50_000
    tensor_bytes: PositiveInt = 2 * GIB
    total_bytes: PositiveInt = 4 * GIB
    folded_bytes: PositiveInt = 1 * GIB


class BatchingSettings(Section):
    """Sharing one computation between requests of one model, shape and method.

    Attributes:
        pictures: in one batch at most; 1 switches batching off. A model's max_batch_size in config.pbtxt
            lowers it.
        window_seconds: how long the first request of a batch waits for others.
        together: whether the pictures of a batch share each kernel call. That is what makes a batch fast on
            an accelerator, but sums are then added in another order, and the inverses amplify that: maps
            differ from unbatched ones by up to about 1e-3 of their largest value. If not, each layer is
            computed for one picture after the other, with unbatched results to the last bit. None: together
            on accelerators only.
    """

    pictures: PositiveInt = 1
    window_seconds: Annotated[float, Field(ge=0, le=1)] = 0.003
    together: bool | None = None


class UploadSettings(Section):
    """Models that come over the wire.

    Attributes:
        enabled: off unless it is switched on.
        bytes: of one model file.
        chunk_bytes: of one chunk.
        concurrent: uploads at the same time.
        idle_seconds: after which an upload without a new chunk is dropped.
    """

    enabled: bool = False
    bytes: PositiveInt = 1 * GIB
    chunk_bytes: PositiveInt = 4 * MIB
    concurrent: PositiveInt = 2
    idle_seconds: PositiveFloat = 60.0


class ModelSettings(Section):
    """One model of the repository.

    Attributes:
        warm_up: input shapes that are compiled before the model is ready, each a table from input name to
            shape with its batch axis.
        warm_up_layers: what is compiled for them: "blocks", "spine", "nodes" or tensor names.
    """

    warm_up: tuple[dict[str, tuple[PositiveInt, ...]], ...] = ()
    warm_up_layers: str | tuple[str, ...] = "blocks"

    @field_validator("warm_up_layers", mode="before")
    @classmethod
    def _layers(cls, layers: Any) -> Any:
        if not isinstance(layers, str) and not _are_names(layers):
            raise ValueError("must be blocks, spine, nodes or a list of tensor names")
        return layers


class RepositorySettings(Section):
    """The folder with the models, in Triton's layout.

    Attributes:
        path: `<path>/<name>/<version>/model.onnx`.
        load: "all" at the start, or the names of those to load (load the others on request).
        poll_seconds: how often the folder is looked at for changes; never when None.
        memory_bytes: what the weights of all loaded models may take; the least recently used are unloaded
            (and load again at their next request). No limit when None.
        explicit: whether clients may load and unload models.
        models: settings by model name.
        limits: what a model file may cost.
        upload: see there.
    """

    path: Path = Path("models")
    load: Literal["all"] | tuple[str, ...] = "all"
    poll_seconds: PositiveFloat | None = None
    memory_bytes: PositiveInt | None = None
    explicit: bool = True
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    limits: ModelLimitSettings = ModelLimitSettings()
    upload: UploadSettings = UploadSettings()

    @field_validator("load", mode="before")
    @classmethod
    def _names(cls, load: Any) -> Any:
        if load != "all" and not _are_names(load):
            raise ValueError("must be all, or a list of names")
        return load


class BankSettings(Section):
    """Banks of reference embeddings that clients make and fill.

    Attributes:
        path: folder that keeps them, of this server alone; no banks when None.
        banks: at most so many.
        embeddings: in one bank.
        dimension: largest embedding, in numbers.
        append_bytes: embeddings of one append, and its labels.
        total_bytes: of all banks on disk.
        memory_bytes: of embeddings that are kept in memory for requests to come, those used last.
        search: "jax", or "faiss" where that is installed: for the metrics that it knows, at the price of
            another copy of a bank in memory, beside memory_bytes, for each metric that is asked for.
    """

    path: Path | None = None
    banks: PositiveInt = 64
    embeddings: PositiveInt = 1_000_000
    dimension: PositiveInt = 16_384
    append_bytes: Annotated[int, Field(ge=1, le=256 * MIB)] = 16 * MIB
    total_bytes: PositiveInt = 8 * GIB
    memory_bytes: PositiveInt = 1 * GIB
    search: Literal["jax", "faiss"] = "jax"

    @field_validator("search")
    @classmethod
    def _installed(cls, search: str) -> str:
        if search == "faiss" and importlib.util.find_spec("faiss") is None:
            raise ValueError("faiss is not installed (pip install 'naflow[faiss]', or leave it at jax)")
        return search


class CompilationSettings(Section):
    """Compiled programs.

    Attributes:
        cache: folder where they are kept between runs; not kept when None. Nobody else may be able to write
            there: what it holds is executed.
        cache_bytes: at most this much there; the least recently used go first.
        programs: held in memory by all models together. When there are more, all are dropped between two
            turns; those still needed come back from the cache folder, or are compiled again without one. No
            limit when None.
    """

    cache: Path | None = None
    cache_bytes: PositiveInt = 4 * GIB
    programs: PositiveInt | None = 1000


def _are_names(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(name, str) for name in values)
