"""NAFlow without JAX: a client for the explanation server; pictures in, overlays, animations, reports out."""

from naflow_client.aio import AsyncClient, AsyncStream
from naflow_client.aio_many import AsyncManyStream
from naflow_client.answers import (
    ClassScore,
    Flow,
    Header,
    LayerDiagnostics,
    LayerFailure,
    LayerInfo,
    Neighbour,
    Prediction,
    Progress,
    ReferencePrediction,
    Similarity,
    Summary,
)
from naflow_client.banks import Appended, BankStatus
from naflow_client.client import Client, Stream
from naflow_client.errors import (
    AccessError,
    BrokenStreamError,
    BusyError,
    CallCancelledError,
    CallError,
    ClientError,
    DeadlineError,
    MapError,
    NotFoundError,
    OutputError,
    PictureError,
    PreprocessingError,
    RequestError,
    ServerError,
    UnavailableError,
    UnsupportedError,
)
from naflow_client.many import ManyStream
from naflow_client.models import ModelReport, ModelState, ModelStatus, VersionStatus
from naflow_client.options import ExplainOptions
from naflow_client.outcomes import Keyed, Outcome, Part
from naflow_client.pictures import load_picture
from naflow_client.preprocess import Prepared, Preprocessing
from naflow_client.results import Result
from naflow_client.retry import NO_RETRIES, RetryPolicy
from naflow_client.security import Tls
from naflow_client.targets import BankTarget, LabelledEmbeddings, PrototypeTarget, SimilarityTarget

__all__ = [
    "NO_RETRIES",
    "AccessError",
    "Appended",
    "AsyncClient",
    "AsyncManyStream",
    "AsyncStream",
    "BankStatus",
    "BankTarget",
    "BrokenStreamError",
    "BusyError",
    "CallCancelledError",
    "CallError",
    "ClassScore",
    "Client",
    "ClientError",
    "DeadlineError",
    "ExplainOptions",
    "Flow",
    "Header",
    "Keyed",
    "LabelledEmbeddings",
    "LayerDiagnostics",
    "LayerFailure",
    "LayerInfo",
    "ManyStream",
    "MapError",
    "ModelReport",
    "ModelState",
    "ModelStatus",
    "Neighbour",
    "NotFoundError",
    "Outcome",
    "OutputError",
    "Part",
    "PictureError",
    "Prediction",
    "Prepared",
    "Preprocessing",
    "PreprocessingError",
    "Progress",
    "PrototypeTarget",
    "ReferencePrediction",
    "RequestError",
    "Result",
    "RetryPolicy",
    "ServerError",
    "Similarity",
    "SimilarityTarget",
    "Stream",
    "Summary",
    "Tls",
    "UnavailableError",
    "UnsupportedError",
    "VersionStatus",
    "load_picture",
]
