"""What a failure in the core means to the caller of the engine."""

from __future__ import annotations

import naflow_core as nf
from naflow_server.engine.targets import EXPLAINED, failed_field
from naflow_server.engine.types import Code, EngineError, ExplainRequest

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory")


def from_core(error: nf.NaflowError, request: ExplainRequest | None = None) -> EngineError:
    """The core's reason with a code and, where the request is at fault, its field."""
    code, field = Code.INTERNAL, None
    if isinstance(error, nf.UnsupportedOperatorError):
        code = Code.UNIMPLEMENTED
    elif isinstance(error, nf.ModelError):
        code = Code.FAILED_PRECONDITION
    elif isinstance(error, nf.AnalysisError):
        field = _named(request, error.message)
        code = Code.INVALID_ARGUMENT if field else Code.FAILED_PRECONDITION
    elif isinstance(error, nf.InputError | nf.NumericalError):
        code, field = Code.INVALID_ARGUMENT, "inputs"
    elif isinstance(error, nf.TargetError):
        at_fault = "inputs" if error.message.startswith(EXPLAINED) else failed_field(request)[0]
        code, field = Code.INVALID_ARGUMENT, at_fault
    elif isinstance(error, nf.OptionError):
        code, field = Code.INVALID_ARGUMENT, failed_field(request)[1]
    return EngineError(code, error.message, hint=error.hint, field=field, reason=error.code)


def _named(request: ExplainRequest | None, message: str) -> str | None:
    """Which field can be the reason that a tensor was not found."""
    if request is None:
        return None
    if request.explained_input is not None and message.startswith(f"input {request.explained_input!r}"):
        return "explained_input"
    if request.top_feature_map is not None:
        return "top_feature_map"
    if request.layers not in ("blocks", "spine", "nodes"):
        return "layers"
    return "output" if request.output is not None else None


def unexpected(error: BaseException) -> EngineError:
    """A failure that is nobody's intention: no detail leaves the server, the log has it."""
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        return EngineError(
            Code.RESOURCE_EXHAUSTED,
            "the device has not enough memory for this explanation",
            hint="send fewer or smaller pictures",
            reason="out_of_memory",
        )
    return EngineError(
        Code.INTERNAL,
        f"the computation failed ({type(error).__name__})",
        hint="the server's log has the details under this request's id",
    )
