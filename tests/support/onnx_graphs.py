"""Small ONNX models for tests, and onnxruntime to run them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None] | None


def make_model(
    nodes: Iterable[NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Iterable[str] = ("y",),
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 18,
    ir_version: int = 8,
    dtype: int = TensorProto.FLOAT,
    extra_opsets: Mapping[str, int] | None = None,
    functions: Iterable[onnx.FunctionProto] = (),
) -> ModelProto:
    """A model with inputs of one element type; `constants` become initializers."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = {"": opset, **(extra_opsets or {})}
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*item) for item in opsets.items()],
        ir_version=ir_version,
        functions=list(functions),
    )


def run_onnxruntime(
    model: ModelProto | bytes | Path, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Outputs of the unoptimised model on the CPU with one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    content = model.SerializeToString() if isinstance(model, ModelProto) else model
    session = onnxruntime.InferenceSession(
        str(content) if isinstance(content, Path) else content, options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(outputs, dict(feeds))]


def zoo_models() -> list[Path]:
    """Real models under NAFLOW_ZOO/models, or none when the variable is not set."""
    root = os.environ.get("NAFLOW_ZOO")
    return sorted(Path(root, "models").glob("*.onnx")) if root else []


def zoo_parameters() -> list[object]:
    """For pytest.mark.parametrize: one case per zoo model, or one that is skipped with the reason."""
    models = zoo_models()
    if models:
        return [pytest.param(path, id=path.stem) for path in models]
    return [
        pytest.param(None, marks=pytest.mark.skip(reason="set NAFLOW_ZOO to a folder with models/*.onnx"))
    ]
