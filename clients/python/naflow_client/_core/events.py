"""Reading the events of a stream: one `Session` takes them in order and says what they mean."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from naflow.v1 import explanation_pb2, method_pb2, similarity_pb2, tensor_pb2
from naflow_client._core.status import from_status
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
from naflow_client.errors import BrokenStreamError, CallError

FLOATS: dict[int, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_DOUBLE: np.dtype("<f8"),
}
NAMES = {code: dtype.newbyteorder("=").name for code, dtype in FLOATS.items()}
FLOAT32 = np.dtype(np.float32)  # this machine's, whatever its byte order
PICTURE = np.dtype(
    [
        ("retained_fraction", np.float64),
        ("iterations", np.int64),
        ("relative_residual", np.float64),
        ("converged", np.bool_),
        ("conservation_gap", np.float64),
    ],
    align=True,
)
PACK = struct.Struct("@dqd?d").pack  # a row of such a table
SCALED = method_pb2.WEIGHTING_SCALED
POSITIVE = method_pb2.EVIDENCE_POSITIVE

Item = Header | Flow | LayerFailure | Progress | Summary


class _Layer(NamedTuple):
    """What a layer's message must agree with, ready to compare."""

    tensor: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # on the wire
    code: int
    size: int


class Session:
    """The state of one answer.

    Attributes:
        header, summary: as soon as they have come.
        failures: layers without a map so far.
    """

    def __init__(self, target: str) -> None:
        self.header: Header | None = None
        self.summary: Summary | None = None
        self.failures: list[LayerFailure] = []
        self._target = target
        self._coming: dict[int, _Layer] = {}
        self._flows = 0
        self._announced: tuple[_Layer, explanation_pb2.LayerFlow] | None = None
        self._map = bytearray()

    def feed(self, event: explanation_pb2.ExplainEvent) -> Sequence[Item]:
        """Take the next event.

        Returns:
            What it completes, in order: several maps for a group, nothing for a piece of a map and for events
            that this client does not know.

        Raises:
            BrokenStreamError: the event does not fit what came before, or is damaged.
            CallError: the server gives the whole request up.
        """
        kind = event.WhichOneof("event")
        if self.summary is not None:
            raise self._broken(f"{kind} after the summary")
        if self._announced is not None and kind != "chunk":
            raise self._broken(f"{kind} between the pieces of layer {self._announced[0].tensor!r}")
        if kind == "layer_flows":
            return self._layer_flows(event.layer_flows)
        item: Item | None = None
        if kind == "layer_flow":
            item = self._layer_flow(event.layer_flow)
        elif kind == "progress":
            value = event.progress
            item = Progress(value.layers_done, value.layers_total, value.tensor, value.elapsed_seconds)
        elif kind == "summary":
            item = self._summary(event.summary)
        elif kind == "header":
            item = self._header(event)
        elif kind == "chunk":
            item = self._chunk(event.chunk)
        elif kind == "layer_error":
            item = self._layer_error(event.layer_error)
        return () if item is None else (item,)

    def end(self) -> None:
        """The stream is over.

        Raises:
            BrokenStreamError: without its summary.
        """
        if self.summary is None:
            got = f"{self._flows} of {len(self.header.layers)} layers" if self.header else "nothing"
            raise self._broken(f"it ended without a summary, after {got}")

    def _header(self, event: explanation_pb2.ExplainEvent) -> Header:
        message = event.header
        if self.header is not None:
            raise self._broken("a second header")
        if not message.predictions:
            raise self._broken("a header without predictions")
        layers = [self._announce(item) for item in message.layers]
        numbered = all(layer.index == place for place, layer in enumerate(layers))
        if not numbered or len(layers) != message.total_layers:
            raise self._broken("the header's layers are not numbered from 0")
        self.header = Header(
            model=message.model_name,
            version=message.model_version,
            sha256=message.model_sha256,
            output=message.output,
            predictions=tuple(_prediction(item) for item in message.predictions),
            layers=tuple(layers),
            total_bytes=message.total_bytes,
            method=method_options(message.method),
            request_id=event.request_id,
        )
        return self.header

    def _announce(self, message: explanation_pb2.LayerInfo) -> LayerInfo:
        """Expect a layer's map."""
        code = message.dtype
        if code not in FLOATS:
            raise self._broken(f"a map of data type {code}, which this client does not know")
        info = LayerInfo(message.index, message.tensor, NAMES[code], tuple(message.shape[:]))
        size = math.prod(info.shape) * FLOATS[code].itemsize
        self._coming[info.index] = _Layer(info.tensor, info.shape, FLOATS[code], code, size)
        return info

    def _layer_flows(self, message: explanation_pb2.LayerFlows) -> list[Flow]:
        flows = []
        for item in message.flows:
            flow = self._layer_flow(item)
            if flow is None:
                raise self._broken(f"layer {item.tensor!r} comes in a group and without its map")
            flows.append(flow)
        if not flows:
            raise self._broken("a group without maps")
        return flows

    def _layer_flow(self, message: explanation_pb2.LayerFlow) -> Flow | None:
        layer = self._expected("layer_flow", message.index, message.tensor)
        shape = tuple(message.shape[:])
        if message.dtype != layer.code or message.byte_size != layer.size or shape != layer.shape:
            raise self._broken(f"layer {layer.tensor!r} comes in another shape than announced")
        pictures = len(self.header.predictions) if self.header else 0
        if len(shape) < 2 or shape[0] != pictures or len(message.diagnostics.pictures) != pictures:
            raise self._broken(f"layer {layer.tensor!r} is not for {pictures} pictures")
        data = message.data
        if not data and layer.size:
            self._announced = layer, message
            return None
        return self._flow(layer, message, data)

    def _chunk(self, message: explanation_pb2.Chunk) -> Flow | None:
        if self.header is None:
            raise self._broken("chunk before the header")
        if self._announced is None or message.index != self._announced[1].index:
            raise self._broken(f"a piece of layer {message.index}, which was not announced")
        layer, announced = self._announced
        if message.offset != len(self._map):
            raise self._broken(f"layer {layer.tensor!r} has a gap at byte {len(self._map)}")
        if google_crc32c.value(message.data) != message.crc32c:
            raise self._broken(f"layer {layer.tensor!r} is damaged at byte {message.offset}")
        self._map += message.data
        if len(self._map) > layer.size or (message.last != (len(self._map) == layer.size)):
            raise self._broken(f"layer {layer.tensor!r} has another length than announced")
        if not message.last:
            return None
        data, self._map, self._announced = bytes(self._map), bytearray(), None
        return self._flow(layer, announced, data)

    def _flow(self, layer: _Layer, message: explanation_pb2.LayerFlow, data: bytes) -> Flow:
        if len(data) != layer.size:
            raise self._broken(f"layer {layer.tensor!r} has another length than announced")
        values = np.frombuffer(data, layer.dtype).reshape(layer.shape)  # read-only, as bytes are
        if layer.dtype != FLOAT32:
            values = _read_only(values.astype(np.float32))
        self._flows += 1
        return Flow(message.index, layer.tensor, values, _diagnostics(message.diagnostics))

    def _layer_error(self, message: explanation_pb2.LayerError) -> LayerFailure:
        layer = self._expected("layer_error", message.index, message.tensor)
        failure = LayerFailure(message.index, layer.tensor, from_status(message.status, self._target))
        self.failures.append(failure)
        return failure

    def _summary(self, message: explanation_pb2.Summary) -> Summary:
        if message.HasField("error"):
            raise from_status(message.error, self._target)
        if self.header is None:
            raise self._broken("summary before the header")
        if (message.layers_sent, message.layers_failed) != (self._flows, len(self.failures)):
            raise self._broken(
                f"{message.layers_sent} maps and {message.layers_failed} failures were sent, "
                f"{self._flows} and {len(self.failures)} came"
            )
        self.summary = Summary(
            layers=message.layers_sent,
            failed=message.layers_failed,
            queue=message.queue_seconds,
            compute=message.compute_seconds,
            first_flow=message.first_flow_seconds,
            total=message.total_seconds,
            iterations=message.iterations,
            batch_size=message.batch_size,
        )
        return self.summary

    def _expected(self, kind: str, index: int, tensor: str) -> _Layer:
        if self.header is None:
            raise self._broken(f"{kind} before the header")
        layer = self._coming.pop(index, None)
        if layer is None or layer.tensor != tensor:
            raise self._broken(f"layer {index} {tensor!r} was not announced, or comes twice")
        return layer

    def _broken(self, what: str) -> CallError:
        return BrokenStreamError(
            f"{self._target}: the stream is broken: {what}", "what came before is sound; try again"
        )


def method_options(message: method_pb2.Method) -> dict[str, Any]:
    """Options of the method by the names of `explain`'s arguments, as in manifest.json."""
    rule = _name(method_pb2.AbandonmentRule, "ABANDONMENT_RULE", message.abandonment.rule)
    return {
        "inverse": _name(method_pb2.Inverse, "INVERSE", message.inverse),
        "rows": _name(method_pb2.Rows, "ROWS", message.rows),
        # a server that knows no other weighting or evidence does not name it
        "weighting": _name(method_pb2.Weighting, "WEIGHTING", message.weighting or SCALED),
        "abandon": rule if rule == "zero-gradient" else f"{rule}:{message.abandonment.mass!r}",
        "feasible": message.feasible,
        "anchor": _name(method_pb2.Anchor, "ANCHOR", message.anchor),
        "evidence": _name(method_pb2.Evidence, "EVIDENCE", message.evidence or POSITIVE),
        "damping": message.damping,
        "tolerance": message.tolerance,
        "max_iterations": message.max_iterations,
        "map_change": message.map_change,
    }


def _name(enum: Any, prefix: str, value: int) -> str:
    found = enum.DESCRIPTOR.values_by_number.get(value)
    return found.name.removeprefix(f"{prefix}_").lower().replace("_", "-") if found else str(value)


def _prediction(message: explanation_pb2.Prediction) -> Prediction:
    return Prediction(
        best=tuple(_score(item) for item in message.best),
        target=_score(message.target),
        target_score=message.target_score,
        squashed_by=message.squashed_by,
        reference=_reference(message.reference) if message.HasField("reference") else None,
        similarity=_similarity(message.similarity) if message.HasField("similarity") else None,
    )


def _similarity(message: similarity_pb2.Similarity) -> Similarity:
    how = message.comparison
    return Similarity(
        metric=how.metric,
        normalise=_name(similarity_pb2.Normalisation, "NORMALISATION", how.normalisation),
        coefficients=_name(similarity_pb2.Coefficients, "COEFFICIENTS", how.coefficients),
        score=message.score,
        top_channels=tuple((item.channel, item.contribution) for item in message.channels),
        neighbours=tuple(
            Neighbour(item.index, item.label, item.similarity, item.used) for item in message.neighbours
        ),
        bank_id=message.bank_id,
        bank_version=message.bank_version,
    )


def _reference(message: explanation_pb2.ReferencePrediction) -> ReferencePrediction:
    return ReferencePrediction(
        best=tuple(_score(item) for item in message.best),
        scores=tuple(message.scores),
        largest_difference=message.largest_difference,
    )


def _score(message: explanation_pb2.ClassScore) -> ClassScore:
    return ClassScore(message.class_index, message.score, message.label)


def _diagnostics(message: explanation_pb2.LayerDiagnostics) -> LayerDiagnostics:
    rows = [
        PACK(
            item.retained_fraction,
            item.iterations,
            item.relative_residual,
            item.converged,
            item.conservation_gap,
        )
        for item in message.pictures
    ]
    # one array with columns, of bytes and so read-only: five arrays take three times as long
    table = np.frombuffer(b"".join(rows), PICTURE)
    return LayerDiagnostics(
        node=message.node,
        op_type=message.op_type,
        shape=tuple(message.shape[:]),
        rule=message.rule,
        retained_fraction=table["retained_fraction"],
        iterations=table["iterations"],
        relative_residual=table["relative_residual"],
        converged=table["converged"],
        conservation_gap=table["conservation_gap"],
        seconds=message.seconds,
    )


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array
