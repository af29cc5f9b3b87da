"""Files that ONNX Runtime's optimiser and quantiser write.

Their nodes are taken apart into standard ones while loading. What is compared with is onnxruntime on the
file as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper

import naflow_core as nf
from naflow_core.model.unfuse import FUSED
from support.onnx_graphs import make_model, run_onnxruntime
from support.op_case import floats

node = helper.make_node
X = floats(1, 3, 10, 10, seed=5)
OWN = "com.microsoft"


def small_network() -> onnx.ModelProto:
    """What the optimiser fuses: convolutions with activations, Gelu and Swish written out, a residual."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["m", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "m"], ["s"]),
        node("Relu", ["s"], ["r2"]),
        node("Conv", ["r2", "w2"], ["c3"], pads=[1, 1, 1, 1]),
        node("Clip", ["c3", "zero", "six"], ["k"]),
        node("Conv", ["k", "w2"], ["c4"], pads=[1, 1, 1, 1]),
        node("LeakyRelu", ["c4"], ["lr"], alpha=0.1),
        node("Div", ["lr", "root"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"], ["e1"]),
        node("Mul", ["lr", "e1"], ["le"]),
        node("Mul", ["le", "half"], ["gelu"]),
        node("Concat", ["gelu", "k"], ["cat"], axis=1),
        node("Sigmoid", ["cat"], ["sg"]),
        node("Mul", ["cat", "sg"], ["swish"]),
        node("AveragePool", ["swish"], ["a"], kernel_shape=[2, 2]),
        node("GlobalAveragePool", ["a"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "wg", "bg"], ["y"], transB=1),
    ]
    constants = {
        "w1": floats(4, 3, 3, 3, scale=0.3), "b1": floats(4), "w2": floats(4, 4, 3, 3, scale=0.3),
        "b2": floats(4, seed=1), "wg": floats(5, 8, scale=0.5), "bg": floats(5),
    }  # fmt: skip
    numbers = {"zero": 0.0, "six": 6.0, "root": 2**0.5, "one": 1.0, "half": 0.5}
    constants |= {name: np.array(value, np.float32) for name, value in numbers.items()}
    return make_model(nodes, {"x": X.shape}, constants=constants, opset=17)


def optimised(model: onnx.ModelProto | Path, level: str, path: Path) -> Path:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return path


def kinds(path: Path) -> set[tuple[str, str]]:
    return {(n.domain, n.op_type) for n in onnx.load(path).graph.node}


def check(path: Path | onnx.ModelProto, *, tolerance: float = 1e-5, x: np.ndarray = X) -> nf.Model:
    """Every node is standard, `verify` agrees, and the output is that of the file as it is."""
    model = nf.load(path)
    left = {(n.domain, n.op_type) for n in model.loaded.graph.nodes}
    assert not left & (set(FUSED) - {("com.microsoft", "FastGelu")})  # that one only loses its bias
    verification = model.verify(x)
    assert verification.ok, max(verification.tensors, key=lambda t: t.max_rel_error)
    (wanted,) = run_onnxruntime(path, {"x": x}, ["y"])
    (found,) = run_onnxruntime(model.loaded.serialized_with_outputs(), {"x": x}, ["y"])
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
    return model


def test_extended_optimisation_is_undone(tmp_path: Path) -> None:
    path = optimised(small_network(), "EXTENDED", tmp_path / "m.onnx")
    assert ("com.microsoft", "FusedConv") in kinds(path)
    assert ("com.microsoft", "Gelu") in kinds(path)
    plain, fused = nf.load(small_network()), check(path)
    rules = [[s.rule.name for s in m.inspect().plan.segments[:3]] for m in (plain, fused)]
    assert rules[0] == rules[1] == ["least-squares", "identity-on-retained", "unpool-to-argmax"]


def test_the_flows_of_an_optimised_file_are_those_of_the_original(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["c1"]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"]),
        node("LeakyRelu", ["c2"], ["r2"]),
        node("GlobalAveragePool", ["r2"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "wg"], ["y"]),
    ]
    weights = {"wg": floats(4, 5), "w1": floats(4, 3, 3, 3, scale=0.3), "w2": floats(4, 4, 3, 3, scale=0.3)}
    plain = make_model(nodes, {"x": X.shape}, constants=weights, opset=17)
    path = optimised(plain, "EXTENDED", tmp_path / "m.onnx")
    assert kinds(path) == {
        ("com.microsoft", "FusedConv"),
        ("", "GlobalAveragePool"),
        ("", "Flatten"),
        ("", "Gemm"),
    }
    flows = [[s.map for s in nf.load(m).explain(X, layers=["r1", "r2"])] for m in (plain, path)]
    for one, other in zip(*flows, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(one).max())


def test_blocked_layouts_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = optimised(small_network(), "ALL", tmp_path / "m.onnx")
    if not any(domain == "com.microsoft.nchwc" for domain, _ in kinds(path)):
        pytest.skip("onnxruntime has no blocked layout on this processor")
    report = nf.load(path).inspect()
    assert not report.explainable
    assert "save the model at optimisation level 'extended'" in report.unsupported[0].reason


class Pictures:
    """Calibration data as onnxruntime.quantization asks for them."""

    def __init__(self) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter(
            {"x": floats(1, 3, 10, 10, seed=i)} for i in range(3)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    quantization = pytest.importorskip("onnxruntime.quantization")
    folder = tmp_path_factory.mktemp("quantised")
    onnx.save(small_network(), folder / "m.onnx")
    logging.getLogger().setLevel(logging.ERROR)
    found = {}
    for kind, per_channel, name in (("QOperator", False, "operators"), ("QDQ", True, "nodes")):
        found[name] = folder / f"{name}.onnx"
        quantization.quantize_static(
            folder / "m.onnx", found[name], Pictures(), per_channel=per_channel,
            quant_format=getattr(quantization.QuantFormat, kind),
            activation_type=getattr(quantization.QuantType, "QInt8" if per_channel else "QUInt8"),
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
    found["running"] = folder / "running.onnx"
    quantization.quantize_dynamic(
        folder / "m.onnx", found["running"], weight_type=quantization.QuantType.QUInt8
    )
    return found


@pytest.mark.parametrize("name", ["operators", "nodes", "running"])
@pytest.mark.parametrize("level", ["", "EXTENDED", "ALL"])
def test_quantised_files(quantised: dict[str, Path], name: str, level: str) -> None:
    path = quantised[name]
    if level:
        path = optimised(path, level, path.with_suffix(f".{level}"))
    if any(domain == "com.microsoft.nchwc" for domain, _ in kinds(path)):
        pytest.skip("float convolutions in a blocked layout: refused, see above")
    model = check(path, tolerance=0.03)  # up to a few steps of 1/127
    plan = model.inspect().plan
    assert plan is not None
    assert len(plan.segments) > 5


def test_quantised_operators_are_all_met(quantised: dict[str, Path], tmp_path: Path) -> None:
    met = kinds(quantised["operators"]) | kinds(quantised["running"])
    met |= kinds(optimised(quantised["operators"], "ALL", tmp_path / "a.onnx"))
    met |= kinds(optimised(quantised["running"], "EXTENDED", tmp_path / "b.onnx"))
    assert {"QLinearConv", "QLinearAdd", "QGemm", "NhwcMaxPool", "ConvInteger"} <= {op for _, op in met}


# Single nodes --------------------------------------------------------------------------------------

U8 = np.arange(0, 240, 10, dtype=np.uint8).reshape(2, 3, 4)
SCALES = {"s": 0.05, "t": 0.02, "u": 0.1}
ZEROS = {"z": 128, "o": 3, "q": 100}


def single(inner: NodeProto, *, quantise: bool, dequantise: bool, **constants: np.ndarray) -> onnx.ModelProto:
    """x [2, 3, 4, 4], perhaps quantised to "xq", one node to "yq", perhaps dequantised to y."""
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["xq"])] if quantise else []
    nodes += [inner]
    nodes += [node("DequantizeLinear", ["yq", "u", "q"], ["y"])] if dequantise else []
    held = {name: np.array(value, np.float32) for name, value in SCALES.items()}
    held |= {name: np.array(value, np.uint8) for name, value in ZEROS.items()}
    return make_model(
        nodes,
        {"x": (2, 3, 4, 4)},
        constants={**held, **constants},
        opset=17,
        extra_opsets={"com.microsoft": 1},
    )


PAIR, FEW = ["xq", "s", "z"], ["u", "q"]
WEIGHTS = np.random.default_rng(1).integers(-50, 50, (2, 3, 3, 3)).astype(np.int8)
ROWS = [
    ("QLinearMul", node("QLinearMul", [*PAIR, *PAIR, *FEW], ["yq"], domain=OWN), {}),
    ("QLinearSigmoid", node("QLinearSigmoid", [*PAIR, *FEW], ["yq"], domain=OWN), {}),
    ("QLinearLeakyRelu", node("QLinearLeakyRelu", [*PAIR, *FEW], ["yq"], alpha=0.2, domain=OWN), {}),
    ("QLinearSoftmax", node("QLinearSoftmax", [*PAIR, *FEW], ["yq"], axis=1, opset=13, domain=OWN), {}),
    ("QLinearConcat", node("QLinearConcat", [*FEW, *PAIR, *PAIR], ["yq"], axis=1, domain=OWN), {}),
    ("QLinearAveragePool",
     node("QLinearAveragePool", [*PAIR, *FEW], ["yq"], kernel_shape=[2, 2], domain=OWN), {}),
    ("QLinearAveragePool last",
     node("QLinearAveragePool", [*PAIR, *FEW], ["yq"], kernel_shape=[2, 2], channels_last=1, domain=OWN),
     {}),
    ("QLinearGlobalAveragePool last",
     node("QLinearGlobalAveragePool", [*PAIR, *FEW], ["yq"], channels_last=1, domain=OWN), {}),
    ("QLinearWhere", node("QLinearWhere", ["c", *PAIR, *PAIR, *FEW], ["yq"], domain=OWN),
     {"c": np.array([True, False, True, True])}),
    ("QLinearConv",
     node("QLinearConv", [*PAIR, "w", "ws", "wz", *FEW, "b"], ["yq"], strides=[2, 2], pads=[1, 1, 0, 0]),
     {"w": WEIGHTS, "ws": np.array([0.01, 0.02], np.float32), "wz": np.zeros(2, np.int8),
      "b": np.array([100, -200], np.int32)}),
    ("QLinearMatMul", node("QLinearMatMul", [*PAIR, "w", "ws", "wz", *FEW], ["yq"]),
     {"w": WEIGHTS[0, 0, :, :].repeat(2, 0)[:4], "ws": np.array([0.01, 0.02, 0.03], np.float32),
      "wz": np.zeros(3, np.int8)}),
]  # fmt: skip


@pytest.mark.parametrize(("inner", "constants"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_quantised_operator(inner: NodeProto, constants: dict[str, np.ndarray]) -> None:
    model = single(inner, quantise=True, dequantise=True, **constants)
    wanted = run_onnxruntime(model, {"x": floats(2, 3, 4, 4)}, ["y"])[0]
    loaded = nf.load(model)
    assert loaded.verify(floats(2, 3, 4, 4)).ok
    found = run_onnxruntime(loaded.loaded.serialized_with_outputs(), {"x": floats(2, 3, 4, 4)}, ["y"])[0]
    assert np.abs(found - wanted).max() <= SCALES["u"] * 1.001  # one step where a half is rounded


GEMM = {"w": floats(5, 48), "b": floats(5)}
FLOAT_ROWS = [
    ("FusedConv leaky", [node("FusedConv", ["x", "w", "b", "z1"], ["y"], activation="LeakyRelu",
                              activation_params=[0.3], pads=[1, 1, 1, 1], domain=OWN)],
     {"w": floats(4, 3, 3, 3), "b": floats(4), "z1": floats(2, 4, 4, 4)}),
    ("FusedConv plain", [node("FusedConv", ["x", "w"], ["y"], domain=OWN)], {"w": floats(4, 3, 3, 3)}),
    ("FusedConv clip", [node("FusedConv", ["x", "w"], ["y"], activation="Clip", activation_params=[-1.0, 2.0],
                             domain=OWN)], {"w": floats(4, 3, 3, 3)}),
    ("FusedGemm", [node("Flatten", ["x"], ["f"]),
                   node("FusedGemm", ["f", "w", "b"], ["y"], activation="LeakyRelu", activation_alpha=0.2,
                        transB=1,
                        domain=OWN)], GEMM),
    ("BiasGelu", [node("BiasGelu", ["x", "b"], ["y"], domain=OWN)], {"b": floats(4)}),
    ("FastGelu", [node("FastGelu", ["x", "b"], ["y"], domain=OWN)], {"b": floats(4)}),
    ("FusedMatMul", [node("FusedMatMul", ["x", "w"], ["y"], alpha=0.5, transA=1, transB=1, domain=OWN)],
     {"w": floats(5, 4)}),
    ("SkipLayerNormalization",
     [node("Reshape", ["x", "sh"], ["r"]), node("Neg", ["r"], ["k"]),
      node("SkipLayerNormalization", ["r", "k", "g", "b", "b2"], ["n", "", "", "sum"], epsilon=1e-3,
           domain=OWN),
      node("Add", ["n", "sum"], ["y"])],
     {"sh": np.array([2, 12, 4]), "g": floats(4), "b": floats(4, seed=1), "b2": floats(4, seed=2)}),
    ("LayerNormalization early", [node("LayerNormalization", ["x", "g", "b"], ["y"])],
     {"g": floats(4), "b": floats(4)}),
    ("DynamicQuantizeMatMul",
     [node("DynamicQuantizeMatMul", ["x", "w", "ws", "wz", "b"], ["y"], domain=OWN)],
     {"w": np.arange(20, dtype=np.uint8).reshape(4, 5), "ws": np.array(0.1, np.float32),
      "wz": np.array(7, np.uint8), "b": floats(5)}),
    ("MatMulIntegerToFloat",
     [node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
      node("MatMulIntegerToFloat", ["q", "w", "qs", "ws", "qz", "wz"], ["y"], domain=OWN)],
     {"w": np.arange(20, dtype=np.uint8).reshape(4, 5), "ws": np.array(0.1, np.float32),
      "wz": np.array(7, np.uint8)}),
    ("ConvInteger",
     [node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
      node("ConvInteger", ["q", "w", "qz", "wz"], ["i"], pads=[1, 1, 1, 1]),
      node("Cast", ["i"], ["y"], to=1)],
     {"w": np.arange(54, dtype=np.uint8).reshape(2, 3, 3, 3), "wz": np.array(9, np.uint8)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "constants"), [row[1:] for row in FLOAT_ROWS], ids=[row[0] for row in FLOAT_ROWS]
)
def test_a_fused_operator(nodes: list[NodeProto], constants: dict[str, np.ndarray]) -> None:
    early = any(n.op_type == "LayerNormalization" for n in nodes)
    opset = 13 if early else 17
    model = make_model(
        nodes, {"x": (2, 3, 4, 4)}, constants=constants, opset=opset, extra_opsets={"com.microsoft": 1}
    )
    check(model, x=floats(2, 3, 4, 4), tolerance=1e-4)


def test_integer_operators_at_the_end_of_a_graph() -> None:
    """Their integers are carried as floats, and the output is declared so."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        node("ConvInteger", ["q", "w", "qz"], ["y"]),
    ]
    weights = {"w": np.arange(54, dtype=np.uint8).reshape(2, 3, 3, 3)}
    model = make_model(nodes, {"x": (2, 3, 4, 4)}, constants=weights)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    assert nf.load(model).verify(floats(2, 3, 4, 4)).ok
    both = [node("ConvInteger", ["q", "r", "qz", "rz"], ["y"], name="odd")]
    changing = make_model(
        [nodes[0], node("DynamicQuantizeLinear", ["x"], ["r", "rs", "rz"]), *both], {"x": (2, 3, 4, 4)}
    )
    with pytest.raises(nf.UnsupportedOperatorError, match=r"'odd'.*must be constants"):
        nf.load(changing)


def test_what_cannot_be_taken_apart_is_refused_by_name() -> None:
    fused = node("FusedConv", ["x", "w"], ["y"], activation="Sine", name="odd", domain=OWN)
    model = make_model(
        [fused], {"x": (1, 3, 4, 4)}, constants={"w": floats(4, 3, 3, 3)}, extra_opsets={"com.microsoft": 1}
    )
    with pytest.raises(nf.UnsupportedOperatorError, match=r"node 'odd' \(FusedConv\).*activation 'Sine'"):
        nf.load(model)
