"""What ONNX Runtime's optimiser and quantiser write, taken apart into standard nodes (see `rewrite`).

Quantised operators become DequantizeLinear, the float operator, QuantizeLinear: the same integers up to one
step where the integer arithmetic rounds the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from naflow_core.model.rewrite import Rewrite, Site, Table

FUSED: Table = {}
_OWN = "com.microsoft"
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides")


def _fused(*op_types: str, domain: str = _OWN) -> Callable[[Rewrite], Rewrite]:
    def add(function: Rewrite) -> Rewrite:
        FUSED.update({(domain, op_type): function for op_type in op_types})
        return function

    return add


def _chosen(site: Site, names: Sequence[str]) -> dict[str, Any]:
    return {name: site.attributes[name] for name in names if name in site.attributes}


# Fused float operators -----------------------------------------------------------------------------


def _activate(site: Site, x: str, kind: str, parameters: Sequence[float]) -> None:
    out = site.node.output[0]
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Elu": ("alpha",)}
    if kind == "Clip":
        bounds = [site.constant(np.float32(v), n) for v, n in zip(parameters, ("min", "max"), strict=False)]
        site.emit("Clip", [x, *bounds], out=out)
    elif kind in ("Relu", "Sigmoid", "Tanh", "Softplus", "HardSwish", *names):
        given: dict[str, Any] = dict(zip(names.get(kind, ()), map(float, parameters), strict=False))
        site.emit(kind, [x], out=out, **given)
    else:
        raise site.refuse(f"activation {kind!r} is not implemented")


@_fused("FusedConv")
def _fused_conv(site: Site) -> None:
    kind = site.attributes.get("activation", "")
    added = site.input(3)
    last = {} if kind or added else {"out": site.node.output[0]}
    y = site.emit("Conv", [site.input(i) for i in range(3)], **last, **_chosen(site, _CONV))
    if added:
        y = site.emit("Add", [y, added], **({} if kind else {"out": site.node.output[0]}))
    if kind:
        _activate(site, y, kind, site.attributes.get("activation_params", ()))


@_fused("FusedGemm")
def _fused_gemm(site: Site) -> None:
    kind = site.attributes.get("activation", "")
    last = {} if kind else {"out": site.node.output[0]}
    inputs = [site.input(i) for i in range(3)]
    y = site.emit("Gemm", inputs, **last, **_chosen(site, ("alpha", "beta", "transA", "transB")))
    names = [name for name in ("activation_alpha", "activation_beta") if name in site.attributes]
    if kind:
        _activate(site, y, kind, [site.attributes[name] for name in names])


@_fused("BiasGelu")
def _bias_gelu(site: Site) -> None:
    total = site.emit("Add", [site.input(0), site.input(1)])
    site.emit("Gelu", [total], out=site.node.output[0], domain=_OWN)


@_fused("FastGelu")
def _fast_gelu(site: Site) -> None:
    x = site.emit("Add", [site.input(0), site.input(1)]) if site.input(1) else site.input(0)
    site.emit("FastGelu", [x], out=site.node.output[0], domain=_OWN)


@_fused("SkipLayerNormalization")
def _skip_layer_normalization(site: Site) -> None:
    outputs = list(site.node.output)
    if any(outputs[1:3]):
        raise site.refuse("its outputs with mean and deviation are not implemented")
    shared = outputs[3] if len(outputs) > 3 else ""
    terms = [site.input(0), site.input(1), *filter(None, [site.input(4)])]
    total = terms[0]
    for number, term in enumerate(terms[1:], start=2):
        total = site.emit("Add", [total, term], out=shared if number == len(terms) else "")
    epsilon = float(site.attributes.get("epsilon", 1e-12))
    site.emit("LayerNormalization", [total, site.input(2), site.input(3)], out=outputs[0], epsilon=epsilon)


# Quantised operators -------------------------------------------------------------------------------


def _real(site: Site, at: int, **given: Any) -> str:
    """The real values of the integers at input `at`, whose scale and zero point follow it."""
    return site.emit("DequantizeLinear", [site.input(at), site.input(at + 1), site.input(at + 2)], **given)


def _quantise(site: Site, y: str, at: int) -> None:
    site.emit("QuantizeLinear", [y, site.input(at), site.input(at + 1)], out=site.node.output[0])


def _moved(site: Site, x: str, spatial: int, *, last: bool) -> str:
    """x with its channels moved to the last axis, or from there to the second."""
    order = [0, *range(2, spatial + 2), 1] if last else [0, spatial + 1, *range(1, spatial + 1)]
    return site.emit("Transpose", [x], perm=order)


@_fused("QLinearConv", domain="")
@_fused("QLinearConv")
def _qlinear_conv(site: Site) -> None:
    x, w = _real(site, 0), _real(site, 3, axis=0)
    bias = ""
    if site.input(8):
        whole, scales = site.known(8), (site.known(1), site.known(4))
        if whole is None or scales[0] is None or scales[1] is None:
            raise site.refuse("its bias and scales must be constants")
        factor = scales[0].reshape(-1)[0] * scales[1].reshape(-1)
        bias = site.constant((whole * factor).astype(np.float32), "bias")
    if not site.attributes.get("channels_last", 0):
        _quantise(site, site.emit("Conv", [x, w, bias], **_chosen(site, _CONV)), 6)
        return
    weights = site.known(3)
    if weights is None:
        raise site.refuse("its weights must be a constant")
    spatial = weights.ndim - 2
    y = site.emit("Conv", [_moved(site, x, spatial, last=False), w, bias], **_chosen(site, _CONV))
    _quantise(site, _moved(site, y, spatial, last=True), 6)


@_fused("QLinearMatMul", domain="")
def _qlinear_matmul(site: Site) -> None:
    scale = site.known(4)
    columns = {"axis": -1} if scale is not None and scale.size > 1 else {}
    _quantise(site, site.emit("MatMul", [_real(site, 0), _real(site, 3, **columns)]), 6)


@_fused("QGemm")
def _qgemm(site: Site) -> None:
    scales = site.known(1), site.known(4)
    if scales[0] is None or scales[1] is None:
        raise site.refuse("its scales must be constants")
    axis = 0 if site.attributes.get("transB", 0) else 1
    a, b = _real(site, 0), _real(site, 3, axis=axis)
    bias = ""
    if site.input(6):
        whole = site.known(6)
        if whole is None:
            raise site.refuse("its bias must be a constant")
        alpha = float(site.attributes.get("alpha", 1.0))
        factor = alpha * scales[0].reshape(-1)[0] * scales[1].reshape(-1)
        bias = site.constant((whole * factor).astype(np.float32), "bias")
    last = {} if site.input(7) else {"out": site.node.output[0]}
    y = site.emit("Gemm", [a, b, bias], **last, **_chosen(site, ("alpha", "transA", "transB")))
    if site.input(7):
        _quantise(site, y, 7)


@_fused("QLinearAdd", "QLinearMul")
def _qlinear_binary(site: Site) -> None:
    name = site.node.op_type.removeprefix("QLinear")
    _quantise(site, site.emit(name, [_real(site, 0), _real(site, 3)]), 6)


@_fused("QLinearSigmoid", "QLinearLeakyRelu")
def _qlinear_unary(site: Site) -> None:
    name = site.node.op_type.removeprefix("QLinear")
    _quantise(site, site.emit(name, [_real(site, 0)], **_chosen(site, ("alpha",))), 3)


@_fused("QLinearSoftmax")
def _qlinear_softmax(site: Site) -> None:
    axis = int(site.attributes.get("axis", -1))
    if int(site.attributes.get("opset", 13)) < 13 and axis != -1:
        raise site.refuse("the meaning of its axis before opset 13 is not implemented")
    _quantise(site, site.emit("Softmax", [_real(site, 0)], axis=axis), 3)


@_fused("QLinearWhere")
def _qlinear_where(site: Site) -> None:
    _quantise(site, site.emit("Where", [site.input(0), _real(site, 1), _real(site, 4)]), 7)


@_fused("QLinearConcat")
def _qlinear_concat(site: Site) -> None:
    parts = [_real(site, at) for at in range(2, len(site.node.input), 3)]
    _quantise(site, site.emit("Concat", parts, axis=int(site.attributes["axis"])), 0)


@_fused("QLinearGlobalAveragePool")
def _qlinear_global_average_pool(site: Site) -> None:
    x = _real(site, 0)
    if site.attributes.get("channels_last", 0):
        y = _moved(site, site.emit("GlobalAveragePool", [_moved(site, x, 2, last=False)]), 2, last=True)
    else:
        y = site.emit("GlobalAveragePool", [x])
    _quantise(site, y, 3)


def _pool(site: Site, op_type: str, x: str, *, channels_last: bool, **last: str) -> str:
    given, spatial = _chosen(site, _POOL), len(site.attributes["kernel_shape"])
    if not channels_last:
        return site.emit(op_type, [x], **last, **given)
    y = site.emit(op_type, [_moved(site, x, spatial, last=False)], **given)
    order = [0, *range(2, spatial + 2), 1]
    return site.emit("Transpose", [y], perm=order, **last)


@_fused("QLinearAveragePool")
def _qlinear_average_pool(site: Site) -> None:
    channels_last = bool(site.attributes.get("channels_last", 0))
    _quantise(site, _pool(site, "AveragePool", _real(site, 0), channels_last=channels_last), 3)


@_fused("NhwcMaxPool")
def _nhwc_max_pool(site: Site) -> None:
    _pool(site, "MaxPool", site.input(0), channels_last=True, out=site.node.output[0])


@_fused("QuantizeLinear", "DequantizeLinear")
def _standard_quantisation(site: Site) -> None:
    names = ("axis", "block_size")
    site.emit(site.node.op_type, site.node.input, out=site.node.output[0], **_chosen(site, names))


# Integer operators and quantisation while running --------------------------------------------------


def _centred(site: Site, x: str, zero: str) -> str:
    """Integers as floats, less their zero point; both may depend on the model's input."""
    real = site.emit("Cast", [x], to=TensorProto.FLOAT)
    return site.emit("Sub", [real, site.emit("Cast", [zero], to=TensorProto.FLOAT)]) if zero else real


def _centred_weights(site: Site, at: int, zero_at: int, shape: tuple[int, ...] | None = None) -> str:
    whole, zero = site.known(at), site.known(zero_at)
    if whole is None or (zero is None and site.input(zero_at)):
        return _centred(site, site.input(at), site.input(zero_at))
    shift = np.float32(0) if zero is None else zero.astype(np.float32)
    shift = shift if shape is None or shift.size == 1 else shift.reshape(shape)
    return site.constant(whole.astype(np.float32) - shift, "weights")


def _single_zero_point(site: Site, at: int) -> str:
    zero = site.known(at)
    if zero is not None and zero.size > 1:
        raise site.refuse("a zero point per row of the input is not implemented")
    return site.input(at)


@_fused("ConvInteger", domain="")
def _conv_integer(site: Site) -> None:
    known = site.known(1)
    if site.input(3) and (known is None or site.known(3) is None):
        raise site.refuse("its weights and their zero point must be constants")
    shape = (-1, *(1,) * (known.ndim - 1)) if known is not None else None
    site.becomes_float()
    x = _centred(site, site.input(0), _single_zero_point(site, 2))
    w = _centred_weights(site, 1, 3, shape)
    site.emit("Conv", [x, w], out=site.node.output[0], **_chosen(site, _CONV))


@_fused("MatMulInteger", domain="")
def _matmul_integer(site: Site) -> None:
    a = _centred(site, site.input(0), _single_zero_point(site, 2))
    site.becomes_float()
    site.emit("MatMul", [a, _centred_weights(site, 1, 3)], out=site.node.output[0])


def _scaled_product(site: Site, a: str, b: str, scales: Sequence[str], bias: str) -> None:
    y = site.emit("MatMul", [a, b])
    for number, scale in enumerate(scales, start=1):
        last = number == len(scales) and not bias
        y = site.emit("Mul", [y, scale], **({"out": site.node.output[0]} if last else {}))
    if bias:
        site.emit("Add", [y, bias], out=site.node.output[0])


@_fused("MatMulIntegerToFloat")
def _matmul_integer_to_float(site: Site) -> None:
    a = _centred(site, site.input(0), _single_zero_point(site, 4))
    scales = [site.input(2), site.input(3)]
    _scaled_product(site, a, _centred_weights(site, 1, 5), scales, site.input(6))


@_fused("DynamicQuantizeMatMul")
def _dynamic_quantize_matmul(site: Site) -> None:
    whole, scale, zero = site.dynamic_quantise(site.input(0))
    a = _centred(site, whole, zero)
    scales = [scale, site.input(2)]
    _scaled_product(site, a, _centred_weights(site, 1, 3), scales, site.input(4))
