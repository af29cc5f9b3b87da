"""Checking preprocessing settings: types, ranges, combinations, misspelt names."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from naflow_client.errors import PreprocessingError

Channels = Literal["RGB", "BGR", "L"]
Crop = Literal["center", "none"]
Layout = Literal["NCHW", "NHWC"]

CHANNELS = ("RGB", "BGR", "L")
CROPS = ("center", "none")
LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float16", "float32", "float64", "uint8", "int8")
COMMENT = "_comment"
LARGEST_SIDE = 16384


def known_keys(settings: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The settings without the comment.

    Raises:
        PreprocessingError: naming an unknown key, the nearest known one, and all of them.
    """
    for key in settings:
        if key not in known and key != COMMENT:
            near = difflib.get_close_matches(str(key), known, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise PreprocessingError(
                f"unknown setting {str(key)!r}{guess}", f"known settings: {', '.join(known)}, {COMMENT}"
            )
    return {key: value for key, value in settings.items() if key != COMMENT}


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """Settings with numbers and sequences in their final types.

    Raises:
        PreprocessingError: naming the setting and what it may be.
    """
    result = dict(values)
    _one_of(values, "channels", CHANNELS, optional=True)
    _one_of(values, "crop", CROPS, optional=False)
    _one_of(values, "layout", LAYOUTS, optional=True)
    _one_of(values, "dtype", DTYPES, optional=True)
    result["size"] = _size(values["size"])
    result["resize_shorter"] = _whole(values["resize_shorter"], "resize_shorter")
    result["resize_ratio"] = _real(values["resize_ratio"], "resize_ratio", 1.0, 100.0)
    result["crop_fraction"] = _real(values["crop_fraction"], "crop_fraction", 0.0, 1.0)
    count = {"L": 1, "RGB": 3, "BGR": 3}.get(values["channels"] or "")
    result["subtract"] = _channel_numbers(values["subtract"], "subtract", count)
    result["divide"] = _channel_numbers(values["divide"], "divide", count)
    divide = result["divide"]
    if 0.0 in (divide if isinstance(divide, tuple) else (divide,)):
        raise PreprocessingError("divide must not be 0", "use 1 to leave values as they are")
    _check_together(result)
    return result


def _check_together(result: Mapping[str, Any]) -> None:
    """Refuse combinations that leave open what is meant."""
    ways = [key for key in ("resize_shorter", "resize_ratio", "crop_fraction") if result[key] is not None]
    if len(ways) > 1:
        raise PreprocessingError(f"{' and '.join(ways)} exclude each other", "keep one of them")
    if result["crop_fraction"] is not None and result["crop"] == "center":
        return
    if result["resize_ratio"] is not None and result["crop"] == "none":
        raise PreprocessingError(
            'resize_ratio needs "crop": "center"', "a picture that is not cut keeps a size of its own"
        )
    if result["resize_shorter"] is not None and result["size"] is not None:
        if result["crop"] == "none":
            raise PreprocessingError(
                'resize_shorter with a size needs "crop": "center"',
                "or leave out resize_shorter to resize the whole picture to the size",
            )
        if result["resize_shorter"] < min(result["size"]):
            raise PreprocessingError(
                f"resize_shorter {result['resize_shorter']} is smaller than the size "
                f"{list(result['size'])}, so the crop cannot fit",
                "make resize_shorter at least as large as the size",
            )


def _one_of(values: Mapping[str, Any], key: str, choices: Sequence[str], *, optional: bool) -> None:
    value = values[key]
    if not (value in choices if isinstance(value, str) else optional and value is None):
        raise PreprocessingError(f"{key} is {value!r}", f"it must be one of {', '.join(choices)}")


def _whole(value: Any, key: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_SIDE:
        raise PreprocessingError(f"{key} is {value!r}", f"it must be a whole number, 1 to {LARGEST_SIDE}")
    return value


def _size(value: Any) -> tuple[int, int] | None:
    if isinstance(value, (list, tuple)):
        if len(value) != 2 or None in value:
            raise PreprocessingError(f"size is {list(value)!r}", "it must be one number, or [height, width]")
        height, width = _whole(value[0], "size"), _whole(value[1], "size")
    else:
        height = width = _whole(value, "size")
    return None if height is None or width is None else (height, width)


def _real(value: Any, key: str, low: float, high: float) -> float | None:
    if value is None:
        return None
    number = _number(value, key)
    # A fraction of 0 cuts nothing out; a ratio below 1 leaves no room for the crop.
    if not (low < number <= high or low == number != 0):
        raise PreprocessingError(f"{key} is {value!r}", f"it must be between {low:g} and {high:g}")
    return number


def _number(value: Any, key: str) -> float:
    if not isinstance(value, bool) and isinstance(value, (int, float)):
        with contextlib.suppress(OverflowError):  # a whole number of hundreds of digits
            if math.isfinite(value):
                return float(value)
    raise PreprocessingError(f"{key} is {value!r}", "it must be a finite number")


def _channel_numbers(value: Any, key: str, count: int | None) -> tuple[float, ...] | float:
    if not isinstance(value, (list, tuple)):
        return _number(value, key)
    allowed = (1, 3) if count is None else (1, count)
    if len(value) not in allowed:
        raise PreprocessingError(
            f"{key} has {len(value)} numbers", f"give one number, or one per channel ({count or '1 or 3'})"
        )
    return tuple(_number(item, key) for item in value)
