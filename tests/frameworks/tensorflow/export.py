"""Export every network with tf2onnx.

    python tests/frameworks/tensorflow/export.py FOLDER [NAME...]

Needs tensorflow and tf2onnx, and not naflow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow
import tf2onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from frameworks.tensorflow.networks import NETWORKS, make


def main(folder: str, *names: str) -> None:
    """Write the named networks, or all; the size of the batch is left open."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or NETWORKS:
        _, shape = NETWORKS[name]
        network = make(name)
        signature = [tensorflow.TensorSpec((None, *shape), tensorflow.float32, name="input")]
        function = tensorflow.function(
            lambda x, net=network: net(x, training=False), input_signature=signature
        )
        tf2onnx.convert.from_function(
            function, input_signature=signature, opset=17, output_path=str(Path(folder) / f"{name}.onnx")
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
