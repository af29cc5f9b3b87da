"""Request messages to the engine's types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import naflow_core as nf
from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import method_pb2 as me
from naflow.v1 import model_repository_pb2 as repo
from naflow.v1 import tensor_pb2 as te
from naflow_server.convert.tables import ABANDONMENTS, ANCHORS, DTYPES, INVERSES, LAYER_SETS, ROWS, refuse
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
        target=_target(message.target),
        method=_method(message.method),
        layers=_layers(message.layers),
        output=message.output or None,
        top_feature_map=message.top_feature_map or None,
        request_id=request_id,
        deadline=deadline,
    )


def array(tensor: te.Tensor, field: str) -> np.ndarray:
    """The array of a tensor; it shares the message's memory and is read-only.

    Raises:
        EngineError: INVALID_ARGUMENT for an unknown type, an impossible shape, or bytes that do not fit.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        refuse(f"{field}.dtype", f"{tensor.dtype} is not an element type", "see DataType")
    shape = tuple(tensor.shape)
    if len(shape) > 32 or any(n < 1 for n in shape):
        refuse(f"{field}.shape", f"{_short(shape)} is not a shape", "sizes must be at least 1")
    expected = math.prod(shape) * dtype.itemsize
    data = tensor.data
    if len(data) != expected:
        refuse(
            f"{field}.data",
            f"has {len(data)} bytes, shape {_short(shape)} of {dtype.name} takes {_count(expected)}",
        )
    values = np.frombuffer(data, np.uint8 if dtype == np.bool_ else dtype)
    if dtype == np.bool_:
        if values.size and values.max() > 1:
            refuse(f"{field}.data", "a boolean is neither 0 nor 1")
        values = values.view(np.bool_)
    return values.astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def shapes(message: Mapping[str, te.Shape]) -> dict[str, tuple[int, ...]] | None:
    """Concrete input shapes of an inspection, or None.

    Raises:
        EngineError: INVALID_ARGUMENT for an impossible shape.
    """
    found = {}
    for name, shape in message.items():
        found[name] = tuple(shape.dims)
        if len(shape.dims) > 32 or any(not 1 <= n <= 1 << 16 for n in shape.dims):
            refuse(f"input_shapes[{name!r}]", f"{_short(found[name])} is not a shape of sizes 1 to 65536")
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


def _target(message: me.Target) -> nf.ClassTarget:
    wanted = message.class_target
    match wanted.WhichOneof("wanted"):
        case "class_index":
            return nf.ClassTarget(wanted.class_index)
        case "class_name":
            if not wanted.labels:
                refuse("target.class_target.labels", "a class name needs the names of all classes")
            return nf.ClassTarget(wanted.class_name, nf.Labels(tuple(wanted.labels)))
        case _:
            return nf.ClassTarget()


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
        for name in ("feasible", "damping", "tolerance", "max_iterations")
    }
    return _option(
        "method",
        lambda: nf.Method.preset(
            message.preset or "default",
            inverse=_choice(INVERSES, message.inverse, "method.inverse"),
            rows=_choice(ROWS, message.rows, "method.rows"),
            anchor=_choice(ANCHORS, message.anchor, "method.anchor"),
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


def _short(shape: Sequence[int]) -> str:
    head = ", ".join(_count(n) for n in shape[:8])
    return f"[{head}{', ...' if len(shape) > 8 else ''}]"


def _count(number: int) -> str:
    return str(number) if abs(number) < 10**18 else "over 10^18"
