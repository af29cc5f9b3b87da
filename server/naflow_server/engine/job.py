"""Work for a compute thread, cut into turns so that several explanations share the thread."""

from __future__ import annotations

import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import naflow_core as nf
from naflow_server.engine import failures
from naflow_server.engine.call import Call
from naflow_server.engine.targets import with_embeddings
from naflow_server.engine.types import (
    Code,
    EngineError,
    Header,
    LayerFailure,
    LayerFlow,
    LayerInfo,
    Progress,
    Seconds,
    Summary,
)
from naflow_server.engine.version import LoadedVersion, padded
from naflow_server.tracing import layer_attributes

log = logging.getLogger("naflow_server.engine")
PATIENCE = 0.05
"""Seconds for which readers of one batch wait for the slowest among them."""


class Job(ABC):
    """Something to compute in turns."""

    @abstractmethod
    def turn(self) -> Sequence[Job]:
        """Compute for one layer. Returns what is left to do: usually this job, or nothing at its end."""

    @abstractmethod
    def ready(self, now: float) -> bool:
        """Whether a turn can be taken; if not, some reader has no room."""

    @abstractmethod
    def release(self) -> None:
        """Give memory back while waiting."""

    @abstractmethod
    def settle(self, error: EngineError) -> None:
        """End all that depends on this job."""

    @property
    @abstractmethod
    def waits_for(self) -> Sequence[Call]:
        """Calls whose readers have no room."""


class WarmUp(Job):
    """Computes one explanation of zeros, so that its programs are compiled."""

    def __init__(
        self,
        loaded: LoadedVersion,
        device: int,
        shapes: dict[str, tuple[int, ...]],
        layers: str | tuple[str, ...],
        done: Callable[[BaseException | None], None],
    ) -> None:
        self._model = loaded.models[device]
        self._shapes, self._layers, self._done = shapes, layers, done
        self._explanation: nf.Explanation | None = None

    def turn(self) -> Sequence[Job]:
        """See `Job`."""
        try:
            if self._explanation is None:
                types = {spec.name: spec.dtype for spec in self._model.inputs}
                zeros: dict[str, Any] = {
                    name: np.zeros(shape, _numpy_type(types.get(name, "float")))
                    for name, shape in self._shapes.items()
                }
                self._explanation = self._model.explain(zeros, layers=self._layers)
                return (self,)
            if next(self._explanation.steps(), None) is not None:
                return (self,)
        except Exception as error:  # noqa: BLE001  handed to whoever waits for the warm-up
            self._done(error)
            return ()
        self._done(None)
        return ()

    def ready(self, now: float) -> bool:
        """Nobody reads this."""
        del now
        return True

    def release(self) -> None:
        """Never waits."""

    def settle(self, error: EngineError) -> None:
        """See `Job`."""
        self._done(error)

    @property
    def waits_for(self) -> Sequence[Call]:
        """Nobody."""
        return ()


@dataclasses.dataclass
class Member:
    """A call inside a batch.

    Attributes:
        begin: its first picture's place in the batch.
        skip: layers that its reader has been given already, by a batch it has left.
    """

    call: Call
    begin: int
    skip: int = 0
    has_header: bool = False
    failed: int = 0
    iterations: int = 0
    first_flow: float = 0.0
    compute: float = 0.0
    started: float = 0.0

    @property
    def rows(self) -> slice:
        """Its pictures' place in the batch."""
        return slice(self.begin, self.begin + self.call.pictures)


class Explaining(Job):
    """One cascade for one call, or for several that are batched; each call has its own place in it.

    Attributes:
        seconds: of computation so far.
    """

    def __init__(self, members: Sequence[Member], device: int, together: bool) -> None:
        self._members = list(members)
        self._device, self._together = device, together
        self._pictures = sum(member.call.pictures for member in members)
        self._shared = len(members) > 1
        self._explanation: nf.Explanation | None = None
        self._done = 0
        self.seconds = 0.0
        self._waiting_since: float | None = None

    @classmethod
    def of(cls, calls: Sequence[Call], device: int, together: bool) -> Explaining:
        """A job for calls that can share a cascade."""
        members, begin = [], 0
        for call in calls:
            members.append(Member(call, begin))
            begin += call.pictures
        return cls(members, device, together)

    @property
    def waits_for(self) -> Sequence[Call]:
        """Calls whose readers have no room."""
        return [m.call for m in self._members if not m.call.settled and not m.call.has_room]

    def ready(self, now: float) -> bool:
        """See `Job`. A batch waits a moment for its slowest reader, then goes on without it."""
        waiting = self.waits_for
        if not waiting:
            self._waiting_since = None
            return True
        if self._waiting_since is None:
            self._waiting_since = now
        others = sum(not m.call.settled for m in self._members) > len(waiting)
        return others and now - self._waiting_since >= PATIENCE

    def release(self) -> None:
        """Drop the forward pass; the next turn computes it again."""
        if self._explanation is not None:
            self._explanation.release()

    def settle(self, error: EngineError) -> None:
        """See `Job`."""
        for member in self._members:
            member.call.settle(error)

    def turn(self) -> Sequence[Job]:
        """Start, or compute the next layer. Calls that have ended are left out; one whose reader has stalled
        goes on alone, from where it was, when it has room."""
        now = time.monotonic()
        self._members = [m for m in self._members if not m.call.expired(now) and not m.call.settled]
        left = [m for m in self._members if not m.call.has_room]
        self._members = [m for m in self._members if m.call.has_room]
        jobs: list[Job] = [self._alone(member) for member in left]
        if not self._members:
            return jobs
        began = time.perf_counter()
        try:
            more = self._start() if self._explanation is None else self._advance(self._explanation)
        except nf.NaflowError as error:
            if self._shared and self._explanation is None:  # one caller's mistake is not the others'
                return jobs + [self._alone(member) for member in self._members]
            self.settle(failures.from_core(error, self._members[0].call.request))
            return jobs
        except Exception as error:
            ids = ", ".join(member.call.request.request_id or "-" for member in self._members)
            log.exception("computation failed", extra={"request_id": ids})
            self.settle(failures.unexpected(error))
            return jobs
        seconds = time.perf_counter() - began
        self.seconds += seconds
        for member in self._members:
            member.compute += seconds
        if more:
            return [*jobs, self]
        self._finish()
        return jobs

    def _alone(self, member: Member) -> Explaining:
        skip = max(self._done, member.skip)
        alone = dataclasses.replace(member, begin=0, skip=skip)
        return Explaining([alone], self._device, self._together)

    def _start(self) -> bool:
        first = self._members[0].call
        request, loaded = first.request, first.loaded
        assert loaded is not None, "calls are submitted with their model"
        now = time.monotonic()
        begin = 0
        for member in self._members:  # some may have ended before the start
            member.begin = begin
            begin += member.call.pictures
            member.started = member.started or now
        self._pictures = begin
        inputs = [loaded.named(dict(m.call.request.inputs)) for m in self._members]
        joined = inputs[0]
        extra = 0
        if len(self._members) > 1:
            extra = padded(begin, first.batch_pictures) - begin if self._together else 0
            joined = {name: _joined([one[name] for one in inputs], extra) for name in inputs[0]}
        model = loaded.models[self._device]
        self._explanation = model.explain(
            joined,
            self._target(extra) or with_embeddings(request.target, model, loaded.named, request.output),
            method=request.method,
            layers=request.layers,
            output=request.output,
            top_feature_map=request.top_feature_map,
            explained_input=request.explained_input,
            batch_size=begin + extra if self._together else first.pictures,
        )
        for member in self._members:
            self._see(member, "")
            if (trace := member.call.request.trace) is not None:
                if not member.has_header:
                    trace.record("queue", member.call.admitted, member.started, {})
                trace.record("forward", now, time.monotonic(), {"naflow.batch_pictures": self._pictures})
            if not member.has_header:
                member.call.put(self._header(self._explanation, member, loaded))
                member.has_header = True
        return bool(self._explanation.layers)

    def _target(self, extra: int) -> nf.PerPicture | None:
        """Everybody's class; None where a similarity is explained, which is never shared.

        Args:
            extra: pictures that fill the batch up.
        """
        classes = []
        for member in self._members:
            target = member.call.request.target
            if not isinstance(target, nf.ClassTarget):
                return None
            classes += [target] * member.call.pictures
        return nf.PerPicture((*classes, *classes[-1:] * extra))

    def _header(self, explanation: nf.Explanation, member: Member, loaded: LoadedVersion) -> Header:
        plan, rows = explanation.plan, member.rows
        prediction = explanation.prediction
        own = dataclasses.replace(
            prediction,
            **{
                name: getattr(prediction, name)[rows].copy()
                for name in ("scores", "logits", "target", "target_score")
            },
        )
        bank = member.call.bank
        if own.similarity is not None and bank is not None and bank.positions is not None:
            own = dataclasses.replace(own, similarity=_placed(own.similarity, bank.positions))
        layers = []
        for index, tensor in enumerate(explanation.layers):
            shape = plan.program.shapes[tensor]
            spatial = tuple(shape[axis] for axis in sorted(plan.layouts[tensor]) if axis)
            layers.append(LayerInfo(index, tensor, (member.call.pictures, *spatial)))
        version = bank.version if bank is not None else None
        return Header(loaded.name, loaded.version, loaded.sha256, own, tuple(layers), bank=version)

    def _advance(self, explanation: nf.Explanation) -> bool:
        began = time.monotonic()
        step = next(explanation.steps(), None)
        if step is None:
            return False
        ended = time.monotonic()
        flow = step.flow
        if flow is not None:
            self._done += 1
        for member in self._members:
            if flow is not None and self._done > member.skip:
                self._deliver(member, flow, bool(step.finite[member.rows].all()))
            if (trace := member.call.request.trace) is not None:
                own = _rows(flow, member.rows) if flow is not None and self._shared else flow
                failed = "" if flow is None or step.finite[member.rows].all() else "not finite"
                trace.record("layer", began, ended, layer_attributes(step.tensor, own), failed)
            self._see(member, step.tensor)
        return self._done < len(explanation.layers)

    def _deliver(self, member: Member, flow: nf.Flow, finite: bool) -> None:
        if not finite:
            member.failed += 1
            message = f"the flow of layer {flow.tensor!r} has nan or infinite values"
            failure = LayerFailure(flow.index, flow.tensor, Code.INTERNAL, message, nf.NumericalError.code)
            member.call.put(failure)
            return
        own = flow if flow.map.shape[0] == member.call.pictures else _rows(flow, member.rows)
        member.iterations += int(own.diagnostics.iterations.max(initial=0))
        if not member.first_flow:
            member.first_flow = time.monotonic() - member.call.admitted
        member.call.put(LayerFlow(own))

    def _see(self, member: Member, tensor: str) -> None:
        assert self._explanation is not None, "progress is reported after the start"
        done = max(self._done, member.skip)
        member.call.position = Progress(done, len(self._explanation.layers), tensor, 0.0)

    def _finish(self) -> None:
        assert self._explanation is not None, "there is nothing to finish before the start"
        now = time.monotonic()
        total = len(self._explanation.layers)
        for member in self._members:
            call = member.call
            seconds = Seconds(
                queue=member.started - call.admitted,
                compute=member.compute,
                first_flow=member.first_flow,
                total=now - call.admitted,
            )
            call.put(
                Summary(total - member.failed, member.failed, seconds, member.iterations, self._pictures)
            )
            call.settle()


def _placed(found: nf.Similarity, positions: np.ndarray) -> nf.Similarity:
    """Neighbours with their positions in a bank of which only some rows were searched."""
    rows = (
        tuple(dataclasses.replace(item, index=int(positions[item.index])) for item in row)
        for row in found.neighbours
    )
    return dataclasses.replace(found, neighbours=tuple(rows))


def _joined(parts: Sequence[Any], extra: int) -> np.ndarray:
    """Batch of the callers' arrays, its last picture repeated to fill up."""
    arrays = [np.asarray(part) for part in parts]
    return np.concatenate([*arrays, *[arrays[-1][-1:]] * extra])


def _rows(flow: nf.Flow, rows: slice) -> nf.Flow:
    """The same layer for some pictures of the batch."""
    whole = flow.diagnostics
    arrays = ("retained_fraction", "iterations", "relative_residual", "converged", "conservation_gap")
    count = rows.stop - rows.start
    own = dataclasses.replace(
        whole,
        shape=(count, *whole.shape[1:]),
        **{name: getattr(whole, name)[rows].copy() for name in arrays},
    )
    return dataclasses.replace(flow, map=flow.map[rows].copy(), diagnostics=own)


def _numpy_type(onnx_type: str) -> str:
    return {"float": "float32", "double": "float32", "float16": "float32", "bfloat16": "float32"}.get(
        onnx_type, onnx_type
    )
