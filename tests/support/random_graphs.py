"""Small convolutional networks composed by chance: a seed gives the same network again.

Input "x" [n, channels, height, width], class scores "y" [n, 3]. A network is a stem, a few layers and blocks
one after another, and a head. Weights are of order one, so that activations neither vanish nor explode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from support.blocks import Net
from support.onnx_graphs import make_model

CLASSES = 3
MOST_NEURONS = 500
PLAIN = ("Relu",) * 8 + ("Sigmoid", "Tanh", "HardSwish", "Mish", "Softplus", "Softsign", "Identity", "Neg")
SHAPED = ("LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "HardSigmoid", "ThresholdedRelu", "Clip", "Abs")


@dataclass(frozen=True)
class Maps:
    """A tensor [n, channels, height, width] of the network under construction."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def named(self, name: str) -> Maps:
        """Another tensor of the same size."""
        return Maps(name, *self.shape)


class Grower(Net):
    """Adds layers whose operators and attributes are drawn."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.chance = np.random.default_rng([seed, 1])
        self.opset = self.pick([18, 21])

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.chance.integers(len(choices)))]

    def coin(self) -> bool:
        return bool(self.chance.random() < 0.5)

    def divisor(self, number: int) -> int:
        return int(self.pick([n for n in range(1, number + 1) if number % n == 0]))

    def name(self, stem: str) -> str:
        return f"{stem}_{len(self.nodes)}_{len(self.constants)}"

    def put(self, op: str, *inputs: str, **attributes: object) -> str:
        return self.add(op, list(inputs), self.name(op.lower()), **attributes)

    def integers(self, *values: int) -> str:
        return self.constant(self.name("integers"), np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(self.name("number"), np.float32(value))

    def uniform(self, low: float, high: float, *shape: int) -> str:
        values = self.chance.uniform(low, high, shape).astype(np.float32)
        return self.constant(self.name("weights"), values)

    def kernel(self, *shape: int) -> str:
        return self.weight(self.name("kernel"), *shape)

    def split(self, source: str, parts: Sequence[int]) -> list[str]:
        first = self.put("Split", source, self.integers(*parts), axis=1)
        rest = [f"{first}_{i}" for i in range(1, len(parts))]
        self.nodes[-1].output.extend(rest)
        return [first, *rest]


Layer = Callable[[Grower, Maps], Maps]
Ending = Callable[[Grower, Maps], None]


def conv(g: Grower, x: Maps, channels: int | None = None, *, same: bool = False) -> Maps:
    """Groups, strides, dilations, even kernels, one-sided pads, auto_pad."""
    out = channels or int(g.chance.integers(2, 7))
    groups = g.divisor(math.gcd(x.channels, out))
    if same:
        k, s, d = g.pick([(1, 1, 1), (3, 1, 1), (3, 1, 2)])
        before = after = d * (k - 1) // 2
    else:
        kinds = [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2)]
        k, s, d = g.pick([kind for kind in kinds if kind[2] * (kind[0] - 1) < min(x.height, x.width)])
        before, after = (int(g.chance.integers(0, d * (k - 1) // 2 + 1)) for _ in range(2))
    height, width = ((n + before + after - d * (k - 1) - 1) // s + 1 for n in (x.height, x.width))
    attributes: dict[str, object] = {"strides": [s, s], "dilations": [d, d], "group": groups}
    if not same and d == 1 and g.coin():
        attributes["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER"])
        height, width = -(-x.height // s), -(-x.width // s)
    else:
        attributes["pads"] = [before, before, after, after]
    bias = [g.uniform(-0.2, 0.3, out)] if g.coin() else []
    y = g.put("Conv", x.name, g.kernel(out, x.channels // groups, k, k), *bias, **attributes)
    return Maps(y, out, height, width)


def depthwise(g: Grower, x: Maps) -> Maps:
    kernel = g.kernel(x.channels, 1, 3, 3)
    return x.named(g.put("Conv", x.name, kernel, group=x.channels, pads=[1] * 4))


def conv_transpose(g: Grower, x: Maps) -> Maps:
    k, s, p = g.pick([(2, 1, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1)])
    groups = g.divisor(math.gcd(x.channels, 2))
    out = groups * int(g.chance.integers(1, 3))
    extra = int(s > 1 and g.coin())
    y = g.put(
        "ConvTranspose", x.name, g.kernel(x.channels, out // groups, k, k), g.uniform(-0.2, 0.2, out),
        strides=[s, s], pads=[p] * 4, group=groups, output_padding=[extra, extra],
    )  # fmt: skip
    height, width = (s * (n - 1) + k - 2 * p + extra for n in (x.height, x.width))
    return Maps(y, out, height, width)


def activation(g: Grower, x: Maps) -> Maps:
    kind = g.pick([*PLAIN, *SHAPED, "Swish", "Gelu", "ErfGelu"])
    if kind == "PRelu":
        y = g.put(kind, x.name, g.uniform(0.05, 0.5, x.channels, 1, 1))
    elif kind in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu"):
        y = g.put(kind, x.name, alpha=float(g.pick([0.1, 0.5, 1.0])))
    elif kind == "Clip":
        y = g.put(kind, x.name, g.number(0.0), g.number(g.pick([1.0, 6.0])))
    elif kind == "Swish":
        y = g.put("Mul", x.name, g.put("Sigmoid", x.name))
    elif kind == "ErfGelu" or (kind == "Gelu" and g.opset < 20):
        error = g.put("Erf", g.put("Div", x.name, g.number(2**0.5)))
        y = g.put("Mul", g.put("Mul", x.name, g.put("Add", error, g.number(1.0))), g.number(0.5))
    elif kind == "Gelu":
        y = g.put(kind, x.name, approximate=g.pick(["none", "tanh"]))
    else:
        y = g.put(kind, x.name)
    return x.named(y)


def normalisation(g: Grower, x: Maps) -> Maps:
    """Over batch, picture, channels or groups; the smallest epsilons would only amplify rounding."""
    c = x.channels
    scale, shift = g.uniform(0.5, 1.5, c), g.uniform(-0.3, 0.3, c)
    kind = g.pick(["batch", "batch", "instance", "group", "lrn", "layer" if c > 1 else "batch"])
    if kind == "batch":
        y = g.put("BatchNormalization", x.name, scale, shift, g.uniform(-0.5, 0.5, c), g.uniform(0.3, 2, c))
    elif kind == "instance":
        y = g.put("InstanceNormalization", x.name, scale, shift, epsilon=1e-2)
    elif kind == "layer":
        y = g.put("Transpose", x.name, perm=[0, 2, 3, 1])
        y = g.put("LayerNormalization", y, scale, shift, axis=-1, epsilon=1e-2)
        y = g.put("Transpose", y, perm=[0, 3, 1, 2])
    elif kind == "group":
        groups = g.divisor(c)
        if g.opset >= 21:
            y = g.put("GroupNormalization", x.name, scale, shift, num_groups=groups, epsilon=1e-2)
        else:
            y = g.put("Reshape", x.name, g.integers(0, groups, -1))
            ones, shifts = g.uniform(1, 1, groups), g.uniform(0.1, 0.3, groups)  # a mean of 0 is all rounding
            y = g.put("InstanceNormalization", y, ones, shifts, epsilon=1e-2)
            y = g.put("Reshape", y, g.integers(-1, *x.shape))
            y = g.put("Mul", y, g.uniform(0.5, 1.5, c, 1, 1))
    else:
        y = g.put("LRN", x.name, size=int(g.pick([1, 3, 5])), alpha=0.1, beta=0.75, bias=1.0)
    return x.named(y)


def constant_operand(g: Grower, x: Maps) -> Maps:
    """A scalar or a value per channel, per position or per neuron, on either side."""
    c, h, w = x.shape
    shape = g.pick([(), (1,), (c, 1, 1), (1, c, 1, 1), (h, w), (1, c, h, w)])
    op = g.pick(["Add", "Sub", "Mul", "Div", "Max", "Min"])
    low, high = (0.5, 2.0) if op in ("Mul", "Div") else (-0.5, 0.5)
    operands = [x.name, g.uniform(low, high, *shape)]
    if op != "Div" and g.coin():
        operands.reverse()
    return x.named(g.put(op, *operands))


def window(g: Grower, x: Maps) -> Maps:
    """Max, average and Lp pooling: overlap, gaps, ceil_mode, padding counted or not."""
    op = g.pick(["MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool"])
    k, s, p = g.pick([(2, 1, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (3, 2, 0), (1, 2, 0)])
    attributes: dict[str, object] = {"kernel_shape": [k, k], "strides": [s, s], "pads": [p] * 4}
    up = op != "LpPool" and s > 1 and g.coin()
    if up:
        attributes["ceil_mode"] = 1
    if op == "AveragePool":
        attributes["count_include_pad"] = int(g.coin())
    height, width = (pooled(n, k, s, p, up) for n in (x.height, x.width))
    return Maps(g.put(op, x.name, **attributes), x.channels, height, width)


def pooled(size: int, kernel: int, stride: int, pad: int, up: bool) -> int:
    room = size + 2 * pad - kernel
    count = (-(-room // stride) if up else room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad else count  # no window begins in the padding


def same_pool(g: Grower, x: Maps) -> Maps:
    return x.named(g.put(g.pick(["MaxPool", "AveragePool"]), x.name, kernel_shape=[3, 3], pads=[1] * 4))


def pad(g: Grower, x: Maps) -> Maps:
    mode = g.pick(["constant", "reflect", "edge"])
    top, left, bottom, right = (int(n) for n in g.chance.integers(0, 2, 4))
    y = g.put("Pad", x.name, g.integers(0, 0, top, left, 0, 0, bottom, right), mode=mode)
    return Maps(y, x.channels, x.height + top + bottom, x.width + left + right)


def resize(g: Grower, x: Maps) -> Maps:
    """To a computed size."""
    kinds = [("nearest", "asymmetric"), ("linear", "half_pixel"), ("linear", "align_corners")]
    mode, place = g.pick([*kinds, ("cubic", "half_pixel")])
    how = {"mode": mode, "coordinate_transformation_mode": place, "nearest_mode": "floor"}
    height, width = x.height + int(g.chance.integers(-1, 4)), x.width * int(g.pick([1, 2]))
    batch = g.put("Slice", g.put("Shape", x.name), g.integers(0), g.integers(1))
    sizes = g.put("Concat", batch, g.integers(x.channels, height, width), axis=0)
    y = g.put("Resize", x.name, "", "", sizes, **how)
    return Maps(y, x.channels, height, width)


def depth_to_space(g: Grower, x: Maps) -> Maps:
    if x.channels % 4:
        x = conv(g, x, 4, same=True)
    y = g.put("DepthToSpace", x.name, blocksize=2, mode=g.pick(["DCR", "CRD"]))
    return Maps(y, x.channels // 4, 2 * x.height, 2 * x.width)


def space_to_depth(g: Grower, x: Maps) -> Maps:
    h, w = x.height // 2, x.width // 2
    y = g.put("Slice", x.name, g.integers(0, 0), g.integers(2 * h, 2 * w), g.integers(2, 3))
    return Maps(g.put("SpaceToDepth", y, blocksize=2), 4 * x.channels, h, w)


def cut(g: Grower, x: Maps) -> Maps:
    """Some channels, or every other row, from the front or backwards."""
    if x.channels > 2 and g.coin():
        y = g.put("Slice", x.name, g.integers(1), g.integers(x.channels), g.integers(1))
        return Maps(y, x.channels - 1, x.height, x.width)
    if g.coin():
        y = g.put("Slice", x.name, g.integers(-1), g.integers(-99), g.integers(2), g.integers(-1))
        return x.named(y)
    y = g.put("Slice", x.name, g.integers(0), g.integers(x.height), g.integers(2), g.integers(2))
    return Maps(y, x.channels, -(-x.height // 2), x.width)


def shuffle(g: Grower, x: Maps) -> Maps:
    c, h, w = x.shape
    groups = g.divisor(c)
    y = g.put("Reshape", x.name, g.integers(0, groups, c // groups, h, w))
    y = g.put("Transpose", y, perm=[0, 2, 1, 3, 4])
    return x.named(g.put("Reshape", y, g.integers(-1, c, h, w)))


SAME: list[Layer] = [activation, activation, normalisation, depthwise, constant_operand, same_pool, shuffle]
SIZED: list[Layer] = [conv, conv, conv_transpose, window, window, pad, resize, cut]
SIZED += [depth_to_space, space_to_depth]


def chain(g: Grower, x: Maps, layers: Sequence[Layer], most: int = 3) -> Maps:
    for _ in range(int(g.chance.integers(1, most + 1))):
        x = g.pick(layers)(g, x)
    return x


def branch(g: Grower, x: Maps, channels: int) -> Maps:
    """Some layers that keep the size, with a given number of channels at the end."""
    if g.coin():
        x = chain(g, x, SAME, 2)
    x = conv(g, x, channels, same=True)
    return chain(g, x, SAME, 2) if g.coin() else x


def residual(g: Grower, x: Maps) -> Maps:
    """A branch added to (or subtracted from, or compared with) the skip or a projection of it."""
    if g.coin():
        left, right = branch(g, x, x.channels), x
    else:
        channels = int(g.chance.integers(2, 7))
        left, right = branch(g, x, channels), conv(g, x, channels, same=True)
    op = g.pick(["Add", "Add", "Add", "Sub", "Sum", "Mean", "Max"])
    return left.named(g.put(op, left.name, right.name))


def concatenation(g: Grower, x: Maps) -> Maps:
    """Branches side by side; the picture itself may be one of them, as in a dense block."""
    parts = [branch(g, x, int(g.chance.integers(1, 4))) for _ in range(int(g.chance.integers(1, 4)))]
    if g.coin() or len(parts) == 1:
        parts.insert(0, x)
    y = g.put("Concat", *(part.name for part in parts), axis=int(g.pick([1, -3])))
    return Maps(y, sum(part.channels for part in parts), x.height, x.width)


def gate(g: Grower, x: Maps) -> Maps:
    """Neurons, channels or positions weighted by what the features themselves say."""
    c = x.channels
    kind = g.pick(["channels", "dense", "positions", "neurons"])
    if kind == "channels":
        pooling = g.pick(["GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceL2"])
        where = [g.integers(2, 3)] if pooling.startswith("Reduce") else []
        weights = conv_1x1(g, g.put(pooling, x.name, *where), c, c)
    elif kind == "dense":
        y = g.put("Flatten", g.put("GlobalAveragePool", x.name))
        y = g.put("Relu", g.put("Gemm", y, g.kernel(2, c), g.uniform(0, 0.3, 2), transB=1))
        weights = g.put("Reshape", g.put("MatMul", y, g.kernel(2, c)), g.integers(-1, c, 1, 1))
    elif kind == "positions":
        y = g.put(g.pick(["ReduceMean", "ReduceMax", "ReduceSum"]), x.name, g.integers(1))
        other = g.put(g.pick(["ReduceMean", "ReduceMin", "ReduceLogSumExp"]), x.name, g.integers(1))
        y = g.put("Concat", y, other, axis=1)
        weights = g.put("Conv", y, g.kernel(1, 2, 3, 3), pads=[1] * 4)
    else:
        weights = conv_1x1(g, x.name, c, c)
    squashed = g.put(g.pick(["Sigmoid", "HardSigmoid"]), weights)
    return x.named(g.put("Mul", *g.chance.permutation([x.name, squashed]).tolist()))


def conv_1x1(g: Grower, name: str, inputs: int, outputs: int) -> str:
    return g.put("Conv", name, g.kernel(outputs, inputs, 1, 1), g.uniform(-0.2, 0.3, outputs))


def parted(g: Grower, x: Maps) -> Maps:
    """Part of the channels passes, the other goes through a branch; then joined again."""
    if x.channels < 2:
        return residual(g, x)
    first = int(g.chance.integers(1, x.channels))
    left, right = g.split(x.name, [first, x.channels - first])
    other = branch(g, Maps(right, x.channels - first, x.height, x.width), int(g.chance.integers(1, 4)))
    y = Maps(g.put("Concat", left, other.name, axis=1), first + other.channels, x.height, x.width)
    return shuffle(g, y)


def nested(g: Grower, x: Maps) -> Maps:
    """A block on the branch of a residual block."""
    inner = g.pick([gate, residual, parted, concatenation])(g, conv(g, x, 3, same=True))
    return x.named(g.put("Add", x.name, conv(g, inner, x.channels, same=True).name))


BLOCKS: list[Layer] = [residual, concatenation, gate, parted, nested]


def head(g: Grower, x: Maps) -> None:
    kind = g.pick(["GlobalAveragePool", "GlobalMaxPool", "flat", "reduce", "convolution", "shape"])
    if kind == "flat":
        features, count = g.put("Flatten", x.name), x.channels * x.height * x.width
    elif kind == "reduce":
        features, count = g.put("ReduceMean", x.name, g.integers(2, 3), keepdims=0), x.channels
    elif kind == "convolution":
        y = conv_1x1(g, g.put("GlobalAveragePool", x.name), x.channels, CLASSES)
        g.add("Flatten", [y], "y")
        return
    elif kind == "shape":
        y, count = g.put("GlobalAveragePool", x.name), x.channels
        batch = g.put("Gather", g.put("Shape", y), g.integers(0))
        features = g.put("Reshape", y, g.put("Concat", batch, g.integers(-1), axis=0))
    else:
        features, count = g.put("Flatten", g.put(kind, x.name)), x.channels
    if g.coin():
        scores = g.put("Gemm", features, g.kernel(CLASSES, count), g.uniform(-0.2, 0.2, CLASSES), transB=1)
    else:
        scores = g.put("Add", g.put("MatMul", features, g.kernel(count, CLASSES)), g.uniform(0, 0.2, CLASSES))
    g.add(str(g.pick(["Softmax", "LogSoftmax", "Identity"])), [scores], "y")


def random_graph(seed: int, blocks: int = 2, ending: Ending = head) -> tuple[ModelProto, np.ndarray]:
    """The network that a seed stands for, and a batch of pictures for it.

    So many layers or blocks lie between its stem and its ending; fewer give the beginning of the same one.
    """
    g = Grower(seed)
    start = Maps("x", *(int(n) for n in (g.chance.integers(1, 4), *g.chance.integers(6, 10, 2))))
    x = chain(g, conv(g, start), [activation, normalisation], 2)
    for _ in range(blocks):
        x = g.pick([*SAME, *SIZED, *BLOCKS, *BLOCKS])(g, x)
        if x.channels > 6:
            x = conv(g, x, 4, same=True)
        while np.prod(x.shape) > MOST_NEURONS:
            y = g.put("AveragePool", x.name, kernel_shape=[2, 2], strides=[2, 2])
            x = Maps(y, x.channels, x.height // 2, x.width // 2)
        if min(x.height, x.width) < 3:
            y = g.put("Pad", x.name, g.integers(0, 0, 1, 1, 0, 0, 1, 1))
            x = Maps(y, x.channels, x.height + 2, x.width + 2)
    ending(g, x)
    shape = {"x": ("n", *start.shape)}
    model = make_model(g.nodes, shape, constants=g.constants, opset=g.opset, ir_version=10)
    count = int(g.chance.integers(1, 3))
    return model, g.chance.normal(size=(count, *start.shape)).astype(np.float32)
