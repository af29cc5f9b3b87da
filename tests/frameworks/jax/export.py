"""Export every network with jax2onnx.

    python tests/frameworks/jax/export.py FOLDER [NAME...]

Needs jax, flax and jax2onnx, and not naflow.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jax2onnx import to_onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from frameworks.jax.networks import NETWORKS, make


def main(folder: str, *names: str) -> None:
    """Write the named networks, or all; the size of the batch is left open."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or NETWORKS:
        _, shape = NETWORKS[name]
        to_onnx(
            make(name), [("B", *shape)], return_mode="file", output_path=str(Path(folder) / f"{name}.onnx")
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
