"""The bundled example: its scenes are what they claim to be, and its network as good as it claims."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits_in_clutter"
MODEL = EXAMPLE / "digits_in_clutter.onnx"
CHECKED = 300

pytest.importorskip("sklearn", reason="the digit scans come with scikit-learn")


def _load(name: str) -> ModuleType:
    """A module of the example, under a name of its own so that it shadows nothing."""
    qualified = f"digits_in_clutter_{name}"
    spec = importlib.util.spec_from_file_location(qualified, EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module
    spec.loader.exec_module(module)
    return module


dataset = _load("dataset")


@pytest.fixture(scope="module")
def unseen() -> list:
    return list(dataset.scenes(dataset.load_sources("test"), CHECKED, seed=7))


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


def test_the_box_is_the_bounding_box_of_the_ink(unseen: list) -> None:
    for scene in unseen:
        left, top, right, bottom = scene.box
        assert 0 <= left < right <= 64
        assert 0 <= top < bottom <= 64
        inside = scene.ink[top:bottom, left:right]
        assert np.count_nonzero(inside) == np.count_nonzero(scene.ink) > 0
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.max() >= dataset.INK_FLOOR


def test_the_digit_is_where_the_box_says(unseen: list) -> None:
    """Outside the box the picture is the backdrop plus noise; on full ink it is one bright grey."""
    for scene in unseen:
        left, top, right, bottom = scene.box
        shown = scene.picture / 255.0
        outside = np.ones((64, 64), bool)
        outside[top:bottom, left:right] = False
        assert np.abs(shown - scene.backdrop)[outside].mean() < 0.05
        assert shown[scene.ink > 0.99].mean() > 0.7
        assert shown[scene.ink > 0.99].std() < 0.06


def test_clutter_hardly_enters_the_box(unseen: list) -> None:
    bright = [(s.backdrop[s.box[1] : s.box[3], s.box[0] : s.box[2]] > 0.6).mean() for s in unseen]
    assert np.mean(bright) < 0.05


def test_there_is_clutter_as_bright_as_the_digit(unseen: list) -> None:
    with_rivals = [(s.backdrop > 0.7).sum() > 20 for s in unseen]
    assert np.mean(with_rivals) > 0.9


def test_digits_differ_in_place_and_size(unseen: list) -> None:
    boxes = np.array([s.box for s in unseen])
    heights = boxes[:, 3] - boxes[:, 1]
    assert heights.min() >= 14
    assert heights.max() <= dataset.MAX_DIGIT
    assert len(np.unique(heights)) >= 6
    assert boxes[:, :2].min() <= 3
    assert boxes[:, 2:].max() >= 61
    assert {s.label for s in unseen} == set(range(10))


def test_a_seed_decides_everything() -> None:
    sources = dataset.load_sources("test")
    first, again, other = (list(dataset.scenes(sources, 5, seed)) for seed in (11, 11, 12))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.picture, b.picture)
        assert (a.label, a.box) == (b.label, b.box)
    assert any(not np.array_equal(a.picture, b.picture) for a, b in zip(first, other, strict=True))


def test_training_and_test_scans_are_disjoint() -> None:
    train, test = dataset.load_sources("train"), dataset.load_sources("test")
    assert not set(train.rows) & set(test.rows)
    assert len(train.rows) + len(test.rows) == 1797
    assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}
    shares = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    assert np.allclose(shares, dataset.TEST_SHARE, atol=0.01)


def test_the_network_is_as_good_as_the_readme_says(
    unseen: list, session: onnxruntime.InferenceSession
) -> None:
    stated = re.search(r"test accuracy \*\*([\d.]+) %\*\*", (EXAMPLE / "README.md").read_text())
    assert stated is not None
    pictures = dataset.as_input(np.stack([s.picture for s in unseen]))
    logits = session.run(None, {"image": pictures})[0]
    accuracy = (logits.argmax(1) == [s.label for s in unseen]).mean()
    # Other scenes than those the figure was measured on: two standard deviations of a sample this size.
    share = float(stated[1]) / 100
    assert accuracy >= share - 2 * np.sqrt(share * (1 - share) / CHECKED)


def test_the_network_looks_at_the_digit(unseen: list, session: onnxruntime.InferenceSession) -> None:
    """Without the digit the same scenes are not read; so the label is not hidden in the clutter."""
    empty = dataset.as_input(np.rint(255 * np.clip(np.stack([s.backdrop for s in unseen]), 0, 1)))
    guessed = session.run(None, {"image": empty})[0].argmax(1)
    assert (guessed == [s.label for s in unseen]).mean() < 0.2


def test_the_model_file() -> None:
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert MODEL.stat().st_size < 400_000
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    (image,), (logits,) = model.graph.input, model.graph.output
    axes = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, axes) == ("image", ["N", 1, 64, 64])
    assert logits.name == "logits"
    assert {"BatchNormalization", "Add", "MaxPool", "Conv"} <= {n.op_type for n in model.graph.node}


def test_the_pictures_that_are_shipped(session: onnxruntime.InferenceSession) -> None:
    """They are scenes of unseen digits, redrawn here from their seed, and the network reads them."""
    truth = json.loads((EXAMPLE / "inputs" / "truth.json").read_text())
    assert {p.name for p in (EXAMPLE / "inputs").glob("*.png")} == set(truth)
    assert len(truth) == 6
    shown_seed = re.search(r"SHOWN_SEED, WEIGHT_SEED = \d+, \d+, (\d+)", (EXAMPLE / "train.py").read_text())
    assert shown_seed is not None
    drawn = list(dataset.scenes(dataset.load_sources("test"), 200, int(shown_seed[1])))
    for name, entry in truth.items():
        picture = np.asarray(Image.open(EXAMPLE / "inputs" / name))
        assert picture.shape == (64, 64)
        scene = min(drawn, key=lambda s: np.abs(s.picture.astype(int) - picture).max())
        assert np.abs(scene.picture.astype(int) - picture).max() <= 1
        assert entry == {"label": scene.label, "box": list(scene.box)}
        assert session.run(None, {"image": dataset.as_input(picture[None])})[0].argmax() == scene.label


def test_the_side_files() -> None:
    assert (EXAMPLE / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    recipe = json.loads((EXAMPLE / "preprocess.json").read_text())
    assert recipe == {"channels": "L", "size": 64, "subtract": 0, "divide": 255}
