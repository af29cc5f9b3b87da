"""Overlays and the animation as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naflow_client import MapError, OutputError
from naflow_client.render import (
    Frame,
    colour,
    layer_frames,
    normalise,
    overlay,
    tile,
    upscale,
    write_gif,
    write_overlays,
)

PICTURE = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
SPOT = np.zeros((4, 6), np.float32)
SPOT[0, 5] = 1


@dataclass
class Layer:
    index: int
    tensor: str
    map: np.ndarray | None
    shape: tuple[int, ...] = (1, 8, 4, 6)


def test_overlay_mixes_picture_and_colours() -> None:
    coloured = colour(upscale(normalise(SPOT).values, (40, 60)))
    assert np.array_equal(overlay(PICTURE, SPOT, 0), PICTURE)
    assert np.array_equal(overlay(PICTURE, SPOT, 1), coloured)
    half = overlay(PICTURE, SPOT, 0.5).astype(float)
    assert np.abs(half - (PICTURE.astype(float) + coloured) / 2).max() <= 0.5


def test_the_bright_spot_is_where_the_map_is_large() -> None:
    lit = overlay(np.zeros_like(PICTURE), SPOT, 1).sum(axis=2, dtype=int)
    assert np.unravel_index(lit.argmax(), lit.shape)[0] < 10
    assert lit[0, 59] == lit.max()
    assert lit[39, 0] == lit.min()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan])
def test_overlay_refuses(alpha: float) -> None:
    with pytest.raises(MapError, match="alpha"):
        overlay(PICTURE, SPOT, alpha)
    with pytest.raises(MapError, match="uint8"):
        overlay(PICTURE / 255, SPOT)


@pytest.mark.parametrize(
    ("values", "reason"),
    [(None, "no map"), (SPOT * np.nan, "map is not finite"), (SPOT * 0, "constant map")],
)
def test_maps_without_content_are_hatched_grey(values: np.ndarray | None, reason: str) -> None:
    pixels, said = tile(PICTURE, values)
    assert said == reason
    assert pixels.shape == PICTURE.shape
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_overlay_files_have_safe_names_in_order(tmp_path: Path) -> None:
    names = ["input", "a/b:c", "../../etc/passwd", "x" * 300, "ünï", "", "..", "dead"]
    layers = [Layer(i, name, SPOT) for i, name in enumerate(names[:-1])]
    layers.append(Layer(len(layers), "dead", SPOT * np.nan))
    paths = write_overlays(tmp_path / "new" / "overlays", PICTURE, layers)
    assert [path.name[:4] for path in paths] == [f"{i:03d}-" for i in range(len(names))]
    assert sorted(path.name for path in (tmp_path / "new" / "overlays").iterdir()) == [p.name for p in paths]
    assert paths[1].name == "001-a_b_c.png"
    assert paths[-1].name == "007-dead.map-is-not-finite.png"
    assert max(len(path.name) for path in paths) < 100
    assert np.array_equal(np.asarray(Image.open(paths[0])), overlay(PICTURE, SPOT))


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_overlays(tmp_path / "file", PICTURE, [Layer(0, "a", SPOT)])
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(OutputError, match=r"folder\.gif"):
        write_gif(layer_frames(PICTURE, [Layer(0, "a", SPOT)]), tmp_path / "folder.gif")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder.gif"]


def spots(count: int) -> list[Layer]:
    """Layer i is bright in column i of `count`."""
    return [Layer(i, f"layer{i}", np.eye(count, dtype=np.float32)[i : i + 1]) for i in range(count)]


def test_gif_shows_every_layer_once_from_first_to_last(tmp_path: Path) -> None:
    black = np.zeros((60, 240, 3), np.uint8)
    layers = spots(6)
    path = write_gif(layer_frames(black, layers[::-1], 1.0), tmp_path / "f.gif", 120)
    with Image.open(path) as movie:
        assert movie.n_frames == 6
        assert movie.info["loop"] == 0
        durations = []
        for number in range(6):
            movie.seek(number)
            durations.append(movie.info["duration"])
            pixels = np.asarray(movie.convert("RGB")).astype(int)
            column = pixels[:60].sum(axis=(0, 2)).argmax() * 6 // 240
            assert column == number
            # The line over the caption grows with the frames.
            assert (pixels[60, :, 0] > 200).sum() == pytest.approx(240 * (number + 1) / 6, abs=2)
            assert (pixels[64:, :, 0] > 150).any(), "the caption is drawn"
    assert durations == [120] * 5 + [360]


def test_equal_maps_stay_separate_frames(tmp_path: Path) -> None:
    layers = [Layer(i, "same name" * 40, SPOT) for i in range(3)]
    with Image.open(write_gif(layer_frames(PICTURE, layers), tmp_path / "f.gif")) as movie:
        assert movie.n_frames == 3


def test_gif_bytes_are_reproducible_and_large_pictures_are_reduced(tmp_path: Path) -> None:
    big = np.random.default_rng(0).integers(0, 256, (300, 900, 3), dtype=np.uint8)
    layers = [Layer(0, "weird \u202e\n\ud800 名前", SPOT), Layer(1, "b", None), Layer(2, "c", SPOT + np.inf)]
    first = write_gif(layer_frames(big, layers), tmp_path / "1.gif").read_bytes()
    second = write_gif(layer_frames(big, layers), tmp_path / "2.gif").read_bytes()
    assert first == second
    with Image.open(tmp_path / "1.gif") as movie:
        assert movie.width == 400
        assert movie.n_frames == 3


def test_gif_refuses(tmp_path: Path) -> None:
    frame = Frame(PICTURE, "a")
    with pytest.raises(MapError, match="at least one"):
        write_gif([], tmp_path / "f.gif")
    with pytest.raises(MapError, match="one size"):
        write_gif([frame, Frame(PICTURE[:20], "b")], tmp_path / "f.gif")
    with pytest.raises(MapError, match="10 ms"):
        write_gif([frame], tmp_path / "f.gif", 10)
