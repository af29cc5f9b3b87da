"""Weights in files beside the model: read exactly, and never from outside the model's folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from naflow_core.errors import ModelError
from naflow_core.model import Limits, read_model
from support.onnx_graphs import make_model, run_onnxruntime

WEIGHTS = np.random.default_rng(5).normal(size=(8, 6)).astype(np.float32)


def _save(folder: Path, **entries: object) -> Path:
    """A model whose weight `w` lies in an external file as `entries` say."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHTS.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    model = make_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (2, 8)})
    model.graph.initializer.append(tensor)
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_model(path)
    text = str(caught.value)
    assert text.startswith("model.onnx: initializer 'w'"), text
    assert all(word in text for word in words), text


def test_round_trip_through_onnx_own_writer(tmp_path: Path) -> None:
    other = np.arange(48, dtype=np.float32).reshape(8, 6)
    model = make_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("MatMul", ["x", "v"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        {"x": (2, 8)},
        constants={"w": WEIGHTS, "v": other},
    )
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    loaded = read_model(path)
    np.testing.assert_array_equal(loaded.graph.constants["w"], WEIGHTS)
    np.testing.assert_array_equal(loaded.graph.constants["v"], other)
    x = np.ones((2, 8), np.float32)
    (got,) = run_onnxruntime(loaded.serialized_with_outputs(), {"x": x})
    np.testing.assert_allclose(got, x @ (WEIGHTS + other), rtol=1e-5)


@pytest.mark.parametrize("folder", ["", "weights"])
def test_offset_and_length_are_honoured(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "w.bin").write_bytes(b"#" * 100 + WEIGHTS.tobytes() + b"#" * 7)
    path = _save(tmp_path, location=f"{folder}/w.bin".lstrip("/"), offset=100, length=WEIGHTS.nbytes)
    np.testing.assert_array_equal(read_model(path).graph.constants["w"], WEIGHTS)


def test_a_link_to_the_model_itself_is_followed_beside_the_link(tmp_path: Path) -> None:
    path = _save(tmp_path / "real", location="w.bin")
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "model.onnx").symlink_to(path)
    np.testing.assert_array_equal(read_model(tmp_path / "model.onnx").graph.constants["w"], WEIGHTS)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "sub/../../secret.bin", "link.bin", "linked/secret.bin"]
)
def test_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    path = _save(tmp_path / "model", location=location)
    (path.parent / "sub").mkdir()
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (path.parent / "linked").symlink_to(tmp_path)
    _refused(path, "leads out of the model's folder")


def test_an_absolute_location_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "w.bin"
    inside.write_bytes(WEIGHTS.tobytes())
    _refused(_save(tmp_path, location=inside), "leads out of the model's folder")


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"location": "missing.bin"}, "does not exist"),
        ({"location": ""}, "without a location"),
        ({"location": "."}, "not a regular file"),
        ({"location": "a\0b"}, "not usable"),
        ({"location": "x" * 5000}, "not usable"),
        ({"location": "w.bin", "offset": 1}, "which has 192"),
        ({"location": "w.bin", "offset": 10**18}, "which has 192"),
        ({"location": "w.bin", "offset": -4}, "bad external offset"),
        ({"location": "w.bin", "offset": "9" * 5000}, "bad external offset"),
        ({"location": "w.bin", "length": 191}, "its external length is 191"),
        ({"location": "w.bin", "length": "many"}, "bad external length"),
    ],
)
def test_bad_entries_are_refused(tmp_path: Path, entries: dict[str, object], word: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    _refused(_save(tmp_path, **entries), word)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    _refused(_save(tmp_path, location="w.bin"), "not a regular file")


def test_external_weights_count_against_the_limits(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    path = _save(tmp_path, location="w.bin")
    with pytest.raises(
        ModelError, match=r"model.onnx: .*'w'.*192 bytes, over the limit 100.*Limits.total_bytes"
    ):
        read_model(path, Limits(total_bytes=100))


def test_only_a_path_can_have_external_data(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    path = _save(tmp_path, location="w.bin")
    for source, name in (
        (path.read_bytes(), "<bytes>"),
        (onnx.load(path, load_external_data=False), "<ModelProto>"),
    ):
        with pytest.raises(ModelError, match=f"{name}: initializer 'w'.*external file.*pass its path"):
            read_model(source)


def test_an_external_constant_node_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    model = onnx.load(_save(tmp_path, location="w.bin"), load_external_data=False)
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(
        model.graph.initializer[0]
    )
    del model.graph.initializer[:]
    model.graph.node.insert(0, constant)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    np.testing.assert_array_equal(read_model(path).graph.constants["w"], WEIGHTS)
