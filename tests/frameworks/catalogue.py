"""What each exporter writes, without importing any framework."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXPORTED = "NAFLOW_EXPORTED"
TIME_LIMIT = 900


@dataclass(frozen=True)
class Exporter:
    """One way from a framework to ONNX files.

    Attributes:
        folder: under tests/frameworks, with an export.py.
        arguments: of export.py, before the folder that it writes to.
        modules: what must be installed.
        networks: names of the files that it writes, without ".onnx".
    """

    folder: str
    arguments: tuple[str, ...]
    modules: tuple[str, ...]
    networks: tuple[str, ...]

    def lacking(self) -> str:
        """The first module that is not installed, "" if none."""
        return next((name for name in self.modules if importlib.util.find_spec(name) is None), "")

    def export(self, out: Path) -> None:
        """Write all files, in a process of its own: frameworks do not mix well in one.

        Raises:
            RuntimeError: the exporter failed; with the end of what it said.
        """
        command = [sys.executable, str(HERE / self.folder / "export.py"), *self.arguments, str(out)]
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        if ended.returncode:
            raise RuntimeError(
                f"{self.folder}/export.py ended with {ended.returncode}: {ended.stderr[-2000:]}"
            )


_PYTORCH = (
    "residual", "bottleneck", "pre_activation", "regnet", "depthwise_separable", "inverted_residual",
    "efficientnet", "mobilenet_v3", "mobilenet_v4", "channel_shuffle", "ghost", "inception", "dense",
    "split_attention", "nasnet", "convnext", "unet", "siamese", "two_inputs", "two_outputs", "class_map",
    "signal", "volume",
)  # fmt: skip

EXPORTERS = {
    "pytorch-torchscript": Exporter("pytorch", ("torchscript",), ("torch", "onnx"), _PYTORCH),
    "pytorch-dynamo": Exporter("pytorch", ("dynamo",), ("torch", "onnxscript"), _PYTORCH),
    "tensorflow": Exporter(
        "tensorflow", (), ("tensorflow", "tf2onnx"),
        ("residual", "efficientnet", "depthwise_separable", "inception", "class_map", "signal", "volume"),
    ),
    "jax": Exporter(
        "jax", (), ("flax", "jax2onnx"), ("residual", "inverted_residual", "convnext", "dense", "signal")
    ),
    "paddle": Exporter(
        "paddle", (), ("paddle", "paddle2onnx"),
        ("residual", "mobilenet_v3", "channel_shuffle", "dense", "signal"),
    ),
}  # fmt: skip

OUTPUTS = {"two_outputs": 2}
"""Files with several outputs, each of them explained."""

SPATIAL = {"signal": 1, "volume": 3}
"""Spatial dimensions where they are not two."""
