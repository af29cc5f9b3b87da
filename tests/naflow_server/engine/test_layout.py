"""Folders as other servers' repositories have them."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from naflow_server.engine.repository.layout import LayoutError, VersionPolicy, read_config, scan, scan_model
from support.blocks import network

# As they stand in repositories for Triton: an image classifier with most of what is found in practice.
CLASSIFIER = """
name: "classifier"
platform: "onnxruntime_onnx"
max_batch_size : 16
input [
  {
    name: "data_0"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 224, 224 ]
    reshape { shape: [ 1, 3, 224, 224 ] }   # the model wants its batch axis
  }
]
output [ { name: "fc6_1" data_type: TYPE_FP32 dims: [ 1000 ] label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] } ]
optimization { execution_accelerators {
  gpu_execution_accelerator : [ { name : "tensorrt"
    parameters { key: "precision_mode" value: "FP16" }
    parameters { key: "max_workspace_size_bytes" value: "1073741824" }}
  ]
}}
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
parameters { key: "intra_op_thread_count" value: { string_value: "4" } }
model_warmup [ { name: "warm" batch_size: 1 inputs { key: "data_0" value {
  data_type: TYPE_FP32 dims: [ 3, 224, 224 ] zero_data: true } } } ]
response_cache { enable: false }
"""


def config(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    return folder


def test_a_configuration_for_triton(tmp_path: Path) -> None:
    got = read_config(config(tmp_path / "classifier", CLASSIFIER))
    assert (got.batch_limit, got.policy, got.filename) == (16, VersionPolicy(), "model.onnx")


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("version_policy: { all { }}", VersionPolicy("all")),
        ("version_policy { all: {} }", VersionPolicy("all")),
        ("version_policy: { latest: { num_versions: 3}}", VersionPolicy("latest", 3)),
        ("version_policy < latest < > >", VersionPolicy("latest", 1)),
        ("version_policy: { specific: { versions: [1,3]}}", VersionPolicy("specific", versions=("1", "3"))),
        (
            "version_policy { specific { versions: 2 versions: 5 } }",
            VersionPolicy("specific", versions=("2", "5")),
        ),
        ("version_policy {}", VersionPolicy()),
        ("name: ''", VersionPolicy()),
    ],
)
def test_version_policies(text: str, policy: VersionPolicy, tmp_path: Path) -> None:
    assert read_config(config(tmp_path / "m", text)).policy == policy


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_batch_size: true", "max_batch_size True must be a number"),
        ("max_batch_size: -1", "must be a number from 0"),
        (f"max_batch_size: {'9' * 5000}", "too long"),
        ("version_policy: { specific: { versions: [true] } }", "specific needs versions"),
        ("version_policy: { latest: { num_versions: 0 } }", "at least 1"),
        ("version_policy: { newest: {} }", "'newest' does not exist"),
        ("version_policy: 3", "not understood"),
        ("platform: 'ensemble'", "says platform 'ensemble', only 'onnxruntime_onnx'"),
        ("backend: 'python'", "says backend 'python', only 'onnxruntime'"),
        (f"name: '{'n' * 5000}'", r"n{79}\.\.\., the folder"),
        ("default_model_filename: '../model.onnx'", "plain file name"),
        ("default_model_filename: { a: 1 }", "plain file name"),
    ],
)
def test_what_cannot_be_is_that_models_own_trouble(text: str, reason: str, tmp_path: Path) -> None:
    config(tmp_path / "bad", text)
    (tmp_path / "good" / "1").mkdir(parents=True)
    with pytest.raises(LayoutError, match=reason):
        read_config(tmp_path / "bad")
    found = scan(tmp_path)
    assert found["good"].versions
    assert found["bad"].reason


def test_a_model_may_be_a_folder_with_its_weights_beside_it(tmp_path: Path) -> None:
    inner = tmp_path / "big" / "1" / "model.onnx"
    inner.mkdir(parents=True)
    onnx.save_model(
        network("residual"),
        inner / "model.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    folder = scan_model(tmp_path, "big")
    assert folder is not None
    assert folder.versions[0].file == inner / "model.onnx"
    os.utime(inner / "w.bin", ns=(1, 1))
    again = scan_model(tmp_path, "big")
    assert again is not None
    assert again.look != folder.look


@pytest.mark.parametrize("part", ["m", "m/1", "m/1/model.onnx", "m/config.pbtxt"])
def test_links_that_lead_out_are_refused(part: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    target = outside / Path(part).name
    target.parent.mkdir()
    if part.endswith((".onnx", ".pbtxt")):
        target.write_text("max_batch_size: 1")
    else:
        (target / "1").mkdir(parents=True)
    link = root / part
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    (root / "m" / "1").mkdir(exist_ok=True, parents=True)
    folder = scan_model(root, "m")
    assert folder is not None
    assert folder.versions == ()
    assert "leads out of the repository" in folder.reason
    assert str(tmp_path) not in folder.reason


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    """As in a mounted Kubernetes volume, where files are links into a folder beside them."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "net").write_bytes(b"x")
    (tmp_path / "m" / "1" / "model.onnx").symlink_to(tmp_path / "..data" / "net")
    found = scan(tmp_path)
    assert list(found) == ["m"]
    assert found["m"].versions[0].version == "1"


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    os.mkfifo(tmp_path / "m" / "config.pbtxt")
    assert "is not a file" in scan(tmp_path)["m"].reason
