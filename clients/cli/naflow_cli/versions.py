"""Versions of everything that takes part in a run, for the manifest."""

from __future__ import annotations

import platform
from importlib import metadata

import naflow_core as nf


def versions(*, computing: bool = True) -> dict[str, str]:
    """Of naflow, Python, the platform, and the libraries that compute unless a server does that."""
    names = ("jax", "jaxlib", "numpy", "onnx", "Pillow") if computing else ("numpy", "Pillow")
    found = {"naflow": nf.__version__, **{name.lower(): metadata.version(name) for name in names}}
    if computing:
        import onnxruntime

        found["onnxruntime"] = str(onnxruntime.__version__)
    return {**found, "python": platform.python_version(), "platform": platform.platform()}
