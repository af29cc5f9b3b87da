"""Export every network with paddle2onnx.

    python tests/frameworks/paddle/export.py FOLDER [NAME...]

Needs paddlepaddle and paddle2onnx, and not naflow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import paddle

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from frameworks.paddle.networks import NETWORKS, make


def main(folder: str, *names: str) -> None:
    """Write the named networks, or all; the size of the batch is left open."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or NETWORKS:
        _, shape = NETWORKS[name]
        signature = [paddle.static.InputSpec([None, *shape], "float32", name="input")]
        paddle.onnx.export(make(name), str(Path(folder) / name), input_spec=signature, opset_version=16)


if __name__ == "__main__":
    main(*sys.argv[1:])
