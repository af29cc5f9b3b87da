"""Reading picture files: every mode, orientation, and what must be refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naflow_client import ClientError, PictureError, load_picture


def pattern(height: int = 5, width: int = 7) -> np.ndarray:
    """Every pixel of its own colour."""
    rows, columns = np.indices((height, width))
    return np.stack([rows * 40, columns * 30, 255 - rows * 20 - columns * 10], axis=2).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    picture = load_picture(path)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_rgb_png_is_unchanged_and_remembers_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pattern()).save(path)
    assert np.array_equal(read(path), pattern())
    assert load_picture(str(path)).info == {"source": str(path)}


# Where the pixel (row, column) of the stored 5x7 picture must be seen, by EXIF orientation.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pattern()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(tmp_path / "a.png"), UPRIGHT[orientation](pattern()))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = [0, 255, 51]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png")[0, :, 0].tolist() == [255, 0, 204]


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=0)
    assert read(tmp_path / "a.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_and_bilevel(tmp_path: Path) -> None:
    Image.new("CMYK", (2, 2), (0, 0, 0, 0)).save(tmp_path / "white.tif")
    assert (read(tmp_path / "white.tif") == 255).all()
    Image.new("1", (2, 2), 1).save(tmp_path / "one.png")
    assert (read(tmp_path / "one.png") == 255).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "a.gif") == [255, 0, 0]).all()


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").tolist() == [[[1, 2, 3]]]


def bomb(path: Path, side: int) -> None:
    """A PNG header that promises side x side pixels and has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_bombs_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    bomb(tmp_path / "bomb.png", side)
    with pytest.raises(PictureError, match=r"bomb\.png: the picture"):
        load_picture(tmp_path / "bomb.png")


def test_pixel_limit_is_exact(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png", max_pixels=100).size == (10, 10)
    with pytest.raises(PictureError, match="the limit is 99"):
        load_picture(tmp_path / "a.png", max_pixels=99)


def test_unusable_files_are_named_with_a_remedy(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(whole)
    files = {
        "cut.jpg": whole.read_bytes()[:900],
        "text.png": b"not a picture",
        "empty.jpg": b"",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "deep.tif")
    for name in [*files, "folder.png", "float.tif", "deep.tif", "absent.png"]:
        with pytest.raises(PictureError) as caught:
            load_picture(tmp_path / name)
        assert name in str(caught.value)
        assert caught.value.hint
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, ClientError)
