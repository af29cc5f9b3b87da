"""A small report with every state that a layer can be in."""

from __future__ import annotations

from typing import Any

import numpy as np

from naflow_client.report import Compared, Comparison, LayerReport, PictureReport, Report


def layer(index: int, values: np.ndarray | None, tensor: str = "", **diagnostics: Any) -> LayerReport:
    return LayerReport(
        index=index,
        tensor=tensor or f"tensor{index}",
        node=f"node{index}",
        op_type="Conv",
        shape=(1, 8, 12, 16),
        rule="least squares",
        map=values,
        diagnostics={"iterations": 10 + index, "relative_residual": 1e-4, "converged": True, **diagnostics},
    )


def gradient(index: int) -> np.ndarray:
    """A ramp whose direction and range depend on the layer."""
    rows, columns = np.indices((6, 8)).astype(np.float32)
    return np.asarray((columns + index * rows) * (index + 1), dtype=np.float32)


def picture(name: str, count: int = 5, seed: int = 0) -> PictureReport:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    layers = [layer(i, gradient(i)) for i in range(count)]
    prediction = [(1, "cat", 0.75, 0.7501), (2, "dog", 0.25, None)]
    return PictureReport(name, pixels, prediction, "class cat", layers)


def report(*pictures: PictureReport, title: str = "A report") -> Report:
    return Report(
        title=title,
        pictures=pictures or (picture("cat.png"),),
        method={"preset": "default", "solve": {"tolerance": 1e-3, "damping": 0}},
        model={"file": "model.onnx"},
        versions={"naflow": "0.1.0"},
        warnings=["Something to know."],
    )


def broken_layers() -> list[LayerReport]:
    """Fine, not converged, constant, not finite, missing."""
    bad = gradient(3)
    bad[2, 2] = np.nan
    return [
        layer(0, gradient(0)),
        layer(1, gradient(1), converged=False),
        layer(2, np.ones((6, 8), np.float32)),
        layer(3, bad),
        layer(4, None),
    ]


def comparison(count: int = 3) -> Comparison:
    """Best first; the last one is not part of what is explained and has no picture."""
    pixels = np.random.default_rng(9).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    references = [
        Compared(f"label{i}", f"{i}.png", 0.9 - i / 100, i < count - 1, pixels if i < count - 1 else None)
        for i in range(count)
    ]
    return Comparison("cosine", 0.875, [(7, 0.5), (3, 0.25), (1, -0.125)], references)
