"""Reading picture files into plain 8-bit RGB."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from naflow_client.errors import PictureError

MAX_PIXELS = 64_000_000

# Only raster formats that Pillow decodes by itself: EPS and friends would start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF")

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged data, by experience and by their sources.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError)


def load_picture(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture file as 8-bit RGB, upright.

    EXIF orientation is applied (an unreadable EXIF block counts as none). Transparency is laid over
    white. Palette, grey, CMYK and other integer modes are converted; 16-bit grey is divided by 257.
    Of an animation or a multi-page file the first frame is taken.

    Args:
        path: the file; JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF.
        max_pixels: refuse pictures of more pixels than this, before anything is decoded.

    Returns:
        A Pillow image of mode "RGB", at least 1x1. `info["source"]` holds the path.

    Raises:
        PictureError: naming the file: missing, not a picture, truncated, too big, or of
            floating-point or 32-bit pixels whose range is unknown.
    """
    name = os.fspath(path)
    Image.init()
    formats = [item for item in FORMATS if item in Image.OPEN]
    try:
        with Path(path).open("rb") as stream, Image.open(stream, formats=formats) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise PictureError(
                    f"{name}: the picture has {width} x {height} pixels, the limit is {max_pixels} in all",
                    "make the picture smaller, or raise max_pixels",
                )
            opened.seek(0)
            opened.load()
            picture = _rgb(_upright(opened), name)
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{name}: not a picture that can be read", f"use one of: {', '.join(FORMATS)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name}: the picture is too big: {error}", "make the picture smaller") from error
    except FileNotFoundError as error:
        raise PictureError(f"{name}: no such file", "check the path") from error
    except IsADirectoryError as error:
        raise PictureError(f"{name}: this is a folder, not a picture", "name the files in it") from error
    except PermissionError as error:
        raise PictureError(f"{name}: may not be read", "check the file's permissions") from error
    except PictureError:
        raise
    except _DAMAGE as error:
        raise PictureError(
            f"{name}: the picture is truncated or damaged: {error}", "save or download it again"
        ) from error
    picture.info = {"source": name}
    return picture


def array_picture(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Something to draw maps over where only a tensor is known: its channels, stretched to 0..255.

    Args:
        array: one model input without its batch axis, [C, H, W], [H, W, C] or [C, D, H, W] (the mean over
            the depth is shown); anything else gives plain grey.

    Returns:
        uint8 RGB [H, W, 3].
    """
    image = array.astype(np.float64)
    if image.ndim == 4:
        image = image.mean(axis=1)
    if image.ndim == 3:
        image = image if image.shape[-1] in (1, 3) else np.moveaxis(image, 0, -1)
        image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    else:
        image = np.zeros((64, 64, 1))
    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low) * 255 if high > low else np.full(image.shape, 128.0)
    return np.broadcast_to(np.rint(scaled), (*scaled.shape[:2], 3)).astype(np.uint8).copy()


def thumbnail(pixels: NDArray[np.uint8], size: int = 128) -> NDArray[np.uint8]:
    """A small copy of uint8 [H, W, 3], its longer side `size` pixels; smaller ones stay as they are."""
    scale = size / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    height, width = (max(1, round(n * scale)) for n in pixels.shape[:2])
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _upright(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation."""
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    except _DAMAGE:
        orientation = 1
    method = _ORIENTATIONS.get(orientation)
    return picture if method is None else picture.transpose(method)


def _rgb(picture: Image.Image, name: str) -> Image.Image:
    """Convert any mode that has a known range to RGB."""
    if picture.mode in _SIXTEEN_BIT or picture.mode == "I":
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError(
                f"{name}: pixels of 32 bits ({values.min()} to {values.max()}) have no known range",
                "save the picture with 8 or 16 bits per channel, or pass a .npy tensor",
            )
        grey = ((values + 128) // 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode == "F":
        raise PictureError(
            f"{name}: floating-point pixels have no known range",
            "save the picture with 8 or 16 bits per channel, or pass a .npy tensor",
        )
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    # A copy, so that the result outlives the open file.
    return picture.copy() if picture.mode == "RGB" else picture.convert("RGB")
