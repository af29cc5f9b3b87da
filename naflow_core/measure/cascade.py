"""Explanations by several methods beside one forward pass, and one forward and backward pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naflow_core.analysis.plan import Plan
from naflow_core.errors import AnalysisError
from naflow_core.explainer import Model
from naflow_core.flow import Flow
from naflow_core.measure.turns import by_turns, jax_forward_backward, onnxruntime_forward
from naflow_core.method import Method
from naflow_core.verify import random_inputs


@dataclass(frozen=True, slots=True)
class Run:
    """One explanation.

    Attributes:
        seconds: from the call to the last flow.
        first_flow: from the call to the first flow.
        flows: deepest first.
    """

    seconds: float
    first_flow: float
    flows: tuple[Flow, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is explained, and how far down.

    Attributes:
        model, feeds: inputs as the model takes them.
        layers: as `Model.explain` takes it.
        output, top_feature_map: its arguments of these names.
    """

    model: Model
    feeds: Mapping[str, np.ndarray]
    layers: str | Sequence[str] = "spine"
    output: str | None = None
    top_feature_map: str | None = None

    def explain(self, method: Method) -> Run:
        """One explanation, timed."""
        began = time.perf_counter()
        explanation = self.model.explain(
            self.feeds,
            method=method,
            layers=self.layers,
            output=self.output,
            top_feature_map=self.top_feature_map,
        )
        flows, first = [], 0.0
        for flow in explanation:
            first = first or time.perf_counter() - began
            flows.append(flow)
        return Run(time.perf_counter() - began, first, tuple(flows))

    def plan(self) -> Plan:
        """How it is explained; segments do not depend on the method.

        Raises:
            AnalysisError: it cannot be explained.
        """
        shapes = {name: value.shape for name, value in self.feeds.items()}
        report = self.model.inspect(
            input_shapes=shapes, output=self.output, top_feature_map=self.top_feature_map
        )
        if report.plan is None:
            raise AnalysisError(f"{self.model.loaded.source.name} cannot be explained: {report.reason}")
        return report.plan


def noise(model: Model, shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded noise for every input.

    Args:
        shapes: by input name, where the model leaves sizes open.
    """
    return random_inputs(model.inputs, model.default_shapes(**shapes), seed)


def compare(subject: Subject, methods: Mapping[str, Method], repeats: int) -> dict[str, Any]:
    """Explanations by several methods beside one forward pass and one forward and backward pass.

    Returns:
        "forward" and "forward_backward", medians in seconds; "cascades", for each method a row (see
        `_row`); "segments", for each method the split by segment (see `_split`).

    Raises:
        AnalysisError: the model cannot be explained, or onnxruntime refuses it.
    """
    plan = subject.plan()
    runs: dict[str, list[Run]] = {name: [] for name in methods}

    def explaining(name: str, method: Method) -> Callable[[], object]:
        return lambda: runs[name].append(subject.explain(method))

    taken = by_turns(
        {
            "onnxruntime forward": onnxruntime_forward(subject.model, subject.feeds),
            "JAX forward and backward": jax_forward_backward(plan, subject.feeds),
            **{f"cascade {name}": explaining(name, method) for name, method in methods.items()},
        },
        repeats,
    )
    forward, both, *_ = (statistics.median(times) for times in taken.values())
    counted = {name: found[1:] for name, found in runs.items()}  # without the round that compiles
    return {
        "forward": forward,
        "forward_backward": both,
        "cascades": {name: _row(found, forward, both) for name, found in counted.items()},
        "segments": {name: _split(found, plan) for name, found in counted.items()},
    }


def _row(runs: Sequence[Run], forward: float, both: float) -> dict[str, Any]:
    """Medians over runs; iterations are summed over the layers, for the mean picture; `unconverged` counts
    layers with a picture whose solve did not converge, `solved` those with a solve at all."""
    seconds = statistics.median(run.seconds for run in runs)
    details = [flow.diagnostics for flow in runs[0].flows]
    return {
        "seconds": seconds,
        "per_forward": seconds / forward,
        "per_forward_backward": seconds / both,
        "first_flow": statistics.median(run.first_flow / run.seconds for run in runs),
        "layers": len(details),
        "solved": sum(bool(detail.iterations.any()) for detail in details),
        "unconverged": sum(not bool(detail.converged.all()) for detail in details),
        "iterations": float(sum(detail.iterations.mean() for detail in details)),
    }


def _split(runs: Sequence[Run], plan: Plan) -> list[dict[str, Any]]:
    """One row for each layer, deepest first: the segment behind it, and what inverting that took."""
    behind = {segment.source: segment for segment in plan.segments}
    rows = []
    for number, flow in enumerate(runs[0].flows):
        detail, segment = flow.diagnostics, behind.get(flow.tensor)
        seconds = statistics.median(run.flows[number].diagnostics.seconds for run in runs)
        iterations = float(detail.iterations.mean())
        ops = [] if segment is None else [step.node.op_type for step in segment.steps]
        rows.append(
            {
                "tensor": flow.tensor,
                "shape": list(detail.shape[1:]),
                "segment": f"{len(ops)} nodes" if len(ops) > 1 else "".join(ops),
                "rule": detail.rule,
                "seconds": seconds,
                "iterations": iterations,
                "seconds_per_iteration": seconds / iterations if iterations else None,
                "retained": float(detail.retained_fraction.mean()),
                "converged": bool(detail.converged.all()),
            }
        )
    return rows
