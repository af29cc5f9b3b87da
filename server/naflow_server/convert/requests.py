"""Request messages to the engine's types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import naflow_core as nf
from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import method_pb2 as me
from naflow.v1 import model_repository_pb2 as repo
from naflow.v1 import tensor_pb2 as te
from naflow_server.convert.tables import (
    ABANDONMENTS,
    ANCHORS,
    EVIDENCE,
    INVERSES,
    LAYER_SETS,
    ROWS,
    WEIGHTINGS,
    refuse,
)
from naflow_server.convert.targets import target
from naflow_server.convert.tensors import array, short
from naflow_server.engine import types

MOST_CLASSES = 1000
LONGEST_ID = 128


def checked_id(given: str, otherwise: str) -> str:
    """The caller's request id, or `otherwise` when there is none.

    Raises:
        EngineError: INVALID_ARGUMENT, too long or not printable ASCII.
    """
    if len(given) > LONGEST_ID or not (given.isascii() and given.isprintable()):
        refuse("request_id", f"must be up to {LONGEST_ID} printable ASCII characters")
    return given or otherwise


def explain_request(
    message: ex.ExplainRequest, request_id: str, deadline: float | None
) -> types.ExplainRequest:
    """The engine's request for a message.

    Args:
        message: as received.
        request_id: checked, or made by the server.
        deadline: in `time.monotonic()` seconds, or None.

    Raises:
        EngineError: INVALID_ARGUMENT; names the field.
    """
    if not message.model_name:
        refuse("model_name", "is empty", "name a model, see ListModels")
    if not message.inputs:
        refuse("inputs", "no tensor was given")
    if message.top_k > MOST_CLASSES:
        refuse("top_k", f"{message.top_k} is more than {MOST_CLASSES}")
    return types.ExplainRequest(
        model=message.model_name,
        version=message.model_version or None,
        inputs={name: array(tensor, f"inputs[{name!r}]") for name, tensor in message.inputs.items()},
        target=target(message.target),
        method=_method(message.method),
        layers=_layers(message.layers),
        output=message.output or None,
        top_feature_map=message.top_feature_map or None,
        explained_input=message.explained_input or None,
        grouped=message.grouped_flows,
        request_id=request_id,
        deadline=deadline,
    )


def shapes(message: Mapping[str, te.Shape]) -> dict[str, tuple[int, ...]] | None:
    """Concrete input shapes of an inspection, or None.

    Raises:
        EngineError: INVALID_ARGUMENT for an impossible shape.
    """
    found = {}
    for name, shape in message.items():
        found[name] = tuple(shape.dims)
        if len(shape.dims) > 32 or any(not 1 <= n <= 1 << 16 for n in shape.dims):
            refuse(f"input_shapes[{name!r}]", f"{short(found[name])} is not a shape of sizes 1 to 65536")
    return found or None


def upload_start(message: repo.UploadModelRequest | None) -> dict[str, Any]:
    """What an upload announces, as arguments of the engine's `upload`.

    Raises:
        EngineError: INVALID_ARGUMENT, the first message is no announcement.
    """
    if message is None or message.WhichOneof("part") != "start":
        refuse("start", "the first message must announce the upload")
    start = message.start
    return {
        "name": start.model_name,
        "version": start.model_version or None,
        "size": start.size_bytes,
        "sha256": start.sha256,
    }


def upload_data(message: repo.UploadModelRequest) -> bytes:
    """A piece of an upload.

    Raises:
        EngineError: INVALID_ARGUMENT, the message holds none.
    """
    if message.WhichOneof("part") != "data":
        refuse("data", "only pieces of the file may follow the announcement")
    return message.data


def _method(message: me.Method) -> nf.Method:
    abandon = None
    if message.HasField("abandonment"):
        rule = _choice(ABANDONMENTS, message.abandonment.rule, "method.abandonment.rule")
        if rule is None:
            refuse("method.abandonment.rule", "is not set")
        mass = 1.0 if rule == "zero-gradient" else message.abandonment.mass
        abandon = _option("method.abandonment", lambda: nf.Abandonment(rule, mass))  # type: ignore[arg-type]
    single = {
        name: getattr(message, name) if message.HasField(name) else None
        for name in ("feasible", "damping", "tolerance", "max_iterations", "map_change")
    }
    return _option(
        "method",
        lambda: nf.Method.preset(
            message.preset or "default",
            inverse=_choice(INVERSES, message.inverse, "method.inverse"),
            rows=_choice(ROWS, message.rows, "method.rows"),
            weighting=_choice(WEIGHTINGS, message.weighting, "method.weighting"),
            anchor=_choice(ANCHORS, message.anchor, "method.anchor"),
            evidence=_choice(EVIDENCE, message.evidence, "method.evidence"),
            abandon=abandon,
            **single,
        ),
    )


def _option(field: str, make: Any) -> Any:
    try:
        return make()
    except nf.NaflowError as error:
        raise types.EngineError(
            types.Code.INVALID_ARGUMENT,
            f"{field}: {error.message}",
            hint=error.hint,
            field=field,
            reason=error.code,
        ) from error


def _choice(names: Mapping[Any, str], value: int, field: str) -> str | None:
    if value and value not in names:
        refuse(field, f"{value} is not a known value")
    return names.get(value)


def _layers(message: me.Layers) -> str | tuple[str, ...]:
    if message.tensors:
        return tuple(message.tensors)
    if message.set not in LAYER_SETS:
        refuse("layers.set", f"{message.set} is not a known set")
    return LAYER_SETS[message.set]
