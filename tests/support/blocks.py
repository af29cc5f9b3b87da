"""Small networks around well-known blocks. Input "x" [N, 3, 5, 5], class scores "y" [N, 4].

Every network is  x -> c0 = Conv -> r0 = Relu -> block ("b") -> top = Relu -> GlobalAveragePool -> Gemm.
"""

from __future__ import annotations

import functools
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
        pad, group = kernel // 2, attributes.get("group", 1)
        assert isinstance(group, int)
        operands = [
            source,
            self.weight(f"w_{output}", outputs, inputs // group, kernel, kernel),
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


def dense_block(net: Net, *, running: bool = False) -> None:
    """Two layers, each of which sees all features before it; joined anew each time, or running along."""
    net.conv("r0", "c1", CHANNELS, 2)
    net.add("Relu", ["c1"], "r1")
    net.add("Concat", ["r0", "r1"], "k1", axis=1)
    net.conv("k1", "c2", CHANNELS + 2, 2)
    net.add("Relu", ["c2"], "r2")
    net.add("Concat", ["k1", "r2"] if running else ["r0", "r1", "r2"], "b", axis=1)


def bottleneck(net: Net) -> None:
    """1x1, 3x3, 1x1 beside a projection."""
    net.conv("r0", "c1", CHANNELS, 2, 1)
    net.add("Relu", ["c1"], "r1")
    net.conv("r1", "c2", 2, 2)
    net.add("Relu", ["c2"], "r2")
    net.conv("r2", "c3", 2, 4, 1)
    net.conv("r0", "p", CHANNELS, 4, 1)
    net.add("Add", ["p", "c3"], "b")


def gated_residual(net: Net) -> None:
    """A channel gate on the branch of a residual block: a fork inside a fork."""
    net.conv("r0", "c1", CHANNELS, CHANNELS)
    net.add("GlobalAveragePool", ["c1"], "g")
    net.conv("g", "h1", CHANNELS, 2, 1)
    net.add("Relu", ["h1"], "q1")
    net.conv("q1", "h2", 2, CHANNELS, 1)
    net.add("Sigmoid", ["h2"], "gate")
    net.add("Mul", ["c1", "gate"], "m")
    net.add("Add", ["m", "r0"], "b")


def channel_shuffle(net: Net) -> None:
    """One part of the channels passes, the other is convolved; then the channels of both take turns."""
    net.add("Split", ["r0", net.constant("parts", np.array([1, 2]))], "left", axis=1)
    net.nodes[-1].output.append("right")
    net.conv("right", "c1", 2, 3, 1)
    net.add("Relu", ["c1"], "r1")
    net.conv("r1", "c2", 3, 3, group=3)
    net.add("Concat", ["left", "c2"], "k", axis=1)
    net.add("Reshape", ["k", net.constant("grouped", np.array([0, 2, 2, SIZE, SIZE]))], "s1")
    net.add("Transpose", ["s1"], "s2", perm=[0, 2, 1, 3, 4])
    net.add("Reshape", ["s2", net.constant("flattened", np.array([0, 4, SIZE, SIZE]))], "b")


def ghost(net: Net) -> None:
    """Half of the features are computed cheaply from the other half, cut to size and added to the skip."""
    net.conv("r0", "c1", CHANNELS, 2, 1)
    net.add("Relu", ["c1"], "r1")
    net.conv("r1", "c2", 2, 2, group=2)
    net.add("Relu", ["c2"], "r2")
    net.add("Concat", ["r1", "r2"], "k", axis=1)
    bounds = [net.constant(name, np.array([at])) for name, at in (("from", 0), ("to", CHANNELS), ("of", 1))]
    net.add("Slice", ["k", *bounds], "cut")
    net.add("Add", ["cut", "r0"], "b")


def split_attention(net: Net) -> None:
    """Two groups of features weighted by a softmax over the groups."""
    net.conv("r0", "u", CHANNELS, 4)
    net.add("Split", ["u"], "u1", axis=1, num_outputs=2)
    net.nodes[-1].output.append("u2")
    net.add("Add", ["u1", "u2"], "s")
    net.add("GlobalAveragePool", ["s"], "g")
    net.conv("g", "h", 2, 4, 1)
    net.add("Reshape", ["h", net.constant("by_group", np.array([0, 2, 2, 1, 1]))], "hg")
    net.add("Softmax", ["hg"], "w", axis=1)
    net.add("Reshape", ["w", net.constant("by_channel", np.array([0, 4, 1, 1]))], "wc")
    net.add("Split", ["wc"], "w1", axis=1, num_outputs=2)
    net.nodes[-1].output.append("w2")
    net.add("Mul", ["u1", "w1"], "m1")
    net.add("Mul", ["u2", "w2"], "m2")
    net.add("Add", ["m1", "m2"], "a")
    net.conv("r0", "p", CHANNELS, 2, 1)
    net.add("Add", ["a", "p"], "b")


BLOCKS: dict[str, tuple[Callable[[Net], None], int]] = {
    "residual": (residual, CHANNELS),
    "inception": (inception, 6),
    "squeeze-and-excitation": (squeeze_and_excitation, CHANNELS),
    "dense": (dense_block, CHANNELS + 4),
}
MORE_BLOCKS: dict[str, tuple[Callable[[Net], None], int]] = {
    "bottleneck": (bottleneck, 4),
    "gated-residual": (gated_residual, CHANNELS),
    "channel-shuffle": (channel_shuffle, 4),
    "ghost": (ghost, CHANNELS),
    "split-attention": (split_attention, 2),
}
SPINE = ("x", "c0", "r0", "b", "top")


def spine_of(name: str) -> tuple[str, ...]:
    """The spine of a network around one block."""
    inside = {"dense": ("k1",), "channel-shuffle": ("k", "s1", "s2")}.get(name, ())
    return (*SPINE[:3], *inside, *SPINE[3:])


def network(name: str, *, seed: int = 0, batch: int | str = "n") -> ModelProto:
    """A network around one block of `BLOCKS` or `MORE_BLOCKS`; its spine is `spine_of(name)`."""
    return _around(*(BLOCKS | MORE_BLOCKS)[name], seed, batch)


def as_analysed(name: str) -> ModelProto:
    """The same network as its plan sees it, for replicas: a dense block with running concatenation."""
    block, channels = (BLOCKS | MORE_BLOCKS)[name]
    return _around(functools.partial(block, running=True) if name == "dense" else block, channels, 0, "n")


def _around(block: Callable[[Net], None], channels: int, seed: int, batch: int | str) -> ModelProto:
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
