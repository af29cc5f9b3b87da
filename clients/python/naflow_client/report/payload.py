"""The report as JSON that is safe inside an HTML script element."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from naflow_client.errors import MapError
from naflow_client.render.colours import TABLE
from naflow_client.render.overlays import png
from naflow_client.render.scaling import map_state, normalise
from naflow_client.report.model import Compared, Comparison, LayerReport, PictureReport, Prediction, Report

# Finer maps than this are not told apart on the page and would only make the file large.
LARGEST_MAP = 256
LARGEST_PICTURE = 640
# Of the best ones; a report is not the place for a whole bank.
LARGEST_COMPARISON = 24
# Below this a picture is stored without loss.
SMALL_PNG = 120_000


def payload(report: Report) -> dict[str, Any]:
    """The report as JSON values.

    Maps become 8-bit levels of the normalised map, row by row, base64: {"width", "height", "low",
    "high", "levels"}, raw value = low + level / 255 * (high - low). A map that cannot be shown has none.

    Raises:
        MapError: if there is no picture, or a picture or a map has the wrong shape, naming it.
    """
    if not report.pictures:
        raise MapError("a report needs at least one picture", "explain a picture first")
    return {
        "title": report.title,
        "colours": _base64(TABLE.tobytes()),
        "warnings": [str(item) for item in report.warnings],
        "model": _rows(report.model),
        "method": _rows(report.method),
        "versions": _rows(report.versions),
        "pictures": [_picture(item) for item in report.pictures],
    }


def script_safe(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment in it. ASCII only."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain(value: Any) -> Any:
    """Any value as JSON: numpy scalars as numbers, nan and infinities as text, the unknown as text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray) and value.size <= 64:
        return plain(value.tolist())
    return str(value)


def _rows(values: Mapping[str, Any]) -> list[list[Any]]:
    """Pairs, because a JSON object would not keep the order of names such as "1"."""
    return [[str(key), plain(value)] for key, value in values.items()]


def _comparison(comparison: Comparison) -> dict[str, Any]:
    shown = list(comparison.references)[:LARGEST_COMPARISON]
    return {
        "metric": str(comparison.metric),
        "score": plain(comparison.score),
        "channels": [[int(channel), plain(value)] for channel, value in comparison.channels],
        "references": [_compared(item) for item in shown],
        "more": len(comparison.references) - len(shown),
    }


def _compared(item: Compared) -> dict[str, Any]:
    return {
        "label": str(item.label),
        "name": str(item.name),
        "similarity": plain(item.similarity),
        "used": bool(item.used),
        "source": None if item.picture is None else _data_url(_pixels(item.picture, item.name or item.label)),
    }


def _pixels(picture: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise MapError(
            f"{name}: a picture must be uint8 [H, W, 3], this one is {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels


def _picture(report: PictureReport) -> dict[str, Any]:
    pixels = _pixels(report.picture, report.name)
    prediction = [Prediction(*row) for row in report.prediction]
    return {
        "name": str(report.name),
        "target": str(report.target),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "source": _data_url(pixels),
        "prediction": [
            [int(row.rank), str(row.label), plain(row.score), plain(row.reference)] for row in prediction
        ],
        "comparison": None if report.comparison is None else _comparison(report.comparison),
        "layers": [_layer(item, report.name) for item in sorted(report.layers, key=lambda item: item.index)],
    }


def _layer(layer: LayerReport, picture: str) -> dict[str, Any]:
    try:
        state = map_state(layer.map)
        errors, warnings = layer.problems()
    except MapError as error:
        raise MapError(f"{picture}: layer {layer.tensor!r}: {error.message}", error.hint) from error
    return {
        "index": int(layer.index),
        "tensor": str(layer.tensor),
        "node": str(layer.node),
        "op": str(layer.op_type),
        "shape": [int(item) if isinstance(item, (int, np.integer)) else str(item) for item in layer.shape],
        "rule": str(layer.rule),
        "state": state,
        "map": _map(layer.map) if layer.map is not None and state in ("ok", "constant") else None,
        "diagnostics": _rows(layer.diagnostics),
        "errors": errors,
        "warnings": [str(item) for item in warnings],
    }


def _map(values: NDArray[np.floating]) -> dict[str, Any]:
    scaled = normalise(values)
    height, width = scaled.values.shape
    shrink = min(1.0, LARGEST_MAP / max(height, width))
    kept = scaled.values
    if shrink < 1:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        kept = np.array(Image.fromarray(kept).resize(size, Image.Resampling.BILINEAR))
    levels = np.rint(np.clip(kept, 0, 1) * 255).astype(np.uint8)
    return {
        "width": levels.shape[1],
        "height": levels.shape[0],
        "low": scaled.low,
        "high": scaled.high,
        "levels": _base64(levels.tobytes()),
    }


def _data_url(pixels: NDArray[np.uint8]) -> str:
    longer = max(pixels.shape[:2])
    if longer > LARGEST_PICTURE:
        scale = LARGEST_PICTURE / longer
        size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    lossless = png(pixels)
    if len(lossless) <= SMALL_PNG:
        return f"data:image/png;base64,{_base64(lossless)}"
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{_base64(stream.getvalue())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
