"""Real exported models: all load, lose no tensor name, and compute what the file computes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from naflow_core.model import Graph, read_model
from support.onnx_graphs import run_onnxruntime, zoo_parameters
from support.timed import timed, within


def _feed(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in graph.inputs:
        assert spec.shape is not None
        sizes = [
            size if isinstance(size, int) else (3, 3, 48, 48)[axis] for axis, size in enumerate(spec.shape)
        ]
        scale = 255 if spec.dtype == "uint8" else 1
        feeds[spec.name] = (rng.random(sizes) * scale).astype("uint8" if scale == 255 else "float32")
    return feeds


@timed
@pytest.mark.parametrize("path", zoo_parameters())
def test_zoo_model(path: Path) -> None:
    original = onnx.load(path)
    before = {name for node in original.graph.node for name in node.output if name}
    weights = {tensor.name: tensor for tensor in original.graph.initializer}

    start = time.perf_counter()
    loaded = read_model(path)
    within(time.perf_counter() - start, 2.0)

    graph = loaded.graph
    made = {name for node in graph.nodes for name in node.outputs}
    assert before <= made | set(graph.constants), "conversion lost tensor names"
    assert graph.opsets[""] >= 18
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    for name, tensor in weights.items():
        np.testing.assert_array_equal(graph.constants[name], onnx.numpy_helper.to_array(tensor))
    assert not {spec.name for spec in graph.inputs} & set(weights)

    feeds = _feed(graph)
    exposed = sorted(made - {""})
    names = [spec.name for spec in graph.outputs]
    ours = run_onnxruntime(loaded.serialized_with_outputs(exposed), feeds, names + exposed[:3])
    for mine, theirs in zip(ours, run_onnxruntime(path, feeds, names), strict=False):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
