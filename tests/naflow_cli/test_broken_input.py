"""Everything that can be wrong with a call: one clear line on stderr, status 2, nothing else anywhere."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from support.command_line import (
    DEMO,
    DEMO_MODEL,
    DEMO_OPTIONS,
    demo_picture,
    explain_demo,
    naflow,
    naflow_process,
    refused,
)
from support.onnx_graphs import make_model

GOOD = np.zeros((1, 1, 64, 64), np.float32)


def write_model(path: Path, *nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> Path:
    weights = {"w": np.ones((3, 1, 3, 3), np.float32)}
    extra = {"com.example": 1}
    onnx.save(make_model(nodes, {"x": [1, 1, 64, 64]}, outputs, weights, extra_opsets=extra), path)
    return path


def broken_models(folder: Path) -> dict[str, tuple[Path, str]]:
    content = DEMO_MODEL.read_bytes()
    (folder / "truncated.onnx").write_bytes(content[: len(content) // 2])
    (folder / "text.onnx").write_text("this is no model\n", encoding="utf-8")
    (folder / "empty.onnx").touch()
    node = helper.make_node
    write_model(
        folder / "cyclic.onnx",
        node("Add", ["x", "b"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="second"),
        node("Relu", ["b"], ["y"]),
    )
    write_model(
        folder / "unsupported.onnx",
        node("Conjure", ["x"], ["a"], name="strange", domain="com.example"),
        node("GlobalAveragePool", ["a"], ["y"]),
    )
    write_model(
        folder / "two.onnx",
        node("Conv", ["x", "w"], ["a"]),
        node("GlobalAveragePool", ["a"], ["y"]),
        node("Neg", ["y"], ["z"]),
        outputs=("y", "z"),
    )
    return {
        "truncated": (folder / "truncated.onnx", "cut off"),
        "text": (folder / "text.onnx", "not an ONNX file"),
        "empty": (folder / "empty.onnx", "empty"),
        "cyclic": (folder / "cyclic.onnx", "cycle"),
        "unsupported": (folder / "unsupported.onnx", "'strange' (Conjure)"),
        "two": (folder / "two.onnx", "choose one with --output"),
        "folder": (folder, "directory"),
        "missing": (folder / "missing.onnx", "no such file"),
    }


@pytest.mark.parametrize(
    "name", ["truncated", "text", "empty", "cyclic", "unsupported", "two", "folder", "missing"]
)
def test_broken_model(name: str, tmp_path: Path, out: Path) -> None:
    path, reason = broken_models(tmp_path)[name]
    refused(
        naflow("explain", path, demo_picture(), "--out", out, "--preprocess", DEMO / "preprocess.json"),
        reason,
    )
    if name not in ("two", "unsupported"):  # these two may be looked at
        refused(naflow("inspect", path), reason)
    if name != "two":
        refused(naflow("verify", path), reason)


def broken_inputs(folder: Path) -> dict[str, tuple[Path, str]]:
    def array(name: str, values: np.ndarray) -> Path:
        np.save(folder / name, values)
        return folder / name

    def zipped(name: str, member: str, content: bytes) -> Path:
        with zipfile.ZipFile(folder / name, "w") as file:
            file.writestr(member, content)
        return folder / name

    def claims(shape: str) -> bytes:
        """A .npy file of that shape and next to no data."""
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}".ljust(117) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(100)

    with_nan = GOOD.copy()
    with_nan[0, 0, 3, 3] = np.nan
    Image.new("L", (1, 1), 9).save(folder / "pixel.png")
    Image.new("L", (40, 1), 9).save(folder / "line.png")
    (folder / "empty.png").touch()
    (folder / "empty.npy").touch()
    (folder / "damaged.npz").write_bytes(b"PK\x03\x04 and nothing more")
    (folder / "digits.npy").write_bytes(claims("9" * 60 + ","))
    (folder / "claims.npy").write_bytes(claims("1000000, 1000000, 10000"))
    cut = demo_picture().read_bytes()
    (folder / "cut.png").write_bytes(cut[: len(cut) // 2])
    return {
        "shape": (array("shape.npy", GOOD[..., :32]), "shape [1, 1, 64, 32]"),
        "rank": (array("rank.npy", GOOD[0, 0]), "shape [64, 64]"),
        "int": (array("int.npy", GOOD.astype(np.int32)), "int32"),
        "nan": (array("nan.npy", with_nan), "nan or infinite"),
        "too large": (
            array("large.npy", GOOD.astype(np.float64) + 1e300),
            "4096 values that are nan or infinite",
        ),
        "text in it": (zipped("text.npz", "image", b"text"), "'image' in it is not an array"),
        "claim in it": (zipped("claim.npz", "image.npy", claims("1000000, 1000000, 10000")), "more memory"),
        "claim": (folder / "claims.npy", "more memory"),
        "digits": (folder / "digits.npy", "not a NumPy file"),
        "objects": (array("objects.npy", np.array([{}], dtype=object)), "not a NumPy file"),
        "none": (array("none.npy", GOOD[:0]), "empty"),
        "empty array file": (folder / "empty.npy", "not a NumPy file"),
        "damaged": (folder / "damaged.npz", "not a NumPy file"),
        "pixel": (folder / "pixel.png", "1 x 1"),
        "line": (folder / "line.png", "40 x 1"),
        "empty picture": (folder / "empty.png", "not a picture"),
        "cut": (folder / "cut.png", "truncated"),
        "text": (DEMO / "labels.txt", "not a picture"),
        "folder": (folder, "folder"),
        "missing": (folder / "missing.png", "no such file"),
        "missing array": (folder / "missing.npy", "No such file"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "shape",
        "rank",
        "int",
        "nan",
        "too large",
        "text in it",
        "claim in it",
        "claim",
        "digits",
        "objects",
        "none",
        "empty array file",
        "damaged",
        "pixel",
        "line",
        "empty picture",
        "cut",
        "text",
        "folder",
        "missing",
        "missing array",
    ],
)
def test_broken_input(name: str, tmp_path: Path, out: Path) -> None:
    path, reason = broken_inputs(tmp_path)[name]
    refused(explain_demo(out, pictures=[path]), path.name, reason)
    # good pictures beside it change nothing
    refused(explain_demo(out, pictures=[demo_picture(), path]), path.name, reason)


OPTIONS = {
    "class 5000": (("--target", "class:5000"), "0 to 9"),
    "negative class": (("--target", "class:-1"), "does not exist"),
    "endless class": (("--target", "class:" + "9" * 5000), "not in label file"),
    "odd digit": (("--target", "class:²"), "not in label file"),
    "class name": (("--target", "class:tabby"), "'tabby' is not in label file"),
    "target": (("--target", "tabby"), "use top"),
    "layer": (("--layers", "top_relv"), "did you mean 'top_relu'"),
    "no layer": (("--layers", "stem_relu,,top_relu"), "empty name"),
    "top": (("--top-feature-map", "nowhere"), "'nowhere' does not exist"),
    "output": (("--output", "nowhere"), "there is logits"),
    "preset": (("--preset", "best"), "published-code"),
    "mass": (("--abandon", "mass:2"), "0 < mass <= 1"),
    "no mass": (("--abandon", "mass:much"), "mass:RHO"),
    "nan mass": (("--abandon", "mass:nan"), "out of range"),
    "rule": (("--abandon", "all"), "zero-gradient"),
    "tolerance": (("--tolerance", "0"), "between 0 and 1"),
    "nan": (("--tolerance", "nan"), "between 0 and 1"),
    "no number": (("--tolerance", "small"), "--tolerance"),
    "damping": (("--damping", "-1"), ">= 0"),
    "iterations": (("--max-iterations", "0"), "max_iterations"),
    "map change": (("--map-change", "-0.1"), "map_change"),
    "weighting": (("--weighting", "heavy"), "scaled, plain"),
    "evidence": (("--evidence", "none"), "positive, net"),
    "quality": (("--quality", "best"), "draft, standard, exact"),
    "quality and tolerance": (("--quality", "draft", "--tolerance", "0.1"), "exclude each other"),
    "explained input": (("--explained-input", "nowhere"), "'nowhere' does not exist"),
    "inverse": (("--inverse", "magic"), "least-squares, activation"),
    "rows": (("--rows", "some"), "retained, active, all"),
    "anchor": (("--anchor", "sea"), "signed"),
    "batch": (("--batch-size", "0"), "at least 1"),
    "unknown": (("--sharpen",), "No such option: --sharpen"),
    "preprocess": (("--preprocess", "guess"), "imagenet, unit, raw"),
    "preprocess file": (("--preprocess", "missing.json"), "missing.json"),
    "labels": (("--labels", "missing.txt"), "missing.txt"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_broken_option(name: str, out: Path) -> None:
    options, reason = OPTIONS[name]
    refused(explain_demo(out, *options), reason)


def test_class_name_without_labels(out: Path) -> None:
    options = ("--preprocess", DEMO / "preprocess.json", "--target", "class:three")
    refused(naflow("explain", DEMO_MODEL, demo_picture(), "--out", out, *options), "--labels")


@pytest.mark.parametrize("kind", ["none", "text"])
def test_model_without_an_input_that_can_be_computed_with(kind: str, tmp_path: Path, out: Path) -> None:
    if kind == "none":
        node, inputs = helper.make_node("Constant", [], ["y"], value_float=1.0), []
        reason = "the model takes no input"
    else:
        node = helper.make_node("Identity", ["x"], ["y"])
        inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.STRING, [1, 1, 64, 64])]
        reason = "input 'x' takes string"
    outputs = [
        helper.make_tensor_value_info(
            "y", onnx.TensorProto.STRING if inputs else onnx.TensorProto.FLOAT, None
        )
    ]
    graph = helper.make_graph([node], "odd", inputs, outputs)
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    np.save(tmp_path / "x.npy", GOOD)
    refused(naflow("verify", path), reason)
    refused(naflow("explain", path, tmp_path / "x.npy", "--out", out), reason)
    assert naflow("inspect", path).status == 1


def test_labels_of_another_model(tmp_path: Path, out: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    refused(explain_demo(out, "--labels", tmp_path / "labels.txt"), "has 2 names, the model has 10 classes")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "no command"),
        (("frobnicate",), "frobnicate"),
        (("explain",), "--out"),
        (("explain", "--out", "somewhere"), "MODEL.onnx and at least one INPUT"),
        (("explain", DEMO_MODEL, "--out", "somewhere"), "INPUT"),
        (("explain", DEMO_MODEL, demo_picture()), "--out"),
        (("inspect",), "MODEL"),
        (("verify",), "MODEL"),
        (("verify", DEMO_MODEL, "--tolerance", "0"), "--tolerance"),
        (("verify", DEMO_MODEL, "--input", "missing.npy"), "missing.npy"),
        (("verify", DEMO_MODEL, "--seed", -1), "--seed -1 must not be negative"),
        (("verify", DEMO_MODEL, "--preprocess", "unit"), "--preprocess is for a picture"),
    ],
)
def test_bad_usage(
    arguments: tuple[object, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(naflow(*arguments), reason)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "deeper/out"])
def test_out_is_a_file(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    refused(explain_demo(tmp_path / "file" / below), "--out", "file")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("exists", [True, False])
def test_out_may_not_be_written(exists: bool) -> None:
    """As an ordinary user, also where the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="naflow-test-"))
    target = folder / "read-only"
    target.mkdir()
    for path in (target, folder):
        path.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        refused(explain_demo(target if exists else target / "out"), "cannot be written", "Permission denied")
    finally:
        if root:
            os.seteuid(0)
        for path in (folder, target):
            path.chmod(0o755)
        assert list(target.iterdir()) == []
        shutil.rmtree(folder)


def test_real_process_says_the_same(out: Path) -> None:
    refused(
        naflow_process("explain", DEMO_MODEL, "missing.png", "--out", out, *DEMO_OPTIONS),
        "missing.png: no such",
    )
    refused(naflow_process(), "no command")


def test_internal_error_is_one_line_too(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("deep inside\nsecond line")

    monkeypatch.setattr("naflow_core.load", fail)
    ended = explain_demo(out)
    assert ended.status == 2
    assert ended.stderr.splitlines() == [
        "naflow: internal error, please report it: ZeroDivisionError: deep inside "
        "(NAFLOW_DEBUG=1 shows where)"
    ]


def test_out_of_memory_says_what_to_do(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes")

    monkeypatch.setattr("naflow_core.load", fail)
    refused(explain_demo(out), "--batch-size")


@pytest.mark.skipif(sys.platform == "win32", reason="file names with line breaks")
def test_odd_file_names_stay_on_one_line(tmp_path: Path, out: Path) -> None:
    refused(explain_demo(out, pictures=[tmp_path / "two\nlines [bold]%s.png"]), "two lines [bold]%s.png")
