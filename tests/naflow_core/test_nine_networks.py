"""Nine widely used networks, with seeded weights, through the whole cascade."""

from __future__ import annotations

import os

import numpy as np
import pytest

import naflow_core as nf
from support.light_networks import NINE, input_shape, light_network

QUICK = ("SqueezeNet",)
LONG = "NAFLOW_LONG"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name not in QUICK and not os.environ.get(LONG), reason=f"takes a minute; set {LONG}=1"
            ),
        )
        for name in NINE
    ],
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> nf.Model:
    return nf.load(light_network(name))


@pytest.fixture(scope="module")
def x(name: str) -> np.ndarray:
    shape = input_shape(light_network(name))
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_forward_equals_onnxruntime_at_every_tensor(model: nf.Model, x: np.ndarray) -> None:
    checked = model.verify(x, tolerance=1e-4)
    assert checked.ok, [t for t in checked.tensors if t.max_rel_error > 1e-4]
    assert len(checked.tensors) >= len(model.inspect().to_dict()["segments"])


def test_every_flow_is_finite(model: nf.Model, x: np.ndarray) -> None:
    explanation = model.explain(x)
    result = explanation.collect()
    assert [flow.tensor for flow in result.flows] == list(explanation.layers)
    assert len(result.flows) >= 5
    for flow in result.flows:
        assert np.isfinite(flow.map).all(), flow.tensor
        assert flow.map.max() > flow.map.min(), flow.tensor
        assert flow.diagnostics.converged.all(), flow.tensor
