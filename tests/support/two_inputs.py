"""A Siamese network whose inputs `x` and `z` go through the same layers and are then compared."""

from __future__ import annotations

from onnx import ModelProto

from support.blocks import SIZE, Net
from support.onnx_graphs import make_model


def siamese(size: int = SIZE) -> ModelProto:
    """Two classes from the distance of two pictures [1, 3, size, size]; exchanging them changes nothing."""
    net = Net()
    net.conv("x", "cx", 3, 4)
    net.add("Relu", ["cx"], "rx")
    net.add("Conv", ["z", "w_cx", "b_cx"], "cz", pads=[1] * 4)
    net.add("Relu", ["cz"], "rz")
    net.add("Sub", ["rx", "rz"], "apart")
    net.add("Abs", ["apart"], "distance")
    net.add("GlobalAveragePool", ["distance"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "y", 4, 2)
    shape = (1, 3, size, size)
    return make_model(net.nodes, {"x": shape, "z": shape}, constants=net.constants)
