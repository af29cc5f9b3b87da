"""float16, bfloat16 and float64 models are computed in float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from naflow_core.model import read_model
from support.onnx_graphs import make_model, run_onnxruntime

node = helper.make_node
WIDE_TYPES = {
    "float16": (TensorProto.FLOAT16, np.float16),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "double": (TensorProto.DOUBLE, np.float64),
}


def _model(kind: int, dtype: type, *, typed_fields: bool = False) -> tuple[ModelProto, np.ndarray]:
    weights = np.random.default_rng(1).normal(size=(4, 3)).astype(dtype)
    half = numpy_helper.from_array(np.array(0.5, dtype), "half")
    fill = numpy_helper.from_array(np.array([0.25], dtype))
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Constant", [], ["h"], value=half),
        node("Mul", ["a", "h"], ["b"]),
        node("Cast", ["b"], ["c"], to=kind),
        node("Shape", ["c"], ["s"]),
        node("ConstantOfShape", ["s"], ["q"], value=fill),
        node("Add", ["c", "q"], ["y"]),
    ]
    model = make_model(nodes, {"x": (2, 4)}, dtype=kind, opset=17)
    if typed_fields:
        bits = weights.view(np.uint16).ravel().tolist() if weights.itemsize == 2 else weights.ravel().tolist()
        tensor = TensorProto(name="w", data_type=kind, dims=weights.shape)
        (tensor.int32_data if weights.itemsize == 2 else tensor.double_data).extend(bits)
    else:
        tensor = numpy_helper.from_array(weights, "w")
    model.graph.initializer.append(tensor)
    return model, weights.astype(np.float32)


@pytest.mark.parametrize("typed_fields", [False, True], ids=["raw", "typed"])
@pytest.mark.parametrize("name", WIDE_TYPES)
def test_everything_becomes_float32(name: str, typed_fields: bool) -> None:
    model, weights = _model(*WIDE_TYPES[name], typed_fields=typed_fields)
    loaded = read_model(model)
    graph = loaded.graph
    assert [(spec.name, spec.dtype) for spec in (*graph.inputs, *graph.outputs)] == [
        ("x", "float"),
        ("y", "float"),
    ]
    assert graph.constants["w"].dtype == np.float32
    np.testing.assert_array_equal(graph.constants["w"], weights)
    by_type = {n.op_type: n for n in graph.nodes}
    assert by_type["Cast"].attributes["to"] == TensorProto.FLOAT
    for op_type in ("Constant", "ConstantOfShape"):
        assert by_type[op_type].attributes["value"].dtype == np.float32

    x = np.random.default_rng(2).normal(size=(2, 4)).astype(np.float32)
    (got,) = run_onnxruntime(loaded.serialized_with_outputs(), {"x": x})
    np.testing.assert_allclose(got, x @ weights * 0.5 + 0.25, rtol=1e-5)


def test_integers_and_bools_stay_as_they_are() -> None:
    constants = {
        "i64": np.array([-(2**60), 5]),
        "u8": np.array([0, 255], np.uint8),
        "i8": np.array([-128, 7], np.int8),
        "flag": np.array([True, False]),
    }
    graph = read_model(make_model([node("Relu", ["x"], ["y"])], {"x": (2,)}, constants=constants)).graph
    for name, array in constants.items():
        assert graph.constants[name].dtype == array.dtype
        np.testing.assert_array_equal(graph.constants[name], array)


def test_float64_beyond_float32_becomes_infinite() -> None:
    graph = read_model(
        make_model([node("Relu", ["x"], ["y"])], {"x": (2,)}, constants={"w": np.array([1e300, -1e300])})
    )
    np.testing.assert_array_equal(graph.graph.constants["w"], [np.inf, -np.inf])


def test_a_cast_to_an_integer_is_left_alone() -> None:
    model = make_model(
        [node("Cast", ["x"], ["y"], to=TensorProto.INT32)], {"x": (2,)}, dtype=TensorProto.FLOAT16
    )
    assert read_model(model).graph.nodes[0].attributes["to"] == TensorProto.INT32
