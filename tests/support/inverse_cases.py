"""One row per inverse rule and attribute case.

`law` names what the rule is held to (see tests/naflow_core/inverse/test_exact_rules.py):
    bijection   f(f^-1(y)) = y for every y in the range of f
    same-sign   the same, for y = f(x) with x of the forward input's signs (f forgets the sign)
    linear      f^-1(y) is the Moore-Penrose preimage under the explicit Jacobian and affine offset
    gate        f^-1(c y0) = c x0, and 0 where y0 = 0
    frozen      f with the statistics of the forward pass held: f(f^-1(y)) = y, 0 where the scale is 0
    quantised   dequantising and quantising give back the same integers
    unpool      see tests/naflow_core/inverse/test_max_unpool.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from support.op_case import floats, ints, positive, scalar


@dataclass(frozen=True)
class Row:
    """A node whose input number `position` is solved for; the others are constants."""

    op_type: str
    rule: str
    law: str
    inputs: tuple[np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    position: int = 0
    opset: int = 18
    frozen: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    domain: str = ""

    def __str__(self) -> str:
        shape = "x".join(map(str, self.inputs[self.position].shape))
        attributes = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op_type}@{self.position}[{shape}]({attributes})"


X = floats(2, 3, 4, 6)
CHANNELS = np.array([2.0, -0.5, 0.0], np.float32)  # a dead one among them
SLOPES = np.array([0.25, -0.3, -1.5], np.float32)


def _scalar_functions() -> list[Row]:
    def rows(op: str, *attributes: dict[str, Any], x: np.ndarray = X, **more: Any) -> list[Row]:
        name = more.pop("rule", f"{op.lower()}-inverse")
        law = more.pop("law", "bijection")
        return [Row(op, name, law, (x, *more.get("inputs", ())), a) for a in attributes or ({},)]

    identity = {"rule": "identity-on-retained"}
    found = [
        *rows("Relu", **identity),
        *rows("ThresholdedRelu", {}, {"alpha": 0.5}, **identity),
        *rows("Clip", **identity, inputs=(scalar(0.0), scalar(1.5))),
        *rows("Clip", **identity, inputs=(scalar(-1.0),)),
        *rows("Max", **identity, inputs=(scalar(0.0),)),
        *rows("Max", **identity, inputs=(np.float32([[0.0]]), scalar(-1.0))),
        *rows("Min", **identity, inputs=(scalar(0.5),)),
        *rows("LeakyRelu", {}, {"alpha": 0.3}, {"alpha": 2.0}, rule="leaky-relu-inverse"),
        *rows("PRelu", rule="prelu-inverse", inputs=(positive(3, 1, 1),)),
        *rows("PRelu", rule="prelu-inverse", inputs=(positive(1),)),
        *rows("LeakyRelu", {"alpha": -0.5}, rule="leaky-relu-inverse", law="same-sign"),
        *rows("PRelu", rule="prelu-inverse", law="same-sign", inputs=(SLOPES.reshape(3, 1, 1),)),
        *rows("Elu", {}, {"alpha": 0.3}, {"alpha": 2.0}),
        *rows("Selu", {}, {"alpha": 1.2, "gamma": 0.7}),
        *rows("Celu", {}, {"alpha": 0.3}, {"alpha": 2.0}),
        *rows("Softplus"),
        *rows("Softsign"),
        *rows("Sigmoid"),
        *rows("Tanh"),
        *rows("Exp"),
        *rows("Log", x=positive(2, 3, 4)),
        *rows("Sqrt", x=positive(2, 3, 4)),
        *rows("Reciprocal", x=positive(2, 3, 4) * np.float32([[[1], [-1], [1]]])),
        *rows("Neg"),
        *rows("Asinh"),
        *rows("Atanh", x=np.tanh(X)),
        *rows("Sinh"),
    ]
    for exponent in (3.0, -1.0, 1.0, 5.0):
        found.append(Row("Pow", "power-inverse", "bijection", (floats(2, 3, 4) + 0.06, scalar(exponent))))
    for exponent in (0.5, -0.5, 1.7, 0.1):
        found.append(Row("Pow", "power-inverse", "bijection", (positive(2, 3, 4), scalar(exponent))))
    for exponent in (2.0, 4.0):
        found.append(Row("Pow", "power-inverse", "same-sign", (floats(2, 3, 4), scalar(exponent))))
    for op, attributes, opset in (
        ("HardSigmoid", {}, 18),
        ("HardSigmoid", {"alpha": 0.1, "beta": 0.3}, 18),
        ("HardSwish", {}, 18),
        ("Mish", {}, 18),
        ("Gelu", {}, 20),
        ("Gelu", {"approximate": "tanh"}, 20),
        ("Swish", {"alpha": 1.5}, 24),
        ("LRN", {"size": 3, "alpha": 0.5}, 18),
    ):
        found.append(Row(op, "frozen-gate", "gate", (X,), attributes, opset=opset))
    for op, attributes in (("Gelu", {}), ("FastGelu", {}), ("QuickGelu", {}), ("QuickGelu", {"alpha": 1.1})):
        found.append(Row(op, "frozen-gate", "gate", (X,), attributes, domain="com.microsoft"))
    return found


def _arithmetic() -> list[Row]:
    c = CHANNELS.reshape(3, 1, 1)
    other = np.where(np.abs(floats(2, 3, 4, 6, seed=5)) < 0.3, 0.0, floats(2, 3, 4, 6, seed=5)).astype(
        np.float32
    )
    rows = []
    for op, position, operand in (
        *(("Add", p, o) for p in (0, 1) for o in (scalar(1.5), c, other)),
        *(("Sub", p, o) for p in (0, 1) for o in (scalar(1.5), other)),
        *(("Mul", p, o) for p in (0, 1) for o in (scalar(-2.0), c, other)),
        ("Div", 0, scalar(-2.0)),
        ("Div", 0, positive(3, 1, 1)),
    ):
        rows.append(
            Row(op, "affine", "linear", (X, operand) if position == 0 else (operand, X), {}, position)
        )
    rows.append(Row("Sum", "affine", "linear", (X, c, other)))
    rows.append(Row("Sum", "affine", "linear", (c, X), {}, 1))
    batch = (CHANNELS, floats(3, seed=1), floats(3, seed=2), positive(3))
    rows.append(Row("BatchNormalization", "affine", "linear", (X, *batch), {"epsilon": 1e-3}))
    rows.append(Row("BatchNormalization", "affine", "linear", (floats(4, 3), *batch)))
    return rows


def _standardise(x: np.ndarray, x0: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    mean, variance = x0.mean(axes, keepdims=True), x0.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


def _normalisations() -> list[Row]:
    scale, bias, c4 = CHANNELS, floats(3, seed=1), (1, 3, 1, 1)
    six, six_bias = np.array([1, -2, 0, 0.5, 3, 1], np.float32), floats(6, seed=3)

    def instance(x: np.ndarray, x0: np.ndarray) -> np.ndarray:
        return _standardise(x, x0, (2, 3), 1e-2) * scale.reshape(c4) + bias.reshape(c4)

    def layer(x: np.ndarray, x0: np.ndarray) -> np.ndarray:
        return _standardise(x, x0, (3,), 1e-5) * six + six_bias

    def layer_from_one(x: np.ndarray, x0: np.ndarray) -> np.ndarray:
        return _standardise(x, x0, (1, 2, 3), 1e-2) * positive(3, 4, 6)

    def group(per_channel: np.ndarray, shift: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        def apply(x: np.ndarray, x0: np.ndarray) -> np.ndarray:
            shape = (x.shape[0], 3, -1)
            normal = _standardise(x.reshape(shape), x0.reshape(shape), (2,), 1e-5).reshape(x.shape)
            return normal * per_channel.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)

        return apply

    grouped = floats(2, 6, 4, 3)

    def mean_variance(x: np.ndarray, x0: np.ndarray) -> np.ndarray:
        return _standardise(x, x0, (1, 2, 3), 0.0)

    def root_mean_square(x: np.ndarray, x0: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.square(x0).mean(axis=3, keepdims=True) + 1e-2) * six

    def length(order: int, axis: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda x, x0: x / np.linalg.norm(x0, order, axis, keepdims=True)

    def row(
        op: str, frozen: Callable[..., np.ndarray], *inputs: np.ndarray, opset: int = 18, **attributes: Any
    ) -> Row:
        kind = op.removesuffix("Normalization").lower()
        name = f"{kind}-normalization-inverse"
        return Row(op, name, "frozen", inputs, attributes, opset=opset, frozen=frozen)

    per_group, per_channel = group(np.repeat(scale, 2), np.repeat(bias, 2)), group(six, six_bias)
    return [
        row("InstanceNormalization", instance, X, scale, bias, epsilon=1e-2),
        row("LayerNormalization", layer, X, six, six_bias),
        row("LayerNormalization", layer_from_one, X, positive(3, 4, 6), axis=1, epsilon=1e-2),
        row("GroupNormalization", per_group, grouped, scale, bias, num_groups=3),
        row("GroupNormalization", per_channel, grouped, six, six_bias, opset=21, num_groups=3),
        Row("MeanVarianceNormalization", "mean-variance-normalization-inverse", "frozen", (X,),
            {"axes": (1, 2, 3)}, frozen=mean_variance),
        Row("RMSNormalization", "rms-normalization-inverse", "frozen", (X, six), {"epsilon": 1e-2}, opset=23,
            frozen=root_mean_square),
        Row("LpNormalization", "lp-normalization-inverse", "frozen", (X,), {"axis": 1}, frozen=length(2, 1)),
        Row("LpNormalization", "lp-normalization-inverse", "frozen", (X,), {"p": 1}, frozen=length(1, 3)),
    ]  # fmt: skip


def _rearrangements() -> list[Row]:
    def row(op: str, *inputs: np.ndarray | None, x: np.ndarray = X, **attributes: Any) -> Row:
        return Row(op, "rearrangement", "linear", (x, *inputs), attributes)

    deep = floats(2, 12, 3, 4)
    return [
        *(Row(op, "passthrough", "linear", (X,)) for op in ("Identity", "Dropout")),
        Row("Cast", "passthrough", "linear", (X,), {"to": 1}),
        row("Transpose"),
        row("Transpose", perm=(0, 2, 3, 1)),
        row("Reshape", ints(0, 2, 6, 6)),
        row("Flatten"),
        row("Flatten", axis=3),
        row("Squeeze", ints(2), x=floats(2, 3, 1, 4)),
        row("Unsqueeze", ints(1, 4)),
        row("Slice", ints(1, 5), ints(3, 0), ints(1, 3), ints(1, -2)),
        row("Slice", ints(0), ints(-1), ints(-1)),
        row("DepthToSpace", x=deep, blocksize=2),
        row("DepthToSpace", x=deep, blocksize=2, mode="CRD"),
        row("SpaceToDepth", x=X, blocksize=2),
        row("Pad", ints(0, 0, 1, 2, 0, 1, 0, 3), scalar(1.5)),
        Row("Pad", "rearrangement", "bijection", (X, ints(0, 0, -1, 2, 0, 0, 1, -2))),  # negative: cropped
        Row("Concat", "rearrangement", "linear", (X, floats(2, 2, 4, 6)), {"axis": 1}),
        Row("Concat", "rearrangement", "linear", (floats(2, 2, 4, 6), X), {"axis": 1}, 1),
        Row("Concat", "rearrangement", "linear", (X, floats(2, 3, 1, 6)), {"axis": -2}),
    ]


DISTINCT = np.random.default_rng(0).permutation(48).reshape(2, 4, 6).astype(np.float32)


def _indexed() -> list[Row]:
    def row(op: str, rule: str, *inputs: np.ndarray | None, x: np.ndarray = DISTINCT, **more: Any) -> Row:
        position = more.pop("position", 0)
        values = (*inputs[:position], x, *inputs[position:])
        return Row(op, rule, "linear", values, more, position)

    twice, pairs = ints(2, 0, 2, -1), np.array([[0, 1], [1, -1], [0, 1]])
    places = np.array([5, 7, 13, 15, 16, 18, 30, 24]).reshape(1, 2, 2, 2)
    some = np.array([[[2, 0, 1]]]) + np.zeros((2, 4, 1), np.int64)
    return [
        row("Gather", "mean-of-copies", twice, axis=1),
        row("Gather", "mean-of-copies", np.array(1), axis=2),
        row("GatherElements", "mean-of-copies", np.arange(36).reshape(2, 3, 6) * 5 % 4, axis=1),
        row("GatherND", "mean-of-copies", pairs),
        row("Expand", "mean-of-copies", ints(3, 2, 4, 6)),
        row("Expand", "mean-of-copies", ints(2, 3, 6), x=floats(2, 1, 6)),
        row("Tile", "mean-of-copies", ints(1, 2, 3)),
        row("ScatterElements", "scattered", some, floats(2, 4, 3), axis=2),
        row("ScatterElements", "scattered", some, floats(2, 4, 3), axis=2, reduction="add"),
        row("ScatterElements", "scattered", DISTINCT, some, x=floats(2, 4, 3), axis=2, position=2),
        row("ScatterND", "scattered", pairs[:2], floats(2, 6)),
        row("ScatterND", "scattered", DISTINCT, pairs[:2], x=floats(2, 6), position=2),
        row("TopK", "rearrangement", ints(2)),
        row("TopK", "rearrangement", ints(3), axis=1, largest=0),
        row("Compress", "rearrangement", np.array([True, False, True]), axis=1),
        row("ReverseSequence", "rearrangement", ints(3, 2), batch_axis=0, time_axis=1),
        row("Trilu", "rearrangement"),
        row("CenterCropPad", "rearrangement", ints(2, 9), axes=(1, 2)),
        row("MaxUnpool", "rearrangement", places, x=floats(1, 2, 2, 2), kernel_shape=(2, 2), strides=(2, 2)),
    ]


def _replications() -> list[Row]:
    def row(op: str, *inputs: np.ndarray | None, x: np.ndarray = X, **attributes: Any) -> Row:
        return Row(op, "replication", "linear", (x, *inputs), attributes)

    square, odd = (2, 2), floats(2, 2, 5, 7)
    tiles = {"kernel_shape": (3, 3), "strides": (3, 3)}
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = np.array([1, 1, 2, 3], np.float32)
    return [
        row("GlobalAveragePool"),
        row("GlobalAveragePool", x=floats(2, 3, 7)),
        row("ReduceMean", ints(2, 3)),
        row("ReduceMean", ints(1), keepdims=0),
        row("ReduceMean"),
        row("AveragePool", kernel_shape=square, strides=square),
        row("AveragePool", kernel_shape=(3,), strides=(3,), x=floats(2, 3, 9)),
        row("AveragePool", kernel_shape=square, strides=square, x=odd),
        row("AveragePool", kernel_shape=square, strides=square, ceil_mode=1, x=odd),
        row("AveragePool", kernel_shape=(2, 3), strides=(3, 3), x=odd),
        *(row("AveragePool", **tiles, pads=(1, 1, 1, 1), count_include_pad=count, x=odd) for count in (0, 1)),
        row("AveragePool", kernel_shape=square, strides=square, auto_pad="SAME_UPPER", x=odd),
        Row("AveragePool", "replication", "linear", (odd,),
            {"kernel_shape": (2, 3), "strides": (3, 5), "dilations": (2, 2)}, opset=19),
        Row("Resize", "mean-of-copies", "linear", (X, None, up), nearest),
        Row("Resize", "mean-of-copies", "linear", (X, None, None, ints(2, 3, 8, 6)), {"mode": "nearest"}),
    ]  # fmt: skip


def _quantised() -> list[Row]:
    scales = positive(3)
    rows = []
    for op, rule in (("QuantizeLinear", "dequantise"), ("DequantizeLinear", "affine")):
        rows += [
            Row(op, rule, "quantised", (X, scalar(0.25), np.array(128, np.uint8))),
            Row(op, rule, "quantised", (X, scales, np.array([1, -2, 0], np.int8)), {"axis": 1}),
            Row(op, rule, "quantised", (X, positive(6), np.zeros(6, np.int8)), {"axis": -1}),
            Row(op, rule, "quantised", (X, positive(2, 3, 4, 2), np.zeros((2, 3, 4, 2), np.int8)),
                {"axis": 3, "block_size": 3}, opset=21),
        ]  # fmt: skip
    return rows


POOL_ATTRIBUTES: list[dict[str, Any]] = [
    {"kernel_shape": (2, 2), "strides": (2, 2)},
    {"kernel_shape": (3, 3), "strides": (2, 2)},
    {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    {"kernel_shape": (3, 2), "pads": (0, 1, 2, 0)},
    {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1},
    {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1, "pads": (1, 1, 1, 1)},
    {"kernel_shape": (3, 2), "dilations": (2, 3), "strides": (2, 1)},
    {"kernel_shape": (2, 3), "dilations": (3, 2), "strides": (2, 2), "ceil_mode": 1},
    {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_UPPER"},
    {"kernel_shape": (3, 2), "strides": (2, 3), "auto_pad": "SAME_LOWER"},
]


def _max_pools() -> list[Row]:
    x = positive(2, 2, 9, 8)
    rows = [Row("MaxPool", "unpool-to-argmax", "unpool", (x,), a) for a in POOL_ATTRIBUTES]
    line = {"kernel_shape": (3,), "strides": (2,), "pads": (1, 1)}
    rows.append(Row("MaxPool", "unpool-to-argmax", "unpool", (positive(2, 3, 11),), line))
    return rows


ROWS = [
    *_scalar_functions(),
    *_arithmetic(),
    *_normalisations(),
    *_rearrangements(),
    *_indexed(),
    *_replications(),
    *_quantised(),
    *_max_pools(),
]
