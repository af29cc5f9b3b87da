"""Another export of the same trained network gives the same maps. The zoo's resnet20 is in tests/zoo."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest

import naflow_core as nf
from support.export_variants import VARIANTS, is_channels_last, pearson
from support.onnx_graphs import run_onnxruntime

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits_in_clutter"
DEEP = 5
"""Blocks from the top down: a composite, pooling and two convolutions lie between them."""
CHECKED = {
    "opset 9": 0.9999,
    "opset 21": 0.9999,
    "BN with other scales": 0.9999,
    "BN folded, NHWC": 0.9999,
    "float16": 0.98,
}


@functools.cache
def network() -> onnx.ModelProto:
    return onnx.load(EXAMPLE / "digits_in_clutter.onnx")


@functools.cache
def pictures() -> np.ndarray:
    from PIL import Image

    paths = sorted((EXAMPLE / "inputs").glob("digit_*.png"))
    return np.stack([np.asarray(Image.open(path), np.float32)[None] / 255 for path in paths])


def flows(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """Raw flows of the deepest blocks."""
    loaded = nf.load(model)
    blocks = loaded.inspect().to_dict()["blocks"]
    assert len(blocks) == 8
    result = loaded.explain(x, layers=blocks[-DEEP:]).collect()
    return [flow.map for flow in result.flows]


@functools.cache
def reference() -> list[np.ndarray]:
    return flows(network(), pictures())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_computes_the_same(name: str) -> None:
    """Otherwise the comparisons below would be of two networks."""
    x = pictures()[:2]
    given = x.transpose(0, 2, 3, 1) if is_channels_last(name) else x
    expected = run_onnxruntime(network(), {"image": x})[0]
    found = run_onnxruntime(VARIANTS[name](network()), {"image": given})[0]
    share = 5e-3 if "float16" in name else 1e-5
    np.testing.assert_allclose(found, expected, atol=share * np.abs(expected).max())


@pytest.mark.parametrize("name", CHECKED)
def test_block_flows_are_those_of_the_file(name: str) -> None:
    x = pictures()
    given = x.transpose(0, 2, 3, 1) if is_channels_last(name) else x
    found = flows(VARIANTS[name](network()), given)
    assert [flow.shape for flow in found] == [flow.shape for flow in reference()]
    similar = [pearson(a, b) for a, b in zip(reference(), found, strict=True)]
    assert np.min(similar) >= CHECKED[name]


def test_blocks_are_the_same_tensors_in_every_variant() -> None:
    sizes = {name: shapes(VARIANTS[name](network())) for name in VARIANTS}
    assert set(sizes.values()) == {shapes(network())}


def shapes(model: onnx.ModelProto) -> tuple[tuple[str, ...], ...]:
    """Of every block: what makes it, and its sizes in any order of axes."""
    report = nf.load(model).inspect().to_dict()
    made = {segment["output"]: segment for segment in report["segments"]}
    size = {entry["tensor"]: entry["shape"] for entry in report["spine"]}
    alike = {"Clip": "Relu", "Max": "Relu"}
    found = []
    for name in report["blocks"]:
        ops = [op for op in made[name]["op_types"] if op != "Transpose"] or ["MaxPool"]
        found.append((alike.get(ops[-1], ops[-1]), *map(str, sorted(size[name]))))
    return tuple(found)
