"""The engine's events to messages."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np

import naflow_core as nf
from naflow.v1 import explanation_pb2 as ex
from naflow.v1 import method_pb2 as me
from naflow_server.convert.similarities import names_of, similarity
from naflow_server.convert.tables import (
    ABANDONMENTS,
    ANCHORS,
    DTYPE_CODES,
    DTYPE_NAMES,
    DTYPES,
    EVIDENCE,
    INVERSES,
    ROWS,
    WEIGHTINGS,
    key,
)
from naflow_server.engine import types
from naflow_server.errors import layer_status

CHUNK_BYTES = 1 << 20
TOP_CLASSES = 5
ANNOUNCEMENTS = 64  # kept, of some kilobytes each


@dataclass(frozen=True)
class Answer:
    """The messages that answer one request.

    Attributes:
        request: as the engine got it; says whether several maps may share a message.
        top_k: classes to list for each picture; 0 means the default.
    """

    request: types.ExplainRequest
    top_k: int = 0

    def room(self, event: types.Event) -> int:
        """Bytes of further maps that may share the message of an event."""
        if not self.request.grouped or not isinstance(event, types.LayerFlow):
            return 0
        return max(0, CHUNK_BYTES - event.flow.map.nbytes)

    def messages(self, event: types.Event, *more: types.LayerFlow) -> Iterator[ex.ExplainEvent]:
        """One message for an event and the maps that share it, more for a map over 1 MiB."""
        match event:
            case types.Header():
                yield self._event(header=_header(event, self.request, self.top_k or TOP_CLASSES))
            case types.LayerFlow() if more:
                yield self._group([event.flow, *(other.flow for other in more)])
            case types.LayerFlow():
                yield from self._flow(event.flow)
            case types.Progress():
                yield self._event(
                    progress=ex.Progress(
                        layers_done=event.done,
                        layers_total=event.total,
                        tensor=event.tensor,
                        elapsed_seconds=event.seconds,
                    )
                )
            case types.LayerFailure():
                status = layer_status(event, self.request.request_id)
                yield self._event(
                    layer_error=ex.LayerError(index=event.index, tensor=event.tensor, status=status)
                )
            case types.Summary():
                yield self._event(summary=_summary(event))

    def _event(self, **event: Any) -> ex.ExplainEvent:
        return ex.ExplainEvent(request_id=self.request.request_id, **event)

    def _group(self, flows: Sequence[nf.Flow]) -> ex.ExplainEvent:
        event = self._event()
        messages = event.layer_flows.flows
        for flow in flows:
            message = messages.add()
            message.data = _fill(message, flow)
        return event

    def _flow(self, flow: nf.Flow) -> Iterator[ex.ExplainEvent]:
        event = self._event()
        data = _fill(event.layer_flow, flow)
        if len(data) <= CHUNK_BYTES:
            event.layer_flow.data = data
            yield event
            return
        yield event
        for offset in range(0, len(data), CHUNK_BYTES):
            piece = data[offset : offset + CHUNK_BYTES]
            yield self._event(
                chunk=ex.Chunk(
                    index=flow.index,
                    offset=offset,
                    last=offset + len(piece) == len(data),
                    crc32c=google_crc32c.value(piece),
                    data=piece,
                )
            )


def _header(header: types.Header, request: types.ExplainRequest, top_k: int) -> ex.Header:
    prediction, reference = header.prediction, header.reference
    found = prediction.similarity
    label = names_of(request.target, prediction)
    message = ex.Header(
        model_name=header.model,
        model_version=header.version,
        model_sha256=header.sha256,
        output=prediction.output,
        predictions=[
            ex.Prediction(
                best=[
                    ex.ClassScore(class_index=i, score=score, label=label(i))
                    for i, score in prediction.best(n, top_k)
                ],
                target=ex.ClassScore(
                    class_index=int(prediction.target[n]),
                    score=float(prediction.scores[n, prediction.target[n]]),
                    label=label(int(prediction.target[n])),
                ),
                target_score=float(prediction.target_score[n]),
                squashed_by=prediction.squashed_by,
                reference=None if reference is None else _reference(prediction, reference, n, top_k),
                similarity=None if found is None else similarity(header, request.target, n, top_k),
            )
            for n in range(len(prediction.scores))
        ],
    )
    message.MergeFromString(_announcement(header.layers, request.method))
    return message


@functools.lru_cache(maxsize=ANNOUNCEMENTS)
def _announcement(layers: tuple[types.LayerInfo, ...], method: nf.Method) -> bytes:
    """The part of a header that many requests share, serialised: making it takes longer than all the rest."""
    message = ex.Header(total_layers=len(layers), method=_method_message(method))
    for layer in layers:
        dtype = DTYPE_NAMES[layer.dtype]
        info = message.layers.add()
        info.index, info.tensor, info.dtype = layer.index, layer.tensor, dtype
        info.shape.extend(layer.shape)
        message.total_bytes += math.prod(layer.shape) * DTYPES[dtype].itemsize
    return message.SerializeToString()


def _reference(
    prediction: nf.Prediction, reference: np.ndarray, picture: int, top_k: int
) -> ex.ReferencePrediction:
    ours, theirs = prediction.scores[picture], reference[picture]
    if prediction.similarity is not None:
        gap = float(np.abs(prediction.similarity.embedding[picture].ravel() - theirs).max())
        return ex.ReferencePrediction(largest_difference=gap / (float(np.abs(theirs).max()) or 1.0))
    order = np.argsort(-theirs, kind="stable")[:top_k]
    scale = float(np.abs(theirs).max()) or 1.0
    return ex.ReferencePrediction(
        best=[ex.ClassScore(class_index=int(k), score=float(theirs[k])) for k in order],
        scores=[float(theirs[k]) for k, _ in prediction.best(picture, top_k)],
        largest_difference=float(np.abs(ours - theirs).max()) / scale,
    )


def _method_message(method: nf.Method) -> me.Method:
    return me.Method(
        inverse=key(INVERSES, method.inverse),
        rows=key(ROWS, method.rows),
        weighting=key(WEIGHTINGS, method.weighting),
        abandonment=me.Abandonment(
            rule=key(ABANDONMENTS, method.abandon.rule),
            mass=0.0 if method.abandon.rule == "zero-gradient" else method.abandon.mass,
        ),
        feasible=method.feasible,
        anchor=key(ANCHORS, method.anchor),
        evidence=key(EVIDENCE, method.evidence),
        damping=method.damping,
        tolerance=method.tolerance,
        max_iterations=method.max_iterations,
        map_change=method.map_change,
    )


def _fill(message: ex.LayerFlow, flow: nf.Flow) -> bytes:
    """Say in a message what a map is. It is filled in place: one that is handed over is copied, map and all.

    Returns:
        The bytes of the map.
    """
    dtype = DTYPE_CODES[flow.map.dtype.char]
    message.index, message.tensor = flow.index, flow.tensor
    message.dtype, message.byte_size = dtype, flow.map.nbytes
    message.shape.extend(flow.map.shape)
    _fill_diagnostics(message.diagnostics, flow.diagnostics)
    return flow.map.astype(DTYPES[dtype], copy=False).tobytes()


def _fill_diagnostics(message: ex.LayerDiagnostics, found: nf.LayerDiagnostics) -> None:
    message.node, message.op_type, message.rule = found.node, found.op_type, found.rule
    message.shape.extend(found.shape)
    message.seconds = found.seconds
    for fraction, iterations, residual, converged, gap in zip(
        found.retained_fraction.tolist(),
        found.iterations.tolist(),
        found.relative_residual.tolist(),
        found.converged.tolist(),
        found.conservation_gap.tolist(),
        strict=True,
    ):
        picture = message.pictures.add()
        picture.retained_fraction = fraction
        picture.iterations = iterations
        picture.relative_residual = residual
        picture.converged = converged
        picture.conservation_gap = gap


def _summary(summary: types.Summary) -> ex.Summary:
    return ex.Summary(
        layers_sent=summary.layers,
        layers_failed=summary.failed,
        queue_seconds=summary.seconds.queue,
        compute_seconds=summary.seconds.compute,
        first_flow_seconds=summary.seconds.first_flow,
        total_seconds=summary.seconds.total,
        iterations=summary.iterations,
        batch_size=summary.batch_size,
    )
