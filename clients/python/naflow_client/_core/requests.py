"""Building requests."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naflow.v1 import explanation_pb2, method_pb2, model_repository_pb2, tensor_pb2
from naflow_client.errors import ClientError, RequestError
from naflow_client.options import ExplainOptions
from naflow_client.security import PathLike

UPLOAD_PIECE = 1 << 20
GROUPS = ("blocks", "spine", "nodes")
DTYPES: dict[str, int] = {
    "float32": tensor_pb2.DATA_TYPE_FLOAT,
    "float16": tensor_pb2.DATA_TYPE_FLOAT16,
    "float64": tensor_pb2.DATA_TYPE_DOUBLE,
    **{
        f"{sign}int{bits}": tensor_pb2.DataType.Value(f"DATA_TYPE_{sign.upper()}INT{bits}")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "bool": tensor_pb2.DATA_TYPE_BOOL,
}


def explain_request(model: str, options: ExplainOptions) -> explanation_pb2.ExplainRequest:
    """One explanation, all but its inputs.

    Raises:
        RequestError: an option that cannot be put into a request, naming the field.
    """
    request = explanation_pb2.ExplainRequest(
        model_name=model,
        model_version=options.version or "",
        method=method(options),
        layers=layers(options.layers),
        output=options.output or "",
        top_feature_map=options.top_feature_map or "",
        explained_input=options.explained_input or "",
        request_id=options.request_id,
        top_k=whole(options.top_k, "top_k", 0, 1000),
        reference_prediction=options.reference_prediction,
        grouped_flows=True,  # Session reads both, and a server from before there were groups sends none
    )
    wanted = options.target_class
    if wanted is not None and options.target is not None:
        raise RequestError(
            "target and target_class exclude each other", "leave one out", field="target_class"
        )
    if isinstance(wanted, str):
        request.target.class_target.class_name = wanted
        request.target.class_target.labels.extend(options.labels)
    elif wanted is not None:
        request.target.class_target.class_index = whole(wanted, "target_class", -(1 << 63), (1 << 63) - 1)
    return request


def tensor(array: NDArray[Any], where: str) -> tensor_pb2.Tensor:
    """An array as raw little-endian bytes.

    Raises:
        RequestError: a dtype that has no place on the wire.
    """
    message, data = tensor_parts(array, where)
    message.data = data.tobytes()
    return message


def tensor_parts(array: NDArray[Any], where: str) -> tuple[tensor_pb2.Tensor, memoryview]:
    """The same without its bytes, and these, which are not copied where the array holds them as they are.

    Raises:
        RequestError: as `tensor`.
    """
    dtype = DTYPES.get(array.dtype.name)
    if dtype is None:
        raise RequestError(
            f"{where} has dtype {array.dtype}", f"use one of {', '.join(DTYPES)}", field="inputs"
        )
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    head = tensor_pb2.Tensor(dtype=dtype, shape=array.shape)  # type: ignore[arg-type]
    return head, little.reshape(-1).view(np.uint8).data


def method(options: ExplainOptions) -> method_pb2.Method:
    """The options of the method. Names are checked here, values by the server.

    Raises:
        RequestError: a name that does not exist, or a number that is none.
    """
    message = method_pb2.Method(preset=options.preset)
    if options.inverse is not None:
        message.inverse = choice(method_pb2.Inverse, "INVERSE", "inverse", options.inverse)
    if options.rows is not None:
        message.rows = choice(method_pb2.Rows, "ROWS", "rows", options.rows)
    if options.weighting is not None:
        message.weighting = choice(method_pb2.Weighting, "WEIGHTING", "weighting", options.weighting)
    if options.anchor is not None:
        message.anchor = choice(method_pb2.Anchor, "ANCHOR", "anchor", options.anchor)
    if options.evidence is not None:
        message.evidence = choice(method_pb2.Evidence, "EVIDENCE", "evidence", options.evidence)
    if options.abandon is not None:
        rule, colon, mass = options.abandon.partition(":")
        message.abandonment.rule = choice(method_pb2.AbandonmentRule, "ABANDONMENT_RULE", "abandon", rule)
        if colon:
            message.abandonment.mass = finite(mass, "abandon")
    if options.feasible is not None:
        message.feasible = options.feasible
    if options.damping is not None:
        message.damping = finite(options.damping, "damping")
    if options.tolerance is not None:
        message.tolerance = finite(options.tolerance, "tolerance")
    if options.max_iterations is not None:
        message.max_iterations = whole(options.max_iterations, "max_iterations", 0, (1 << 32) - 1)
    if options.map_change is not None:
        message.map_change = finite(options.map_change, "map_change")
    return message


def layers(wanted: str | Sequence[str]) -> method_pb2.Layers:
    """A named set, one tensor or several."""
    if isinstance(wanted, str) and wanted in GROUPS:
        return method_pb2.Layers(set=method_pb2.LayerSet.Value(f"LAYER_SET_{wanted.upper()}"))
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if not names or not all(names):
        raise RequestError(
            "layers is empty, or has an empty name",
            f"use {', '.join(GROUPS)} or tensor names",
            field="layers",
        )
    return method_pb2.Layers(tensors=names)


def inspect_request(
    model: str,
    version: str | None,
    input_shapes: Mapping[str, Sequence[int]],
    output: str | None = None,
    top_feature_map: str | None = None,
    explained_input: str | None = None,
) -> explanation_pb2.InspectModelRequest:
    """What would happen to a model."""
    shapes = {name: tensor_pb2.Shape(dims=list(shape)) for name, shape in input_shapes.items()}
    return explanation_pb2.InspectModelRequest(
        model_name=model,
        model_version=version or "",
        input_shapes=shapes,
        output=output or "",
        top_feature_map=top_feature_map or "",
        explained_input=explained_input or "",
    )


def upload_requests(
    model: str, version: str, content: bytes
) -> Iterator[model_repository_pb2.UploadModelRequest]:
    """A model file in pieces, announced by its length and SHA-256."""
    yield model_repository_pb2.UploadModelRequest(
        start=model_repository_pb2.UploadModelStart(
            model_name=model,
            model_version=version,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
    )
    for begin in range(0, len(content), UPLOAD_PIECE):
        yield model_repository_pb2.UploadModelRequest(data=content[begin : begin + UPLOAD_PIECE])


def file_content(source: PathLike | bytes) -> bytes:
    """A model file, given as such or as its content.

    Raises:
        ClientError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ClientError(f"{source}: cannot be read: {error.strerror or error}", "check the path") from error


def choice(enum: Any, prefix: str, field: str, name: str) -> Any:
    """The value of an enumeration by its name as users write it.

    Raises:
        RequestError: there is none.
    """
    known = [key.removeprefix(f"{prefix}_").lower().replace("_", "-") for key in enum.keys()[1:]]
    if name not in known:
        raise RequestError(
            f"{field} {name!r} does not exist", f"one of {', '.join(known)}", field=_path(field)
        )
    return enum.Value(f"{prefix}_{name.upper().replace('-', '_')}")


def finite(value: object, field: str) -> float:
    """A finite number.

    Raises:
        RequestError: it is none.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RequestError(f"{field}: {value!r} is not a finite number", field=_path(field))
    return number


def _path(field: str) -> str:
    """Where an option is in the request: the method's stand without their place."""
    return field if "." in field else f"method.{field}"


def whole(value: object, field: str, least: int, most: int) -> int:
    """A whole number that fits its place on the wire; numpy's count as well, booleans do not."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise RequestError(f"{field}: {value!r} is not a whole number from {least} to {most}", field=field)
    return int(value)
