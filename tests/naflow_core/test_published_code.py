"""The preset "published-code" against maps that the authors' published code made on two small networks."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest

import naflow_core as nf
from naflow_client.render import normalise, upscale

ROOT = Path(os.environ.get("NAFLOW_ZOO", "")) / "goldens"
if not os.environ.get("NAFLOW_ZOO"):
    pytest.skip("set NAFLOW_ZOO to a folder with goldens/manifest.json", allow_module_level=True)
NETWORKS = json.loads((ROOT / "manifest.json").read_text())["networks"]


@functools.cache
def reproduced(name):
    golden = np.load(ROOT / f"{name}.npz")
    explanation = nf.load(ROOT / f"{name}.onnx").explain(
        golden["input"], method=nf.Method.preset("published-code"), layers="spine"
    )
    return golden, explanation, {flow.tensor: flow.map[0] for flow in explanation}


@pytest.mark.parametrize("name", NETWORKS)
def test_class_and_top_feature_map_are_the_same(name):
    golden, explanation, _ = reproduced(name)
    assert explanation.prediction.target[0] == golden["predicted_class"]
    assert explanation.plan.top == NETWORKS[name]["top_feature_map"]


@pytest.mark.parametrize("name", NETWORKS)
def test_raw_flows_are_the_same(name):
    golden, _, flows = reproduced(name)
    for step in NETWORKS[name]["steps"]:
        key = step["step"]
        product = golden[f"{key}_bpfm"].astype(np.float64) * golden[f"{key}_gradient"]
        expected = np.maximum(product, 0).sum(axis=1)[0]
        got = flows[step["tensor"]]
        np.testing.assert_allclose(
            got, expected, atol=1e-5 * expected.max(), rtol=1e-5, err_msg=step["tensor"]
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_displayed_maps_are_the_same(name):
    golden, _, flows = reproduced(name)
    size = golden["input"].shape[2:]
    deep_to_shallow = [
        NETWORKS[name]["top_feature_map"],
        *(step["tensor"] for step in NETWORKS[name]["steps"]),
    ]
    expected = golden["flows_uint8_shallow_to_deep"].astype(int)
    assert len(expected) == len(deep_to_shallow)
    for tensor, picture in zip(reversed(deep_to_shallow), expected, strict=True):
        ours = upscale(normalise(flows[tensor]).values, size) * 255
        assert np.abs(ours - picture).max() <= 2, tensor
