"""Networks from five exporters: what will be explained, the forward pass, and the flows themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import naflow_core as nf
from frameworks.catalogue import EXPORTERS, OUTPUTS, SPATIAL
from naflow_core.verify import random_inputs

CASES = [(exporter, name) for exporter, facts in EXPORTERS.items() for name in facts.networks]

pytestmark = pytest.mark.parametrize(("exporter", "name"), CASES)
Exported = Callable[[str], Path]


def outputs(model: nf.Model, name: str) -> list[str | None]:
    """The outputs to explain; None where there is only one and it need not be named."""
    assert len(model.outputs) == OUTPUTS.get(name, 1)
    return [None] if len(model.outputs) == 1 else [spec.name for spec in model.outputs]


def test_inspect_tells_what_will_be_explained(exporter: str, name: str, exported: Exported) -> None:
    model = nf.load(exported(exporter) / f"{name}.onnx")
    if name in OUTPUTS:
        refused = model.inspect()
        assert not refused.explainable
        assert "choose one with --output" in refused.reason
    for output in outputs(model, name):
        report = model.inspect(output=output).to_dict()
        assert report["explainable"], report["reason"]
        assert report["unsupported"] == []
        assert report["spine"][0]["tensor"] == model.inputs[0].name
        assert report["spine"][-1]["tensor"] == report["top_feature_map"]
        assert len(report["blocks"]) >= (1 if name in OUTPUTS else 2)
        classes = {segment["class"] for segment in report["segments"]}
        assert classes <= {"exact", "least_squares", "mask", "passthrough"}
        covered = [node for segment in report["segments"] for node in segment["nodes"]]
        assert len(covered) == len(set(covered))


def test_forward_agrees_with_onnxruntime_at_every_tensor(
    exporter: str, name: str, exported: Exported
) -> None:
    checked = nf.load(exported(exporter) / f"{name}.onnx").verify(tolerance=1e-4)
    assert checked.tensors
    assert [t for t in checked.tensors if not t.within(1e-4)] == []


def test_flows_are_finite_and_tell_places_apart(exporter: str, name: str, exported: Exported) -> None:
    model = nf.load(exported(exporter) / f"{name}.onnx")
    feeds = random_inputs(model.inputs, model.default_shapes(), seed=0)
    for output in outputs(model, name):
        explanation = model.explain(feeds, output=output)
        flows = explanation.collect().flows
        assert [flow.tensor for flow in flows] == list(explanation.layers)
        for flow in flows:
            lengths = [n for n in flow.map.shape[1:] if n > 1]
            assert len(lengths) == SPATIAL.get(name, 2), (flow.tensor, flow.map.shape)
            assert np.isfinite(flow.map).all(), flow.tensor
            assert flow.map.max() > flow.map.min() >= 0, flow.tensor
