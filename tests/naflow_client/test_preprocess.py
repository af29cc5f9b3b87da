"""Preprocessing against slow replicas, algebraic properties, and its refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from naflow_client import PictureError, Preprocessing, PreprocessingError

MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def triangle_weights(length: int, count: int) -> np.ndarray:
    """[count, length]: bilinear with half-pixel centres, widened when shrinking."""
    scale = max(length / count, 1.0)
    centres = (np.arange(count) + 0.5) * length / count
    distance = np.abs(np.arange(length) + 0.5 - centres[:, np.newaxis])
    weights = np.maximum(0.0, 1 - distance / scale)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def slow_resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = triangle_weights(pixels.shape[0], height), triangle_weights(pixels.shape[1], width)
    tall = np.tensordot(rows, pixels.astype(float), axes=(1, 0))
    return np.tensordot(tall, columns, axes=(1, 1)).transpose(0, 2, 1)


def close_levels(actual: np.ndarray, expected: np.ndarray) -> None:
    """Two roundings to 8 bits (one per axis) are allowed."""
    assert np.abs(actual - expected).max() <= 1.01


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (256, 256), (100, 90), (333, 1000)])
def test_imagenet_is_resize_then_centre_crop(height: int, width: int) -> None:
    picture = noise(height, width)
    short = min(height, width)
    # The recipe of torchvision: shorter side to 256, longer side rounded down, centre crop of 224.
    resized = (256 * height // short, 256 * width // short)
    whole = slow_resize(np.asarray(picture), *resized)
    top, left = round((resized[0] - 224) / 2), round((resized[1] - 224) / 2)
    crop = whole[top : top + 224, left : left + 224]
    prepared = Preprocessing.named("imagenet").apply(picture, ["N", 3, 224, 224], "float32")
    close_levels(prepared.shown.astype(float), crop)
    expected = ((prepared.shown / 255 - MEAN) / DEVIATION).transpose(2, 0, 1)[np.newaxis]
    assert prepared.array.dtype == np.float32
    np.testing.assert_allclose(prepared.array, expected, rtol=0, atol=2e-6)


def test_imagenet_keeps_its_ratio_at_other_sizes() -> None:
    picture = noise(160, 160)
    prepared = Preprocessing.named("imagenet").apply(picture, [1, 3, 112, 112])
    close_levels(prepared.shown.astype(float), slow_resize(np.asarray(picture), 128, 128)[8:120, 8:120])


def test_imagenet_on_an_upright_input_cuts_its_proportions() -> None:
    prepared = Preprocessing.named("imagenet").apply(noise(500, 500), [1, 3, 256, 128])
    left, top, right, bottom = prepared.box
    assert prepared.array.shape == (1, 3, 256, 128)
    assert (bottom - top) / (right - left) == pytest.approx(2, rel=0.02)
    assert left == pytest.approx(500 - right, abs=2)


@pytest.mark.parametrize(("height", "width"), [(200, 320), (320, 200), (31, 30)])
def test_crop_fraction_is_a_central_square_of_the_shorter_side(height: int, width: int) -> None:
    side = round(0.875 * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    picture = noise(height, width)
    cut = np.asarray(picture)[top : top + side, left : left + side]
    recipe = Preprocessing.from_dict(
        {"size": 64, "crop_fraction": 0.875, "channels": "RGB", "subtract": 127.5, "divide": 127.5}
    )
    prepared = recipe.apply(picture, [None, None, None, 3])
    close_levels(prepared.shown.astype(float), slow_resize(cut, 64, 64))
    assert prepared.layout == "NHWC"
    np.testing.assert_allclose(prepared.array[0], prepared.shown / 127.5 - 1, atol=1e-6)


def test_shorter_side_and_bgr_means_are_in_the_order_of_the_channels() -> None:
    recipe = Preprocessing.from_dict(
        {"channels": "BGR", "resize_shorter": 40, "crop": "center", "size": 32, "subtract": [104, 117, 123]}
    )
    prepared = recipe.apply(noise(80, 80), [1, 3, 32, 32])
    blue, green, red = prepared.array[0]
    shown = prepared.shown.astype(np.float32)
    assert np.array_equal(blue, shown[..., 2] - 104)
    assert np.array_equal(green, shown[..., 1] - 117)
    assert np.array_equal(red, shown[..., 0] - 123)


def test_unit_and_raw_take_the_whole_picture() -> None:
    picture = noise(30, 50)
    expected = slow_resize(np.asarray(picture), 20, 20)
    raw = Preprocessing.named("raw").apply(picture, [1, 20, 20, 3], "uint8")
    close_levels(raw.array[0].astype(float), expected)
    assert raw.array.dtype == np.uint8
    assert np.array_equal(raw.array[0], raw.shown)
    unit = Preprocessing.named("unit").apply(picture, [1, 3, 20, 20])
    np.testing.assert_allclose(unit.array[0].transpose(1, 2, 0) * 255, raw.shown, atol=1e-4)


def test_grey_for_models_of_one_channel() -> None:
    picture = noise(28, 28)
    prepared = Preprocessing.named("raw").apply(picture, ["batch", 1, 28, 28])
    grey = np.asarray(picture).astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(prepared.array[0, 0] - grey).max() <= 0.51
    assert prepared.shown.shape == (28, 28, 3)


def test_free_dimensions_take_the_pictures_own_size() -> None:
    recipe = Preprocessing(resize_shorter=32, layout="NCHW")
    assert recipe.apply(noise(64, 100), ["N", 3, "H", "W"]).array.shape == (1, 3, 32, 50)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(["imagenet", "unit", "raw", "fraction"]),
    level=st.integers(0, 255),
)
@settings(max_examples=60, deadline=None)
def test_any_picture_fits_any_size_and_a_flat_one_stays_flat(
    height: int, width: int, size: tuple[int, int], kind: str, level: int
) -> None:
    recipe = Preprocessing(crop_fraction=0.875) if kind == "fraction" else Preprocessing.named(kind)
    recipe = replace(recipe, layout="NCHW")
    prepared = recipe.apply(Image.new("RGB", (width, height), (level,) * 3), [1, 3, *size])
    assert prepared.array.shape == (1, 3, *size)
    assert (prepared.shown == level).all()
    assert (prepared.display == level).all()
    left, top, right, bottom = prepared.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(height=st.integers(40, 120), width=st.integers(40, 120), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_mirrored_picture_gives_the_mirrored_tensor(height: int, width: int, seed: int) -> None:
    picture = noise(height, width, seed)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    recipe = Preprocessing.named("unit")
    a = recipe.apply(picture, [1, 3, 24, 24]).shown
    b = recipe.apply(mirrored, [1, 3, 24, 24]).shown
    assert np.abs(a.astype(int) - b[:, ::-1]).max() <= 1


def test_display_shows_the_same_part_in_its_own_proportions() -> None:
    rows, columns = np.indices((600, 900))
    picture = Image.fromarray(np.stack([rows * 255 / 600, columns * 255 / 900, rows * 0], 2).astype(np.uint8))
    prepared = Preprocessing(crop_fraction=0.5).apply(picture, [1, 3, 60, 60])
    assert prepared.display.shape == (300, 300, 3)
    reduced = prepared.display.reshape(60, 5, 60, 5, 3).mean(axis=(1, 3))
    assert np.abs(reduced - prepared.shown).max() <= 2
    wide = Preprocessing.named("unit").apply(picture, [1, 3, 60, 60])
    assert wide.display.shape == (427, 640, 3)
    assert Preprocessing.named("unit").apply(noise(8, 4), [1, 3, 9, 9]).display.shape == (256, 128, 3)


def test_same_bytes_every_time() -> None:
    recipe = Preprocessing.named("imagenet")
    first, second = (recipe.apply(noise(300, 411), [1, 3, 224, 224]) for _ in range(2))
    assert first.array.tobytes() == second.array.tobytes()
    assert first.display.tobytes() == second.display.tobytes()


@pytest.mark.parametrize(
    ("recipe", "shape", "dtype", "words"),
    [
        (Preprocessing.named("imagenet"), [1, 1, 28, 28], None, "no axis of 3 channels"),
        (Preprocessing(channels="L"), [1, 3, 28, 28], None, "no axis of 1 channels"),
        (Preprocessing(layout="NHWC"), [1, 3, 28, 28], None, "takes 28 channels"),
        (Preprocessing(), [1, 3, None, 28], None, "does not declare the height and width"),
        (Preprocessing(), [None] * 4, None, "which axis holds the channels"),
        (Preprocessing(), [1, 3, 20, 3], None, "which axis holds the channels"),
        (Preprocessing(size=(32, 32)), [1, 3, 28, 28], None, "gives 32 x 32"),
        (Preprocessing(), [1, 784], None, "4 axes"),
        (Preprocessing(dtype="uint8"), [1, 3, 8, 8], "float32", "preprocessing gives uint8"),
        (Preprocessing(), [1, 3, 8, 8], "bool", "cannot be turned into"),
        (Preprocessing.named("imagenet"), [1, 3, 8, 8], "uint8", "whole numbers that fit the model's uint8"),
        (Preprocessing(divide=2.0), [1, 3, 8, 8], "uint8", "whole numbers"),
        (Preprocessing(crop="center"), [1, 3, 64, 64], None, "does not fit in 50 x 50"),
        (Preprocessing(resize_shorter=32), [1, 3, 28, 28], None, "gives 32 x 32"),
        (Preprocessing(subtract=(1, 2, 3)), [1, 1, 8, 8], None, "subtract has 3 numbers"),
        (Preprocessing(size=(16384, 16384)), [1, 3, None, None], None, "more than"),
    ],
)
def test_misfits_name_the_picture_and_say_what_to_do(
    recipe: Preprocessing, shape: list[int | None], dtype: str | None, words: str
) -> None:
    picture = noise(50, 50)
    picture.info["source"] = "cat.png"
    with pytest.raises(PictureError, match=words) as caught:
        recipe.apply(picture, shape, dtype)
    assert str(caught.value).startswith("cat.png: ")
    assert caught.value.hint


def test_an_absurd_picture_costs_no_memory() -> None:
    prepared = Preprocessing.named("imagenet").apply(noise(2, 60_000), [1, 3, 64, 64])
    assert prepared.array.shape == (1, 3, 64, 64)
    with pytest.raises(PictureError, match="more than"):
        Preprocessing(resize_shorter=4096, layout="NCHW").apply(noise(2, 60_000), [1, 3, None, None])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"sise": 224}, "did you mean 'size'"),
        ({"mean": [0.5]}, "known settings: channels"),
        ({"size": 0}, "size is 0"),
        ({"size": [1, 2, 3]}, "size is"),
        ({"size": True}, "size is True"),
        ({"channels": "rgb"}, "RGB, BGR, L"),
        ({"crop": "centre"}, "center, none"),
        ({"crop": None}, "crop is None"),
        ({"layout": "CHW"}, "NCHW, NHWC"),
        ({"dtype": "float"}, "float32"),
        ({"divide": 0}, "divide must not be 0"),
        ({"divide": [1, 0, 1]}, "divide must not be 0"),
        ({"divide": float("nan")}, "finite"),
        ({"subtract": [1, 2]}, "subtract has 2 numbers"),
        ({"subtract": "1"}, "finite number"),
        ({"crop_fraction": 0}, "crop_fraction is 0"),
        ({"crop_fraction": 1.5}, "crop_fraction is 1.5"),
        ({"crop_fraction": 0.9, "resize_shorter": 256}, "exclude each other"),
        ({"resize_shorter": 256, "size": 224}, 'needs "crop": "center"'),
        ({"resize_shorter": 200, "size": 224, "crop": "center"}, "smaller than the size"),
        ({"resize_ratio": 1.1}, 'needs "crop": "center"'),
        ({"resize_ratio": 0.5, "crop": "center"}, "resize_ratio is 0.5"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, bad: dict[str, object], words: str) -> None:
    with pytest.raises(PreprocessingError, match=words) as caught:
        Preprocessing.from_dict(bad)
    assert caught.value.hint
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(bad))
    with pytest.raises(PreprocessingError, match=r"recipe\.json"):
        Preprocessing.load(str(path))


@pytest.mark.parametrize("text", ["", "[1]", "{", '"imagenet"', "\ufeff{", "[" * 100_000])
def test_broken_files_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    with pytest.raises(PreprocessingError, match=r"r\.json"):
        Preprocessing.from_file(tmp_path / "r.json")


def test_names_files_and_dicts_give_the_same_recipe(tmp_path: Path) -> None:
    with pytest.raises(PreprocessingError, match="imagenet, unit, raw"):
        Preprocessing.load("imagenette")
    with pytest.raises(PreprocessingError, match=r"absent\.json"):
        Preprocessing.load("absent.json")
    for name in ("imagenet", "unit", "raw"):
        recipe = Preprocessing.load(name)
        (tmp_path / "r.json").write_text(json.dumps({"_comment": "any", **recipe.to_dict()}))
        assert Preprocessing.load(tmp_path / "r.json") == recipe
        assert Preprocessing.load(recipe.to_dict()) == recipe
        assert Preprocessing.load(recipe) is recipe
        assert recipe.with_size(9, 8).size == (9, 8)
        assert math.prod(recipe.with_size(9, 8).apply(noise(20, 20), [1, 3, None, None]).shown.shape) == 216
