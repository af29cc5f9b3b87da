"""The engine: repository, admission, scheduling and batching, with no transport."""

from naflow_server.engine.call import Call
from naflow_server.engine.engine import Engine
from naflow_server.engine.event_queue import EventQueue
from naflow_server.engine.types import (
    Code,
    EngineError,
    Event,
    ExplainRequest,
    Header,
    LayerFailure,
    LayerFlow,
    LayerInfo,
    ModelInfo,
    Progress,
    Seconds,
    State,
    Statistics,
    Summary,
    VersionInfo,
)

__all__ = [
    "Call",
    "Code",
    "Engine",
    "EngineError",
    "Event",
    "EventQueue",
    "ExplainRequest",
    "Header",
    "LayerFailure",
    "LayerFlow",
    "LayerInfo",
    "ModelInfo",
    "Progress",
    "Seconds",
    "State",
    "Statistics",
    "Summary",
    "VersionInfo",
]
