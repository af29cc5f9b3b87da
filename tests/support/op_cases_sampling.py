"""More rows of the operator table: indices as data, ordering, sampling, odd windows, integers, contrib."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from onnx import TensorProto

from support.op_case import Case, floats, ints, positive, scalar

X = floats(2, 3, 4, 5)
WHOLE = np.arange(24, dtype=np.int64).reshape(2, 3, 4)


def _index() -> list[Case]:
    ties = np.array([[1, 3, 3, 0], [2, 2, 0, 2]], np.float32)
    pairs = np.array([[[0, 1], [1, -1]], [[1, 0], [0, 2]]])
    rows, order = np.array([[0, 2, 1], [-1, 0, 0]]), ints(2, 0, 1)
    cases = [
        Case("GatherND", (X, pairs)),
        Case("GatherND", (X, ints(1, 2).reshape(2, 1)), {"batch_dims": 1}),
        Case("GatherND", (WHOLE, ints(1, 2).reshape(1, 2))),
        Case("Compress", (X, np.array([True, False, True])), {"axis": 1}),
        Case("Compress", (WHOLE, np.array([True, False, True, True]))),
        Case("ReverseSequence", (X, ints(1, 2, 2)), {"batch_axis": 1, "time_axis": 0}),
        Case("ReverseSequence", (X, ints(3, 2)), {"batch_axis": 0, "time_axis": 1}),
        Case("NonZero", (np.where(X > 1, X, 0).astype(np.float32),)),
        Case("Unique", (ints(3, 1, 3, 2),), outputs=4),
        Case("Unique", (ints(3, 1, 3, 2),), {"sorted": 0}, outputs=4),
        Case("Unique", (np.array([[1, 0], [1, 0], [2, 3]], np.float32),), {"axis": 0}, outputs=4),
        Case("Trilu", (X,)),
        Case("Trilu", (X, np.array(-1)), {"upper": 0}),
        Case("Trilu", (WHOLE, np.array(2))),
        Case("CenterCropPad", (X, ints(4, 3)), {"axes": (1, 3)}),
        Case("CenterCropPad", (X, ints(2, 2, 7, 5))),
    ]
    cases += [
        Case("TopK", (x, ints(k)), {"axis": axis, "largest": largest}, outputs=2)
        for x, k, axis in ((X, 2, 1), (ties, 3, -1), (WHOLE, 2, 0))
        for largest in (0, 1)
    ]
    for reduction in ("none", "add", "mul", "max", "min"):
        given = {"reduction": reduction}
        updates = floats(1, 3, 2, 5, seed=4)
        some = order.reshape(1, 3, 1, 1) + np.zeros((1, 3, 2, 5), np.int64)
        cases.append(Case("ScatterElements", (X, some, updates), {"axis": 1, **given}))
        cases.append(Case("ScatterND", (X, pairs[0], floats(2, 4, 5, seed=4)), given))
        if reduction != "none":  # one place more than once
            many = (floats(2, 3), rows, floats(2, 3, seed=1))
            cases.append(Case("ScatterElements", many, {"axis": 1, **given}))
            cases.append(Case("ScatterND", (floats(4), rows.reshape(6, 1), floats(6)), given))
    for exclusive, reverse in itertools.product((0, 1), repeat=2):
        running = {"exclusive": exclusive, "reverse": reverse}
        cases.append(Case("CumSum", (X, np.array(2)), running))
        cases.append(Case("CumSum", (WHOLE.astype(np.int32), np.array(-1)), running))
    return cases


def _matrix() -> list[Case]:
    a, b = floats(2, 3, 4), floats(2, 4, 5)
    return [
        Case("Einsum", (a, b), {"equation": "bij, bjk -> bik"}),
        Case("Einsum", (a, floats(4)), {"equation": "...j,j->..."}),
        Case("Einsum", (floats(4, 4),), {"equation": "ii"}),
        Case("Einsum", (a,), {"equation": "bij->ib"}),
        Case("Einsum", (X, floats(3, 6), floats(6, 2)), {"equation": "nchw,cd,de->nehw"}),
        Case("Det", (floats(2, 3, 3),)),
        Case("Det", (floats(4, 4),)),
    ]


def _windows() -> list[Case]:
    x = floats(2, 3, 10, 9)
    cases = []
    for p in (1, 2, 3):
        cases.append(Case("LpPool", (x,), {"kernel_shape": (3, 2), "strides": (2, 2), "p": p}))
        cases.append(Case("GlobalLpPool", (x,), {"p": p}))
    cases += [
        Case("LpPool", (x,), {"kernel_shape": (3, 3), "pads": (1, 0, 2, 1)}),
        Case("LpPool", (x,), {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_UPPER"}),
        Case("LpPool", (x,), {"kernel_shape": (2, 2), "dilations": (2, 3)}),
        Case("LpPool", (floats(2, 3, 11),), {"kernel_shape": (3,), "strides": (2,)}),
        Case("LpPool", (floats(1, 2, 5, 6, 7),), {"kernel_shape": (2, 3, 2)}),
    ]
    pools: list[dict[str, Any]] = [
        {"kernel_shape": (2, 2), "strides": (2, 2)},
        {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
        {"kernel_shape": (3, 2), "dilations": (2, 3), "strides": (2, 1)},
        {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1},
        {"kernel_shape": (3, 3), "strides": (2, 2), "storage_order": 1},
    ]
    cases += [Case("MaxPool", (x,), attributes, outputs=2) for attributes in pools]
    cases += [
        Case("MaxPool", (floats(2, 3, 11),), {"kernel_shape": (3,), "strides": (2,)}, outputs=2),
        Case("MaxPool", (floats(1, 2, 5, 6, 7),), {"kernel_shape": (2, 3, 2)}, outputs=2),
    ]
    small, places = floats(1, 2, 2, 2), ints(5, 7, 13, 15, 16, 18, 30, 24).reshape(1, 2, 2, 2)
    square = {"kernel_shape": (2, 2), "strides": (2, 2)}
    cases += [
        Case("MaxUnpool", (small, places), square),
        Case("MaxUnpool", (small, places, ints(1, 2, 5, 5)), square),
        Case("MaxUnpool", (floats(1, 1, 3), ints(0, 2, 5).reshape(1, 1, 3)),
             {"kernel_shape": (2,), "strides": (2,)}),
        Case("Col2Im", (floats(1, 5, 5), ints(5, 5), ints(1, 5))),
        Case("Col2Im", (floats(2, 8, 6), ints(3, 4), ints(2, 2))),
        Case("Col2Im", (floats(1, 9, 4), ints(4, 5), ints(3, 3)), {"strides": (2, 2), "pads": (1, 0, 1, 0)}),
        Case("Col2Im", (floats(1, 8, 9), ints(5, 6), ints(2, 2)), {"dilations": (2, 3)}),
    ]  # fmt: skip
    return cases


def _sampling() -> list[Case]:
    x, grid = floats(2, 3, 5, 6), floats(2, 4, 3, 2, scale=0.8)
    cases = []
    for mode, corners in itertools.product(("linear", "nearest", "cubic"), (0, 1)):
        for padding in ("zeros", "border", "reflection"):
            attributes = {"mode": mode, "padding_mode": padding, "align_corners": corners}
            cases.append(Case("GridSample", (x, grid), attributes, opset=20))
    cases += [
        Case("GridSample", (x, grid), {"mode": "bilinear"}, opset=16),
        Case("GridSample", (floats(1, 2, 3, 4, 5), floats(1, 2, 3, 2, 3, scale=0.6)), {}, opset=20),
        Case("AffineGrid", (floats(2, 2, 3), ints(2, 3, 4, 5)), opset=20),
        Case("AffineGrid", (floats(1, 3, 4), ints(1, 2, 3, 4, 5)), {"align_corners": 1}, opset=20),
    ]
    picture = floats(2, 3, 9, 8)
    boxes = np.array([[0, 0, 7, 8], [1.5, 2.2, 5.1, 6], [6, 6, 12, 12], [3, 3, 3.2, 3.3]], np.float32)
    which, sized = ints(0, 1, 1, 0), {"output_height": 2, "output_width": 3}
    for mode, ratio in (("half_pixel", 2), ("output_half_pixel", 2), ("output_half_pixel", 3)):
        attributes = {"coordinate_transformation_mode": mode, "sampling_ratio": ratio, **sized}
        cases.append(Case("RoiAlign", (picture, boxes, which), attributes))
    cases.append(Case("RoiAlign", (picture, boxes, which), {"spatial_scale": 0.5, "sampling_ratio": 1}))
    w, moved = floats(4, 2, 3, 2), floats(1, 24, 4, 4, scale=0.7)
    cases += [
        Case("DeformConv", (floats(1, 4, 6, 5), w, moved), {"group": 2, "offset_group": 2}, opset=19),
        Case("DeformConv", (floats(1, 4, 6, 5), w, moved, floats(4), positive(1, 12, 4, 4)),
             {"group": 2, "offset_group": 2}, opset=19),
        Case("DeformConv", (floats(2, 3, 7, 7), floats(2, 3, 3, 3), floats(2, 18, 4, 4)),
             {"strides": (2, 2), "pads": (1, 1, 1, 1)}, opset=19),
    ]  # fmt: skip
    return cases


def _others() -> list[Case]:
    x = np.concatenate([floats(40, scale=4.0), np.array([0, -30, 30, 3, -3, 1, -1], np.float32)])
    bits, shifts = np.array([1, 200, 77], np.uint8), np.array([1, 3, 0], np.uint8)
    own = "com.microsoft"
    cases = [Case(op, (ints(5, 6, 7), ints(3))) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")]
    cases += [Case("BitwiseNot", (ints(5, -6),))]
    cases += [Case("BitShift", (bits, shifts), {"direction": d}) for d in ("LEFT", "RIGHT")]
    cases += [Case("Hardmax", (np.round(floats(3, 4, 5)),), {"axis": axis}) for axis in (-1, 0, 1)]
    cases += [Case("Asinh", (x,)), Case("Acosh", (positive(9) + 1,)), Case("Atanh", (np.tanh(floats(9)),))]
    cases += [
        Case("MeanVarianceNormalization", (floats(2, 3, 5, 4),)),
        Case("MeanVarianceNormalization", (floats(2, 3, 5, 4),), {"axes": (1, 2, 3)}),
        Case("EyeLike", (floats(3, 4),)),
        Case("EyeLike", (floats(3, 4),), {"k": 1, "dtype": TensorProto.INT64}),
        Case("DynamicQuantizeLinear", (floats(3, 7),), outputs=3, same_type=False),
        Case("DynamicQuantizeLinear", (positive(3, 7),), outputs=3, same_type=False),
        Case("DynamicQuantizeLinear", (-positive(9),), outputs=3, same_type=False),
        Case("Gelu", (x,), opset=1, domain=own),
        Case("FastGelu", (x,), opset=1, domain=own),
        Case("QuickGelu", (x,), opset=1, domain=own),
        Case("QuickGelu", (x,), {"alpha": 1.0}, opset=1, domain=own),
        Case(
            "FusedMatMul",
            (floats(2, 4, 3), floats(5, 4)),
            {"transA": 1, "transB": 1, "alpha": 0.5},
            opset=1,
            domain=own,
        ),
        Case("FusedMatMul", (floats(4, 3), floats(3, 5)), opset=1, domain=own),
        Case("Pow", (positive(2, 3), floats(2, 3))),
        Case("Pow", (scalar(2.0), floats(2, 3))),
    ]
    return cases


SAMPLING_CASES = [case for family in (_index, _matrix, _windows, _sampling, _others) for case in family()]
