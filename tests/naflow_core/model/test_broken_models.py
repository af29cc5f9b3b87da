"""Everything that is not a usable model: one line that names the file and the reason, at once."""

from __future__ import annotations

import io
import os
import pickle
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from naflow_core.errors import ModelError
from naflow_core.model import read_model
from support.onnx_graphs import make_model

node = helper.make_node
MEMORY_BYTES = 64 << 20


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return buffer.getvalue()


def _plain(*nodes: NodeProto, opset: int = 18) -> ModelProto:
    return make_model(nodes or [node("Relu", ["x"], ["y"])], {"x": (2,)}, opset=opset)


def _with(change: Callable[[ModelProto], object], opset: int = 18) -> bytes:
    model = _plain(opset=opset)
    change(model)
    return model.SerializeToString()


def _tensor(kind: int, dims: list[int], **data: object) -> bytes:
    tensor = TensorProto(name="w", data_type=kind, dims=dims)
    for field, value in data.items():
        setattr(tensor, field, value) if field == "raw_data" else getattr(tensor, field).extend(value)
    return _with(lambda model: model.graph.initializer.append(tensor))


def _attribute(**fields: object) -> bytes:
    single = node("LeakyRelu", ["x"], ["y"], name="leaky")
    single.attribute.append(AttributeProto(name="alpha", **fields))
    return _plain(single).SerializeToString()


def _drop_graph(model: ModelProto) -> None:
    model.ClearField("graph")


def _sequence_input(model: ModelProto) -> None:
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1


def _recursive() -> bytes:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("m", 1)]
    again = helper.make_function(
        "m", "again", ["a"], ["b"], [node("again", ["a"], ["b"], domain="m")], imports
    )
    call = node("again", ["x"], ["y"], domain="m")
    return make_model([call], {"x": (2,)}, functions=[again], extra_opsets={"m": 1}).SerializeToString()


def _exploding() -> bytes:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("m", 1)]
    functions = [helper.make_function("m", "f0", ["a"], ["b"], [node("Relu", ["a"], ["b"])], imports)]
    for level in range(1, 40):
        calls = [node(f"f{level - 1}", [a], [b], domain="m") for a, b in (("a", "t"), ("t", "b"))]
        functions.append(helper.make_function("m", f"f{level}", ["a"], ["b"], calls, imports))
    call = node("f39", ["x"], ["y"], domain="m")
    return make_model([call], {"x": (2,)}, functions=functions, extra_opsets={"m": 1}).SerializeToString()


FLOAT = TensorProto.FLOAT
GOOD = _plain().SerializeToString()
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"This is not a model, but a letter to one.\n" * 9, "looks like a text file"),
    "json": (b'{"model": "resnet"}', "looks like a text file"),
    "html": (b"<!DOCTYPE html><html>404</html>", "looks like an HTML or XML text"),
    "lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    "zip": (_zip("a.onnx"), "looks like a zip archive"),
    "torch": (_zip("net/data.pkl", "net/version"), "looks like a PyTorch file (export to ONNX first"),
    "torch-script": (_zip("net/code/__torch__.py", "net/data.pkl"), "looks like a PyTorch file"),
    "pickle": (pickle.dumps({"weights": [1.0]}), "Python pickle"),
    "keras": (_zip("metadata.json", "config.json"), "looks like a Keras file"),
    "keras-h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "looks like a Keras HDF5 file (export to ONNX first"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(99), "looks like a TensorFlow Lite file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "looks like a gzip archive"),
    "safetensors": (b"\x40\0\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"}}', "looks like a safetensors file"),
    "zeros": (bytes(500), "is not an ONNX file"),
    "noise": (np.random.default_rng(0).bytes(5000), "is not an ONNX file"),
    "cut-off": (GOOD[:-5], "cut off or damaged"),
    "deep-nesting": (b"\x3a\x7f" * 5000, "cut off or damaged"),
    "no-graph": (_with(_drop_graph), "holds no graph"),
    "other-protobuf": (b"\x08\x01", "holds no graph"),
    "no-nodes": (_with(lambda m: m.graph.ClearField("node")), "without nodes"),
    "no-outputs": (_with(lambda m: m.graph.ClearField("output")), "without outputs"),
    "no-opset": (_with(lambda m: m.ClearField("opset_import")), "declares no ai.onnx opset"),
    "future-ir": (_with(lambda m: setattr(m, "ir_version", 99)), "IR version 99"),
    "bad-utf8": (GOOD.replace(b"Relu", b"R\xff\xfeu"), "not UTF-8"),
    "unmade": (_plain(node("Relu", ["ghost"], ["y"])).SerializeToString(), "reads tensor 'ghost'"),
    "unmade-output": (
        _plain(node("Relu", ["x"], ["z"])).SerializeToString(),
        "output 'y' is made by no node",
    ),
    "made-twice": (
        _plain(node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"])).SerializeToString(),
        "'y' is made twice",
    ),
    "overwrites-input": (
        _plain(node("Abs", ["x"], ["x"]), node("Relu", ["x"], ["y"])).SerializeToString(),
        "'x', which is an input",
    ),
    "cycle": (
        _plain(
            node("Relu", ["x"], ["y"]),
            node("Add", ["x", "q"], ["p"], name="one"),
            node("Abs", ["p"], ["q"], name="two"),
        ).SerializeToString(),
        "cycle through node",
    ),
    "self-cycle": (
        _plain(node("Add", ["x", "y"], ["y"], name="ouroboros")).SerializeToString(),
        "'ouroboros'",
    ),
    "input-twice": (_with(lambda m: m.graph.input.append(m.graph.input[0])), "input 'x' twice"),
    "sequence-input": (_with(_sequence_input), "input 'x' is not a tensor (sequence)"),
    "untyped-input": (_with(lambda m: m.graph.input[0].ClearField("type")), "input 'x'"),
    "wrong-arity": (_plain(node("Relu", ["x", "x"], ["y"], name="r")).SerializeToString(), "node 'r' (Relu)"),
    "unknown-attribute": (_plain(node("Relu", ["x"], ["y"], name="r", beta=1)).SerializeToString(), "beta"),
    "wrong-attribute-type": (_attribute(type=AttributeProto.STRING, s=b"high"), "leaky : alpha"),
    "two-values": (_attribute(f=0.5, i=3), "'alpha'"),
    "no-value": (_attribute(), "'alpha' of node 'leaky' (LeakyRelu) has no type"),
    "loose-reference": (_attribute(type=AttributeProto.FLOAT, ref_attr_name="slope"), "'alpha'"),
    "nameless-weight": (_with(lambda m: m.graph.initializer.add(data_type=1)), "initializer without a name"),
    "weight-twice": (
        _with(lambda m: [m.graph.initializer.add(name="w", data_type=1, raw_data=bytes(4)) for _ in "ab"]),
        "initializer 'w' twice",
    ),
    "negative-dim": (_tensor(FLOAT, [2, -3]), "'w' has a negative dimension: [2, -3]"),
    "huge-dims": (
        _tensor(FLOAT, [10**6, 10**6]),
        "'w' with dims [1000000, 1000000] needs 4000000000000 bytes",
    ),
    "overflowing-dims": (_tensor(FLOAT, [2**62, 2**62, 4]), "'w'"),
    "large-claim": (
        _tensor(FLOAT, [10**8], raw_data=bytes(8)),
        "'w' with dims [100000000] needs 400000000 bytes",
    ),
    "many-dims": (_tensor(FLOAT, [1] * 200, raw_data=bytes(4)), "200 dimensions"),
    "short-data": (
        _tensor(FLOAT, [3], raw_data=bytes(11)),
        "'w' with dims [3] needs 12 bytes, the file has 11",
    ),
    "short-large-data": (
        _tensor(FLOAT, [3000], raw_data=bytes(11996)),
        "needs 12000 bytes, the file has 11996",
    ),
    "no-data": (_tensor(FLOAT, [3]), "needs 3 values, the file has 0"),
    "data-twice": (
        _tensor(FLOAT, [1], raw_data=bytes(4), float_data=[1.0]),
        "'w' has values in raw_data and in",
    ),
    "wrong-field": (_tensor(FLOAT, [1], int64_data=[1]), "'w' of type float has values in int64_data"),
    "out-of-range": (_tensor(TensorProto.UINT8, [1], int32_data=[300]), "'w' has values outside uint8"),
    "string-weight": (_tensor(TensorProto.STRING, [1], string_data=[b"a"]), "'w' is of type string"),
    "int4-weight": (_tensor(TensorProto.INT4, [2], raw_data=b"a"), "'w' is of type int4"),
    "float8-weight": (_tensor(TensorProto.FLOAT8E4M3FN, [1], raw_data=b"a"), "'w' is of type float8e4m3fn"),
    "unknown-type": (_tensor(77, [1], raw_data=b"a"), "'w' is of type type 77"),
    "sparse": (_with(lambda m: m.graph.sparse_initializer.add().dims.append(3)), "sparse initializers"),
    "recursive-function": (_recursive(), "again"),
    "exploding-functions": (_exploding(), "549755813888 nodes"),
}


def _refused(source: object, name: str, reason: str) -> None:
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ModelError) as caught:
            read_model(source)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert text.startswith(f"{name}: "), text
    assert reason in text
    assert text.isprintable()
    assert len(text) < 700
    assert seconds < 1.0
    assert peak < MEMORY_BYTES


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file(case: str, tmp_path: Path) -> None:
    data, reason = BROKEN[case]
    path = tmp_path / "broken model.onnx"
    path.write_bytes(data)
    _refused(path, "broken model.onnx", reason)
    _refused(data, "<bytes>", reason)


def test_the_cycle_names_a_node_on_it() -> None:
    with pytest.raises(ModelError, match=r"cycle through node '(one|two)'"):
        read_model(BROKEN["cycle"][0])


def test_places_that_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    _refused(tmp_path / "gone.onnx", "gone.onnx", "no such file")
    _refused(tmp_path / "gone" / "x.onnx", "x.onnx", "no such file")
    _refused(tmp_path, tmp_path.name, "is a directory")
    _refused(tmp_path / "pipe.onnx", "pipe.onnx", "not a regular file")
    _refused("/dev/zero", "zero", "not a regular file")
    _refused("bad\0name.onnx", "bad?name.onnx", "cannot be read")
    _refused("x" * 300, "x" * 300, "cannot be read")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "locked.onnx"
    path.write_bytes(GOOD)
    path.chmod(0)
    _refused(path, "locked.onnx", "cannot be read: Permission denied")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    _refused(path, "huge.onnx", "1099511627776 bytes")


def test_a_large_claim_inside_a_small_file_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sparse.onnx"
    with path.open("wb") as file:  # one field that says it has a gigabyte, in a file with a hole of that size
        file.write(b"\x3a\x80\x80\x80\x80\x04")
        file.truncate(1 << 30)
    _refused(path, "sparse.onnx", "ONNX")


def test_names_cannot_break_the_line_or_flood_it() -> None:
    nasty = "a\nb\x1b[31m" + "z" * 100_000
    _refused(_plain(node("Relu", [nasty], ["y"])).SerializeToString(), "<bytes>", "reads tensor 'a")
