"""One row per operator case: what onnxruntime and the operator table must agree on."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from support.op_case import Arrays, Case, floats, ints, positive, scalar
from support.op_cases_sampling import SAMPLING_CASES


def _conv() -> list[Case]:
    x, odd = floats(2, 4, 9, 8), floats(1, 4, 11, 10)
    rows: list[tuple[Arrays, dict[str, Any]]] = [
        ((x, floats(6, 4, 3, 3), floats(6)), {}),
        ((x, floats(6, 4, 3, 2)), {"pads": (1, 0, 2, 1), "strides": (2, 3)}),
        ((x, floats(6, 4, 1, 1)), {"strides": (2, 2)}),
        ((x, floats(6, 2, 3, 3)), {"group": 2, "pads": (1, 1, 1, 1)}),
        ((x, floats(4, 1, 3, 3), floats(4)), {"group": 4, "pads": (1, 1, 1, 1)}),
        ((x, floats(8, 1, 3, 3)), {"group": 4, "strides": (2, 2), "pads": (0, 1, 2, 1)}),
        ((odd, floats(4, 1, 5, 3)), {"group": 4, "dilations": (2, 3), "strides": (3, 2)}),
        ((odd, floats(5, 4, 3, 3)), {"dilations": (2, 2), "strides": (3, 2), "kernel_shape": (3, 3)}),
        ((odd, floats(5, 4, 3, 3)), {"dilations": (3, 1), "pads": (4, 0, 5, 1)}),
        ((floats(2, 3, 10), floats(4, 3, 3)), {"strides": (2,), "pads": (1, 1)}),
        ((floats(1, 2, 5, 6, 7), floats(4, 2, 2, 3, 3), floats(4)), {"strides": (1, 2, 2)}),
        ((floats(1, 2, 5, 6, 7), floats(2, 1, 2, 3, 3)), {"group": 2, "strides": (2, 1, 2)}),
        # depthwise, a window for each cell
        ((floats(2, 3, 10), floats(3, 1, 4)), {"group": 3, "pads": (3, 0)}),
        ((odd, floats(8, 1, 3, 2), floats(8)), {"group": 4, "dilations": (2, 3), "pads": (1, 3, 3, 0)}),
        ((floats(1, 2, 2, 3), floats(2, 1, 5, 7)), {"group": 2, "pads": (4, 3, 0, 3)}),  # wider than the map
        ((floats(2, 2, 5, 6, 7), floats(2, 1, 2, 3, 3)), {"group": 2, "pads": (0, 2, 1, 1, 0, 1)}),
        ((x, floats(4, 1, 2, 4)), {"group": 4, "auto_pad": "SAME_UPPER"}),
    ]
    for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        for stride in (1, 2, 3):
            rows.append(((x, floats(3, 4, 4, 3)), {"auto_pad": auto_pad, "strides": (stride, stride)}))
            rows.append(((x, floats(4, 1, 3, 4)), {"auto_pad": auto_pad, "group": 4, "strides": (stride, 2)}))
    transposed: list[tuple[Arrays, dict[str, Any]]] = [
        ((x, floats(4, 3, 3, 3), floats(3)), {}),
        ((x, floats(4, 3, 3, 2)), {"strides": (2, 3), "pads": (1, 0, 2, 1)}),
        ((x, floats(4, 3, 2, 2)), {"strides": (2, 2), "output_padding": (1, 1)}),
        ((x, floats(4, 2, 3, 3)), {"group": 2, "dilations": (2, 1), "strides": (2, 2)}),
        ((x, floats(4, 1, 4, 4)), {"group": 4, "strides": (2, 2), "pads": (1, 1, 1, 1)}),
        ((x, floats(4, 1, 3, 4)), {"group": 4, "pads": (0, 1, 2, 2)}),
        ((x, floats(4, 3, 3, 3)), {"strides": (2, 2), "output_shape": (18, 16)}),
        ((x, floats(4, 3, 3, 3)), {"strides": (2, 2), "auto_pad": "SAME_UPPER", "output_shape": (18, 16)}),
        ((floats(1, 1, 3, 3), floats(1, 2, 3, 3), floats(2)), {"strides": (3, 2), "output_shape": (10, 8)}),
        ((x, floats(4, 3, 3, 3)), {"strides": (2, 2), "auto_pad": "SAME_LOWER"}),
        ((x, floats(4, 3, 3, 3)), {"strides": (2, 2), "auto_pad": "SAME_UPPER"}),
        ((x, floats(4, 3, 3, 3)), {"strides": (2, 2), "auto_pad": "VALID"}),
        ((floats(2, 3, 10), floats(3, 2, 4)), {"strides": (3,)}),
        ((floats(1, 2, 4, 5, 3), floats(2, 3, 2, 3, 3)), {"strides": (1, 2, 2)}),
    ]
    # small patches and large ones are computed in two ways
    rows += [((_tiled(a[0], 1), _tiled(a[1], 1), *a[2:]), o) for a, o in rows if "group" not in o]
    for (x, w, *b), options in list(transposed):
        if "group" not in options:
            wide = _tiled(x, 1), _tiled(_tiled(w, 0), 1), *(_tiled(each, 0) for each in b)
            transposed.append((wide, options))
    return [Case("Conv", *row) for row in rows] + [Case("ConvTranspose", *row) for row in transposed]


def _tiled(array: Any, axis: int) -> Any:
    """Five times the channels."""
    return np.concatenate([array * factor for factor in (1, -0.5, 2, 0.25, -1)], axis).astype(array.dtype)


def _pool() -> list[Case]:
    x = floats(2, 3, 10, 9)
    shared: list[dict[str, Any]] = [
        {"kernel_shape": (2, 2), "strides": (2, 2)},
        {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
        {"kernel_shape": (3, 2), "pads": (0, 1, 2, 0)},
        {"kernel_shape": (9, 8), "strides": (2, 1), "pads": (4, 3, 5, 2), "ceil_mode": 1},
        {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1},
        {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1, "pads": (1, 1, 1, 1)},
        {"kernel_shape": (2, 2), "strides": (3, 3), "ceil_mode": 1, "pads": (0, 0, 1, 1)},
        {"kernel_shape": (3, 2), "dilations": (2, 3), "strides": (2, 1)},
        {"kernel_shape": (2, 3), "dilations": (3, 2), "strides": (2, 2), "ceil_mode": 1},
        {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_UPPER"},
        {"kernel_shape": (4, 3), "strides": (2, 3), "auto_pad": "SAME_LOWER"},
        {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "VALID"},
    ]
    cases = []
    for attributes in shared:
        cases.append(Case("MaxPool", (x,), attributes))
        for counted in (0, 1):
            cases.append(Case("AveragePool", (x,), {**attributes, "count_include_pad": counted}, opset=19))
    for op in ("MaxPool", "AveragePool"):
        cases.append(Case(op, (floats(2, 3, 11),), {"kernel_shape": (3,), "strides": (2,), "pads": (1, 1)}))
        cases.append(Case(op, (floats(1, 2, 5, 6, 7),), {"kernel_shape": (2, 3, 2), "strides": (2, 1, 2)}))
        cases.append(Case(op, (x,), {"kernel_shape": (10, 9)}))
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        cases += [Case(op, (x,)), Case(op, (floats(2, 3, 7),)), Case(op, (floats(1, 2, 3, 4, 5),))]
    return cases


def _norm() -> list[Case]:
    x, c = floats(2, 6, 5, 4), 6
    batch = (floats(c), floats(c, seed=1), floats(c, seed=2), positive(c))
    return [
        Case("BatchNormalization", (x, *batch), {"epsilon": 1e-3}),
        Case("BatchNormalization", (floats(4, c), *batch)),
        Case("InstanceNormalization", (x, floats(c), floats(c, seed=1)), {"epsilon": 1e-2}),
        Case("InstanceNormalization", (floats(2, 6, 9), floats(c), floats(c, seed=1))),
        Case("GroupNormalization", (x, floats(3), floats(3, seed=1)), {"num_groups": 3}),
        Case("GroupNormalization", (x, floats(c), floats(c, seed=1)), {"num_groups": 3}, opset=21),
        Case("LayerNormalization", (x, floats(4), floats(4, seed=1)), outputs=3),
        Case("LayerNormalization", (x, floats(6, 5, 4), None), {"axis": 1, "epsilon": 1e-2}),
        Case("RMSNormalization", (x, floats(4)), {"axis": -1}, opset=23),
        Case("LpNormalization", (x,), {"axis": 1, "p": 2}),
        Case("LpNormalization", (x,), {"axis": -1, "p": 1}),
        Case("LRN", (x,), {"size": 3, "alpha": 0.5, "beta": 0.75, "bias": 2.0}),
        Case("LRN", (floats(1, 3, 7, 6),), {"size": 5}),
    ]


def _linear() -> list[Case]:
    a, b = floats(5, 4), floats(4, 3)
    return [
        Case("MatMul", (a, b)),
        Case("MatMul", (floats(2, 1, 5, 4), floats(3, 4, 2))),
        Case("MatMul", (floats(4), b)),
        Case("MatMul", (a, floats(4))),
        Case("MatMul", (floats(4), floats(4, seed=1))),
        Case("Gemm", (a, b, floats(3)), {"alpha": 0.5, "beta": 2.0}),
        Case("Gemm", (floats(4, 5), floats(3, 4), floats(5, 1)), {"transA": 1, "transB": 1}),
        Case("Gemm", (floats(1, 5), floats(3, 5), floats(3)), {"transB": 1}),
        Case("Gemm", (floats(4, 3), floats(4, 2)), {"transA": 1}),
        Case("Gemm", (a, b)),
        Case("Gemm", (a, b, scalar(1.5))),
    ]


def _elementwise() -> list[Case]:
    x, y = floats(2, 3, 4), floats(3, 1, seed=3)
    whole, other = ints(-7, 7, -7, 7, 0).reshape(5, 1), ints(2, -2, 3)
    cases = [Case(op, (x, y)) for op in ("Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater")]
    cases += [
        Case(op, (x, np.zeros((2, 1, 1), np.float32))) for op in ("LessOrEqual", "GreaterOrEqual", "Equal")
    ]
    cases += [Case(op, (whole, other)) for op in ("Add", "Sub", "Mul", "Div", "Mod", "Equal", "Max", "Min")]
    cases += [Case(op, (x, y, scalar(0.0))) for op in ("Max", "Min", "Sum", "Mean")]
    cases += [Case(op, (x,)) for op in ("Max", "Min", "Sum", "Mean")]
    cases += [
        Case(op, (x,))
        for op in (
            "Neg",
            "Abs",
            "Exp",
            "Reciprocal",
            "Erf",
            "Floor",
            "Ceil",
            "Sign",
            "Sin",
            "Cos",
            "Tan",
            "Atan",
        )
    ]
    cases += [Case(op, (x,)) for op in ("Sinh", "Cosh", "IsNaN")]
    cases += [Case(op, (np.clip(x, -1, 1),)) for op in ("Asin", "Acos")]
    cases += [Case(op, (positive(2, 5),)) for op in ("Log", "Sqrt")]
    infinite = np.array([1.0, np.inf, -np.inf, np.nan], np.float32)
    cases += [
        Case("IsInf", (infinite,)),
        Case("IsInf", (infinite,), {"detect_negative": 0}),
        Case("IsNaN", (infinite,)),
    ]
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4], np.float32)
    cases += [
        Case("Round", (halves,)),
        Case("Mod", (x, y + 3), {"fmod": 1}),
        Case("Mod", (whole, other), {"fmod": 1}),
    ]
    cases += [Case("Neg", (whole,)), Case("Abs", (whole,)), Case("Sign", (whole,))]
    cases += [Case("Pow", (x, scalar(p))) for p in (0.0, 1.0, 2.0, 3.0, -1.0)]
    cases += [Case("Pow", (positive(2, 3), scalar(p))) for p in (0.5, -0.5, 1.7)]
    cases += [
        Case("Pow", (positive(2, 3), floats(3))),
        Case("Pow", (x, ints(2))),
        Case("Pow", (whole, ints(2))),
    ]
    p, q = x > 0, y > 0
    cases += [Case(op, (p, q)) for op in ("And", "Or", "Xor", "Equal")] + [Case("Not", (p,))]
    cases += [
        Case("Where", (p, x, y)),
        Case("Where", (q, scalar(1.0), x)),
        Case("Where", (q, whole[:3], ints(1, 2))),
    ]
    kinds = TensorProto
    for to in (kinds.INT64, kinds.INT32, kinds.INT8, kinds.BOOL, kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16):
        exact = to not in (kinds.DOUBLE, kinds.FLOAT16)  # both are carried as float32
        cases.append(Case("Cast", (x * 3,), {"to": to}, tolerance=1e-3, same_type=exact))
        cases.append(Case("Cast", (whole,), {"to": to}, same_type=exact))
    cases += [Case("CastLike", (x, ints(1))), Case("CastLike", (whole, x)), Case("CastLike", (x, p))]
    return cases


def _activation() -> list[Case]:
    x = np.concatenate([floats(40, scale=4.0), np.array([0, -100, 100, 3, -3, 1, -1], np.float32)])
    plain = (
        "Relu",
        "Selu",
        "Softplus",
        "Softsign",
        "Sigmoid",
        "Tanh",
        "HardSwish",
        "Mish",
        "LeakyRelu",
        "Elu",
    )
    cases = [Case(op, (x,)) for op in (*plain, "Celu", "HardSigmoid", "ThresholdedRelu", "Shrink")]
    cases += [
        Case(op, (x,), {"alpha": alpha})
        for op in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "HardSigmoid")
        for alpha in (0.3, 2.0)
    ]
    cases += [
        Case("Selu", (x,), {"alpha": 1.2, "gamma": 0.7}),
        Case("HardSigmoid", (x,), {"alpha": 0.1, "beta": 0.3}),
        Case("Shrink", (x,), {"bias": 0.4, "lambd": 1.0}),
        Case("Gelu", (x,), opset=20),
        Case("Gelu", (x,), {"approximate": "tanh"}, opset=20),
        Case("PRelu", (floats(2, 3, 4), floats(3, 1))),
        Case("PRelu", (floats(2, 3, 4), floats(1))),
        Case("Clip", (x, scalar(0.0), scalar(6.0))),
        Case("Clip", (x, None, scalar(1.0))),
        Case("Clip", (x, scalar(-1.0))),
        Case("Clip", (x,)),
        Case("Clip", (ints(-3, 2, 9), np.array(0), np.array(5))),
        Case("Relu", (np.array([-3, 0, 4], np.int32),)),
    ]
    for axis in (-1, 0, 1):
        cases += [
            Case(op, (floats(3, 4, 5, scale=20.0),), {"axis": axis}) for op in ("Softmax", "LogSoftmax")
        ]
    return cases


def _shape() -> list[Case]:
    x = floats(2, 3, 4, 5)
    whole = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    cases = [
        Case("Shape", (x,)),
        Case("Shape", (x,), {"start": 1, "end": -1}),
        Case("Shape", (x,), {"start": -2}),
    ]
    cases += [Case("Size", (x,)), Case("Identity", (x,)), Case("Dropout", (x,), outputs=2)]
    cases += [Case("Dropout", (x, scalar(0.5), np.array(False)))]
    cases += [Case("Reshape", (x, ints(*s))) for s in ((0, -1), (6, 20), (2, 0, 2, 10), (-1,))]
    cases += [Case("Reshape", (np.zeros((0, 3), np.float32), ints(3, 0)), {"allowzero": 1})]
    cases += [Case("Flatten", (x,), {"axis": a}) for a in (0, 1, 3, 4, -1)]
    one = floats(1, 3, 1, 4)
    cases += [Case("Squeeze", (one, ints(0, -2))), Case("Squeeze", (one,)), Case("Squeeze", (one, ints(2)))]
    cases += [Case("Unsqueeze", (whole, ints(0, -1))), Case("Unsqueeze", (x, ints(3, 1)))]
    cases += [Case("Transpose", (x,)), Case("Transpose", (x,), {"perm": (0, 2, 3, 1)})]
    cases += [Case("Expand", (floats(3, 1), ints(2, 1, 4))), Case("Expand", (floats(3, 4), ints(1)))]
    cases += [Case("Tile", (floats(2, 3), ints(2, 3)))]
    cases += [Case("Concat", (x, floats(2, 1, 4, 5), x), {"axis": a}) for a in (1, -3)]
    cases += [Case("Concat", (ints(1, 2), ints(3)), {"axis": 0})]
    cases += [Case("Split", (x, ints(1, 2)), {"axis": 1}, outputs=2)]
    cases += [Case("Split", (x,), {"axis": -1, "num_outputs": 3}, outputs=3)]
    for starts, ends, axes, steps in (
        ((1,), (3,), (2,), (1,)),
        ((0, 1), (-1, 1000), (-1, 1), (2, 1)),
        ((-1,), (-1000,), (3,), (-1,)),
        ((-2,), (0,), (3,), (-2,)),
        ((3,), (1,), (2,), (1,)),
        ((10,), (-(2**31),), (3,), (-3,)),
    ):
        cases.append(Case("Slice", (x, ints(*starts), ints(*ends), ints(*axes), ints(*steps))))
    cases += [Case("Slice", (x, ints(0, 1), ints(1, 3))), Case("Slice", (ints(5, 6, 7), ints(-2), ints(3)))]
    for mode in ("constant", "reflect", "edge", "wrap"):
        opset = 19 if mode == "wrap" else 18
        cases.append(Case("Pad", (x, ints(0, 0, 1, 2, 0, 0, 2, 3)), {"mode": mode}, opset=opset))
        cases.append(Case("Pad", (x, ints(1, 2), None, ints(-1)), {"mode": mode}, opset=opset))
    cases += [Case("Pad", (x, ints(0, 1, -1, 2, 1, 0, 1, -2), scalar(1.5)))]
    cases += [Case("Pad", (whole, ints(1, 1, 1, 1), np.array(9), ints(0, 2)))]
    cases += [
        Case("Gather", (x, np.array([[0, 2], [-1, 1]])), {"axis": 1}),
        Case("Gather", (ints(4, 5), np.array(1))),
    ]
    cases += [Case("GatherElements", (x, np.array([0, 2, -1, 1]).reshape(1, 2, 1, 2)), {"axis": 1})]
    deep = floats(2, 12, 3, 4)
    cases += [Case("DepthToSpace", (deep,), {"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")]
    cases += [Case("SpaceToDepth", (floats(1, 3, 4, 6),), {"blocksize": 2})]
    return cases


def _constant() -> list[Case]:
    return [
        Case("Constant", (), {"value": np.arange(6, dtype=np.int64).reshape(2, 3)}),
        Case("Constant", (), {"value_float": 1.5}),
        Case("Constant", (), {"value_floats": (1.5, 2.5)}),
        Case("Constant", (), {"value_int": 3}),
        Case("Constant", (), {"value_ints": (3, 4)}),
        Case("ConstantOfShape", (ints(2, 3),)),
        Case("ConstantOfShape", (ints(2, 3),), {"value": np.array([7], np.int64)}),
        Case("Range", (np.array(10), np.array(-3), np.array(-4))),
        Case("Range", (scalar(0.0), scalar(1.0), scalar(0.3))),
        Case(
            "OneHot",
            (np.array([[0, 2], [-1, 1]]), np.array(3), np.array([0.5, 2.0], np.float32)),
            {"axis": 1},
        ),
        Case("OneHot", (ints(0, 2), np.array(4), ints(0, 1))),
    ]


def _reduce() -> list[Case]:
    x = floats(2, 3, 4)
    kinds = ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare")
    cases = [Case("ReduceLogSum", (positive(2, 3, 4), ints(1)))]
    for kind in kinds:
        cases.append(Case(f"Reduce{kind}", (x, ints(-1, 0))))
        cases.append(Case(f"Reduce{kind}", (x, ints(1)), {"keepdims": 0}))
        cases.append(Case(f"Reduce{kind}", (x,)))
    cases += [Case(f"Reduce{kind}", (x,), {"noop_with_empty_axes": 1}) for kind in ("Sum", "Max", "Mean")]
    cases += [Case(f"Reduce{kind}", (ints(3, 4, 5), ints(0))) for kind in ("Sum", "Max", "Prod")]
    ties = np.array([[1, 3, 3], [2, 2, 0]], np.float32)
    for op in ("ArgMax", "ArgMin"):
        cases += [Case(op, (ties,), {"axis": 1, "select_last_index": last}) for last in (0, 1)]
        cases.append(Case(op, (ties,), {"axis": 0, "keepdims": 0}))
    return cases


def _quant() -> list[Case]:
    x = np.concatenate([floats(20, scale=60.0), np.array([0.25, 0.75, 1.25, 1000, -1000], np.float32)])
    grid, scales = floats(2, 3, 8, scale=30.0), positive(3)
    cases = [
        Case("QuantizeLinear", (x, scalar(0.5), np.array(zero, dtype)), same_type=False)
        for dtype, zero in ((np.uint8, 128), (np.int8, -3), (np.uint8, 0))
    ]
    cases += [
        Case("QuantizeLinear", (x, scalar(0.5)), same_type=False),
        Case("QuantizeLinear", (x, scalar(0.5), np.array(7, np.int16)), opset=21, same_type=False),
        Case(
            "QuantizeLinear", (x, scalar(0.5)), {"output_dtype": TensorProto.INT8}, opset=21, same_type=False
        ),
        Case("QuantizeLinear", (grid, scales, np.array([1, 2, 3], np.int8)), {"axis": 1}, same_type=False),
        Case("DequantizeLinear", (np.array([0, 5, 255], np.uint8), scalar(0.3), np.array(7, np.uint8))),
        Case("DequantizeLinear", (np.array([-128, 5, 127], np.int8), scalar(0.3))),
        Case("DequantizeLinear", (np.arange(6, dtype=np.int32).reshape(2, 3), scales), {"axis": -1}),
    ]
    whole, blocks = np.arange(48).reshape(2, 3, 8).astype(np.int8), positive(2, 3, 2)
    zeros = np.arange(12).reshape(2, 3, 2).astype(np.int8)
    blocked = {"axis": 2, "block_size": 4}
    cases.append(Case("DequantizeLinear", (whole, blocks, zeros), blocked, opset=21))
    cases.append(Case("QuantizeLinear", (grid, blocks, zeros), blocked, opset=21, same_type=False))
    return cases


def _resize() -> list[Case]:
    x = floats(1, 2, 4, 5)
    up, down = np.array([1, 1, 2, 3], np.float32), np.array([1, 1, 0.6, 0.7], np.float32)
    odd = np.array([1, 1, 1.3, 2.4], np.float32)
    cases = []
    for mode in ("nearest", "linear", "cubic"):
        for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
            attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
            cases += [Case("Resize", (x, None, scales), attributes) for scales in (up, down, odd)]
            cases.append(Case("Resize", (x, None, None, ints(1, 2, 7, 1)), attributes))
    for nearest in ("round_prefer_ceil", "floor", "ceil"):
        attributes = {"nearest_mode": nearest, "coordinate_transformation_mode": "asymmetric"}
        cases += [Case("Resize", (x, None, scales), attributes) for scales in (up, odd)]
    cases.append(
        Case("Resize", (x, None, odd), {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5})
    )
    cases.append(Case("Resize", (x, None, odd[2:]), {"mode": "linear", "axes": (2, 3)}))
    for policy in ("not_larger", "not_smaller"):
        attributes = {"axes": (2, 3), "keep_aspect_ratio_policy": policy}
        cases.append(Case("Resize", (x, None, None, ints(7, 12)), attributes))
    symmetric = {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}
    cases.append(Case("Resize", (x, None, odd), symmetric, opset=19))
    for mode in ("linear", "cubic"):
        for outside in (0, 1):
            attributes = {"mode": mode, "antialias": 1, "exclude_outside": outside}
            cases.append(Case("Resize", (floats(1, 1, 9, 8), None, down), attributes))
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": -9.0}
    region = np.array([0, 0, 0.3, -0.2, 1, 1, 0.8, 0.7], np.float32)
    for mode in ("nearest", "linear", "cubic"):
        cases.append(Case("Resize", (x, region, None, ints(1, 2, 5, 6)), {"mode": mode, **crop}))
    return cases


CASES = [
    case
    for family in (
        _conv,
        _pool,
        _norm,
        _linear,
        _elementwise,
        _activation,
        _shape,
        _constant,
        _reduce,
        _quant,
        _resize,
    )
    for case in family()
] + SAMPLING_CASES
