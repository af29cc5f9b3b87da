"""Small networks around well-known blocks. Input "x" [N, 3, 5, 5], class scores "y" [N, 4].

Every network is  x -> c0 = Conv -> r0 = Relu -> block ("b") -> top = Relu -> GlobalAveragePool -> Gemm.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, helper

from support.onnx_graphs import make_model

CHANNELS = 3
SIZE = 5


class Net:
    """Collects nodes and weights."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._random = np.random.default_rng(seed)

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = value
        return name

    def weight(self, name: str, *shape: int, scale: float | None = None) -> str:
        scale = scale or 1.2 / np.sqrt(np.prod(shape[1:]) or 1)
        return self.constant(name, (self._random.normal(size=shape) * scale).astype(np.float32))

    def bias(self, name: str, count: int) -> str:
        return self.constant(name, self._random.uniform(-0.2, 0.3, count).astype(np.float32))

    def conv(
        self, source: str, output: str, inputs: int, outputs: int, kernel: int = 3, **attributes: object
    ) -> str:
        pad = kernel // 2
        operands = [
            source,
            self.weight(f"w_{output}", outputs, inputs, kernel, kernel),
            self.bias(f"b_{output}", outputs),
        ]
        return self.add("Conv", operands, output, pads=[pad] * 4, **attributes)

    def dense(self, source: str, output: str, inputs: int, outputs: int) -> str:
        operands = [source, self.weight(f"w_{output}", inputs, outputs), self.bias(f"b_{output}", outputs)]
        return self.add("Gemm", operands, output)

    def model(self, batch: int | str = "n", channels: int = 3, size: int = SIZE) -> ModelProto:
        return make_model(self.nodes, {"x": (batch, channels, size, size)}, constants=self.constants)


def residual(net: Net) -> None:
    """conv - relu - conv, added to the skip."""
    net.conv("r0", "c1", CHANNELS, CHANNELS)
    net.add("Relu", ["c1"], "r1")
    net.conv("r1", "c2", CHANNELS, CHANNELS)
    net.add("Add", ["c2", "r0"], "b")


def inception(net: Net) -> None:
    """1x1, 3x3 and pooled branches, concatenated."""
    net.conv("r0", "p1", CHANNELS, 2, 1)
    net.add("Relu", ["p1"], "q1")
    net.conv("r0", "p2", CHANNELS, 2)
    net.add("AveragePool", ["r0"], "m", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    net.conv("m", "p3", CHANNELS, 2, 1)
    net.add("Concat", ["q1", "p2", "p3"], "b", axis=1)


def squeeze_and_excitation(net: Net) -> None:
    """A gate per channel from the globally pooled features."""
    net.add("GlobalAveragePool", ["r0"], "g")
    net.add("Flatten", ["g"], "f")
    net.dense("f", "d1", CHANNELS, 3)
    net.add("Relu", ["d1"], "e1")
    net.dense("e1", "d2", 3, CHANNELS)
    net.add("Sigmoid", ["d2"], "s")
    net.add("Reshape", ["s", net.constant("shape", np.array([0, CHANNELS, 1, 1]))], "gate")
    net.add("Mul", ["r0", "gate"], "b")


def dense_block(net: Net) -> None:
    """Two layers, each of which sees all features before it."""
    net.conv("r0", "c1", CHANNELS, 2)
    net.add("Relu", ["c1"], "r1")
    net.add("Concat", ["r0", "r1"], "k1", axis=1)
    net.conv("k1", "c2", CHANNELS + 2, 2)
    net.add("Relu", ["c2"], "r2")
    net.add("Concat", ["r0", "r1", "r2"], "b", axis=1)


BLOCKS: dict[str, tuple[Callable[[Net], None], int]] = {
    "residual": (residual, CHANNELS),
    "inception": (inception, 6),
    "squeeze-and-excitation": (squeeze_and_excitation, CHANNELS),
    "dense": (dense_block, CHANNELS + 4),
}
SPINE = ("x", "c0", "r0", "b", "top")


def network(name: str, *, seed: int = 0, batch: int | str = "n") -> ModelProto:
    """A network around one block of `BLOCKS`; its spine is `SPINE`."""
    block, channels = BLOCKS[name]
    net = Net(seed)
    net.conv("x", "c0", 3, CHANNELS)
    net.add("Relu", ["c0"], "r0")
    block(net)
    net.add("Relu", ["b"], "top")
    net.add("GlobalAveragePool", ["top"], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.dense("flat", "y", channels, 4)
    return net.model(batch)


def picture(seed: int = 0, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)
