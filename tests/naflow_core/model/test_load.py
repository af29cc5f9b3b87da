"""What a good model becomes."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

import naflow_core as nf
from naflow_core.errors import ModelError
from naflow_core.model import Limits, read_model
from naflow_core.model.graph import Body
from naflow_core.model.wire import DETACH_BYTES
from support.onnx_graphs import make_model, run_onnxruntime

node = helper.make_node
F32 = np.float32
LARGE = np.random.default_rng(0).normal(size=(40, 40)).astype(F32)
X = np.random.default_rng(1).normal(size=(2, 40)).astype(F32)


def _linear(**options: object) -> ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Neg", ["b"], ["y"])]
    return make_model(nodes, {"x": ("N", 40)}, constants={"w": LARGE}, **options)  # type: ignore[arg-type]


def test_path_bytes_and_message_give_the_same(tmp_path: Path) -> None:
    model = _linear()
    data = model.SerializeToString(deterministic=True)
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    for source, name in (
        (path, "net.onnx"),
        (str(path), "net.onnx"),
        (data, "<bytes>"),
        (bytearray(data), "<bytes>"),
        (memoryview(data), "<bytes>"),
        (model, "<ModelProto>"),
    ):
        loaded = read_model(source)
        assert loaded.source.name == name
        assert loaded.source.path == (path if name == "net.onnx" else None)
        assert loaded.source.sha256 == hashlib.sha256(data).hexdigest()
        assert loaded.source.size == len(data)
        assert [n.op_type for n in loaded.graph.nodes] == ["MatMul", "Relu", "Neg"]
        np.testing.assert_array_equal(loaded.graph.constants["w"], LARGE)
    assert model.SerializeToString(deterministic=True) == data, "the caller's message was changed"


def test_every_tensor_can_be_exposed_to_onnxruntime() -> None:
    loaded = read_model(_linear())
    outputs = run_onnxruntime(loaded.serialized_with_outputs(["a", "b", "y", "a"]), {"x": X}, ["y", "a", "b"])
    np.testing.assert_allclose(outputs[1], X @ LARGE, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs[2], np.maximum(outputs[1], 0))
    np.testing.assert_array_equal(outputs[0], -outputs[2])
    with pytest.raises(ModelError, match="<ModelProto>: no node makes a tensor 'nope'"):
        loaded.serialized_with_outputs(["nope"])
    assert onnx.load_from_string(loaded.serialized_with_outputs()).graph.initializer[0].name == "w"


def test_constants_of_every_kind_survive_serialisation() -> None:
    constants = {
        "f": LARGE,
        "i": np.arange(6).reshape(1, 2, 3),
        "u": np.array([1, 2], np.uint8),
        "b": np.array([True, False]),
        "scalar": np.array(2.5, F32),
        "empty": np.zeros((0, 3), F32),
    }
    loaded = read_model(make_model([node("Relu", ["x"], ["y"])], {"x": (2,)}, constants=constants))
    again = read_model(loaded.serialized_with_outputs())
    assert set(again.graph.constants) == set(constants)
    for name, array in constants.items():
        for graph in (loaded.graph, again.graph):
            assert graph.constants[name].dtype == array.dtype
            np.testing.assert_array_equal(graph.constants[name], array)


@pytest.mark.parametrize("count", [3, DETACH_BYTES])
def test_weights_in_typed_fields(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count).astype(F32)
    model = make_model([node("Mul", ["x", "w"], ["y"])], {"x": (count,)})
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [count], values))
    unsigned = helper.make_tensor("n", TensorProto.UINT32, [2], [7, 2**32 - 1])
    model.graph.initializer.append(unsigned)
    constants = read_model(model).graph.constants
    np.testing.assert_array_equal(constants["w"], values)
    np.testing.assert_array_equal(constants["n"], np.array([7, 2**32 - 1], np.uint32))


def test_initializers_listed_as_inputs_are_not_inputs() -> None:
    model = _linear(ir_version=3, opset=9)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, LARGE.shape))
    graph = read_model(model).graph
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert graph.ir_version == 3


def test_declared_sizes() -> None:
    model = make_model([node("Relu", ["x"], ["y"])], {"x": ("batch", 3, None, 0, 7)})
    model.graph.input[0].type.tensor_type.shape.dim[4].dim_value = -1
    model.graph.output[0].name = "y"
    graph = read_model(model).graph
    assert graph.inputs[0].shape == ("batch", 3, None, None, None)
    assert graph.outputs[0].shape is None


def test_attributes_become_plain_values() -> None:
    attributes = {
        "i": 3,
        "f": 0.5,
        "s": "größe",
        "ints": [1, 2],
        "floats": [0.5, 1.5],
        "strings": ["a", "b"],
        "t": numpy_helper.from_array(np.arange(3, dtype=np.float16)),
    }
    model = make_model(
        [node("Any", ["x"], ["y"], domain="d", **attributes)], {"x": (2,)}, extra_opsets={"d": 1}
    )
    values = dict(read_model(model).graph.nodes[0].attributes)
    tensor = values.pop("t")
    assert isinstance(tensor, np.ndarray)
    assert tensor.dtype == F32
    assert tensor.tolist() == [0, 1, 2]
    assert values == {
        "i": 3,
        "f": 0.5,
        "s": "größe",
        "ints": (1, 2),
        "floats": (0.5, 1.5),
        "strings": ("a", "b"),
    }


def test_type_tags_missing_in_very_old_files_are_filled_in() -> None:
    single = node("LeakyRelu", ["x"], ["y"], alpha=0.25)
    single.attribute[0].ClearField("type")
    assert read_model(make_model([single], {"x": (2,)})).graph.nodes[0].attributes["alpha"] == 0.25


def test_nodes_are_sorted_and_named() -> None:
    nodes = [
        node("Relu", ["b"], ["y"]),
        node("Abs", ["a"], ["b"], name="same"),
        node("Neg", ["x"], ["a"], name="same"),
        node("Exp", ["x"], ["same"]),
    ]
    graph = read_model(make_model(nodes, {"x": (2,)})).graph
    order = {n.op_type: index for index, n in enumerate(graph.nodes)}
    assert order["Neg"] < order["Abs"] < order["Relu"]
    names = [n.name for n in graph.nodes]
    assert len(set(names)) == 4
    assert all(names)
    assert "y" in names


def test_recorded_intermediate_shapes_are_not_trusted() -> None:
    model = _linear(opset=12)
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.INT64, [9, 9, 9]))
    loaded = read_model(model)
    assert not loaded.proto.graph.value_info
    run_onnxruntime(loaded.serialized_with_outputs(), {"x": X})


def test_large_constant_nodes_become_constants_and_small_ones_stay() -> None:
    nodes = [
        node("Constant", [], ["w"], value=numpy_helper.from_array(LARGE)),
        node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(2.0, F32))),
        node("MatMul", ["x", "w"], ["a"]),
        node("Mul", ["a", "k"], ["y"]),
    ]
    loaded = read_model(make_model(nodes, {"x": (2, 40)}))
    assert [n.op_type for n in loaded.graph.nodes] == ["Constant", "MatMul", "Mul"]
    np.testing.assert_array_equal(loaded.graph.constants["w"], LARGE)
    (got,) = run_onnxruntime(loaded.serialized_with_outputs(), {"x": X})
    np.testing.assert_allclose(got, X @ LARGE * 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [18, 16])
def test_local_functions_are_inlined(opset: int) -> None:
    leaky = node("LeakyRelu", ["t"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    inner = helper.make_function("mine", "inner", ["a"], ["b"], [node("Neg", ["a"], ["b"])], imports)
    body = [node("inner", ["a"], ["t"], domain="mine"), leaky]
    outer = helper.make_function("mine", "outer", ["a"], ["b"], body, imports, ["slope"])
    call = node("outer", ["x"], ["y"], domain="mine", slope=0.25)
    model = make_model([call], {"x": (2,)}, functions=[inner, outer], extra_opsets={"mine": 1}, opset=opset)
    loaded = read_model(model)
    assert [n.op_type for n in loaded.graph.nodes] == ["Neg", "LeakyRelu"]
    (got,) = run_onnxruntime(loaded.serialized_with_outputs(), {"x": np.array([-4, 4], F32)})
    np.testing.assert_array_equal(got, [4, -1])


def test_subgraphs_are_kept_in_order_and_marked() -> None:
    taken = helper.make_graph(
        [node("Neg", ["late"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    nodes = [
        node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))),
        node("If", ["c"], ["y"], then_branch=taken, else_branch=taken, name="branch"),
        node("Exp", ["x"], ["late"]),
    ]
    loaded = read_model(make_model(nodes, {"x": (2,)}))
    assert [n.op_type for n in loaded.graph.nodes] == ["Constant", "Exp", "If"]
    body = loaded.graph.nodes[2].attributes["then_branch"]
    assert isinstance(body, Body)
    assert (body.nodes[0].op_type, body.nodes[0].inputs, body.outputs) == ("Neg", ("late",), ("z",))
    (got,) = run_onnxruntime(loaded.serialized_with_outputs(), {"x": np.zeros(2, F32)})
    np.testing.assert_array_equal(got, [-1, -1])


def test_an_undeclared_domain_and_an_unknown_operator_are_left_to_the_operator_lookup() -> None:
    nodes = [node("Fused", ["x"], ["a"], domain="vendor"), node("Newer", ["a"], ["y"])]
    graph = read_model(make_model(nodes, {"x": (2,)}, opset=18)).graph
    assert [(n.domain, n.op_type, n.version) for n in graph.nodes] == [
        ("vendor", "Fused", 1),
        ("", "Newer", 18),
    ]


def test_the_long_name_of_the_default_domain() -> None:
    model = make_model([node("Relu", ["x"], ["y"], domain="ai.onnx")], {"x": (2,)})
    model.opset_import[0].domain = "ai.onnx"
    graph = read_model(model).graph
    assert (graph.nodes[0].domain, dict(graph.opsets)) == ("", {"": 18})


def test_the_result_is_frozen() -> None:
    graph = read_model(_linear()).graph
    with pytest.raises(ValueError, match="read-only"):
        graph.constants["w"][0, 0] = 1
    with pytest.raises(TypeError):
        graph.constants["w"] = LARGE  # type: ignore[index]
    with pytest.raises(TypeError):
        graph.opsets[""] = 3  # type: ignore[index]


@pytest.mark.parametrize("in_constant_node", [False, True])
def test_weights_are_held_once(in_constant_node: bool, tmp_path: Path) -> None:
    weights = np.ones((2000, 2000), F32)
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    if in_constant_node:
        nodes.insert(0, node("Constant", [], ["w"], value=numpy_helper.from_array(weights)))
    constants = {} if in_constant_node else {"w": weights}
    path = tmp_path / "big.onnx"
    path.write_bytes(make_model(nodes, {"x": (1, 2000)}, constants=constants, opset=11).SerializeToString())
    tracemalloc.start()
    loaded = read_model(path)
    loading = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    data = loaded.serialized_with_outputs()
    serialising = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = weights.nbytes
    assert size < loading < 1.15 * size
    assert serialising < 2.1 * size
    assert len(data) > size


def test_a_cpu_uses_large_weights_as_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_linear().SerializeToString())
    program = nf.load(path).program({"x": (2, 40)})
    held = program.constants["w"]
    assert not held.flags.writeable
    weight = program.weight("w")
    assert weight is program.weight("w")
    np.testing.assert_array_equal(weight, LARGE)
    if jax.default_backend() == "cpu":
        assert weight.unsafe_buffer_pointer() == held.ctypes.data


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (Limits(file_bytes=1000), "file_bytes"),
        (Limits(structure_bytes=50), "structure_bytes"),
        (Limits(nodes=2), "nodes"),
        (Limits(tensor_bytes=6399), "tensor_bytes"),
        (Limits(total_bytes=6399), "total_bytes"),
    ],
)
def test_limits(limits: Limits, word: str) -> None:
    with pytest.raises(ModelError, match=rf"^<ModelProto>: .*Limits\.{word}"):
        read_model(_linear(), limits)
    read_model(_linear(), Limits(nodes=3, tensor_bytes=6400, total_bytes=6400))
