"""The operator table as such: registration, misses, folding limits, intervals, coverage of real models."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import version_converter

from naflow_core.errors import Refusal
from naflow_core.ops import REGISTRY
from naflow_core.ops.array import fold_limit_bytes
from naflow_core.ops.registry import OperatorRegistry
from support.op_case import Case


def identity(x: Any, *, flag: int = 0) -> Any:
    return x


def test_duplicates_are_refused_and_versions_found() -> None:
    table = OperatorRegistry()
    table.register("Own", since=2, domain="my.ops")(identity)
    newer: Callable[[Any], Any] = lambda x: -x  # noqa: E731
    table.register("Own", since=5, domain="my.ops")(newer)
    with pytest.raises(ValueError, match=r"my\.ops:Own since 5 is already registered"):
        table.register("Own", since=5, domain="my.ops")(identity)
    assert table.find("Own", 4, "my.ops").function is identity
    assert table.find("Own", 9, "my.ops").function is newer
    with pytest.raises(Refusal, match="from opset 2 on, the model has 1"):
        table.find("Own", 1, "my.ops")
    table.unregister("Own", since=5, domain="my.ops")
    assert table.find("Own", 9, "my.ops").function is identity


def test_a_miss_says_so() -> None:
    with pytest.raises(Refusal, match=r"no operator ai\.onnx:Convolve is registered"):
        REGISTRY.find("Convolve", 18)
    line = r"@nf\.ops\.register\(\"Twist\", domain=\"my\.ops\", since=3\) would add it"
    with pytest.raises(Refusal, match=line):
        REGISTRY.find("Twist", 3, "my.ops")
    with pytest.raises(
        Refusal, match=r"draws random numbers.*register\(\"RandomNormalLike\", since=18\) would"
    ):
        REGISTRY.find("RandomNormalLike", 18)
    with pytest.raises(Refusal, match="at optimisation level 'extended'"):
        REGISTRY.find("Conv", 1, "com.microsoft.nchwc")
    with pytest.raises(Refusal, match="attribute 'speed' is not implemented"):
        REGISTRY.find("Conv", 18).check_attributes(["group", "speed"])


def test_signatures_match_the_schema() -> None:
    """Every attribute ONNX knows is taken, and positions marked static exist."""
    not_taken = {("Constant", "sparse_value"), ("Constant", "value_string"), ("Constant", "value_strings")}
    ours = [(name, versions) for domain, name, versions in REGISTRY.names() if not domain]
    for name, versions in ours:
        for since in versions:
            operator = REGISTRY.find(name, since)
            following = [v for v in versions if v > since]
            latest = min(following) - 1 if following else onnx.defs.onnx_opset_version()
            schema = onnx.defs.get_schema(name, max(latest, 18))
            missing = {a for a in schema.attributes if not schema.attributes[a].name.startswith("consumed")}
            assert {(name, a) for a in missing - operator.attributes} <= not_taken
            kinds = [p.kind for p in inspect.signature(operator.function).parameters.values()]
            positional = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
            assert max(operator.static, default=-1) < max(positional, 1)


@pytest.fixture
def small_limit() -> Iterator[None]:
    token = fold_limit_bytes.set(1000)
    yield
    fold_limit_bytes.reset(token)


LARGE = np.array([1 << 20, 1 << 20])
GROWING = [
    Case("Expand", (np.zeros((1, 1), np.float32), LARGE)),
    Case("Tile", (np.zeros((1, 1), np.float32), LARGE)),
    Case("ConstantOfShape", (LARGE,)),
    Case("Range", (np.array(0), np.array(1 << 40), np.array(1))),
    Case("Pad", (np.zeros((1, 1), np.float32), np.array([0, 0, 1 << 20, 1 << 20]))),
    Case("OneHot", (np.zeros(4, np.int64), np.array(1 << 40), np.array([0, 1]))),
    Case("Add", (np.zeros((1 << 10, 1), np.float32), np.zeros((1, 1 << 10), np.float32))),
    Case("Where", (np.zeros((1 << 10, 1), bool), np.zeros((1, 1 << 10)), np.zeros(1))),
    Case("MatMul", (np.zeros((1 << 10, 1), np.float32), np.zeros((1, 1 << 10), np.float32))),
    Case("Gather", (np.zeros((1, 100), np.float32), np.zeros(100, np.int64))),
    Case("Concat", (np.zeros(100, np.float32),) * 4, {"axis": 0}),
]


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("case", GROWING, ids=lambda case: case.op_type)
def test_growth_is_refused_before_memory_is_taken(case: Case) -> None:
    with pytest.raises(Refusal, match="the limit is 1000"):
        REGISTRY.find(case.op_type, 18).function(*case.inputs, **case.attributes)


REFUSED = [
    (
        Case("BatchNormalization", (np.ones((1, 2)),) + (np.ones(2),) * 4, {"training_mode": 1}),
        "training mode",
    ),
    (Case("Dropout", (np.ones(2), np.array(0.5), np.array(True))), "training mode"),
    (Case("Reshape", (np.ones((2, 3)), np.array([4, -1]))), "do not fit shape"),
    (Case("Split", (np.ones(4), np.array([1, 2]))), "do not add up"),
    (Case("Squeeze", (np.ones((2, 3)), np.array([0]))), "not all of length 1"),
    (Case("Transpose", (np.ones(2),), {"axis": 1}), "attribute 'axis'"),
    (Case("Softmax", (np.ones(2),), {"axis": 3}), "axis 3 lies outside"),
    (Case("Unsqueeze", (np.ones(2), np.array([0, 0]))), "name one axis twice"),
    (Case("Gemm", (np.ones(2), np.ones((2, 2)))), "Gemm needs matrices"),
    (Case("Conv", (np.ones((1, 3, 4, 4)), np.ones((2, 2, 3, 3)))), "do not fit an input"),
    (Case("Cast", (np.ones(2),), {"to": onnx.TensorProto.STRING}), "casting to STRING"),
    (Case("QuantizeLinear", (np.ones((1, 2)), np.ones(3))), "does not fit axis"),
    (Case("Add", (np.ones(2), np.ones(3))), "do not broadcast"),
]


@pytest.mark.parametrize(("case", "reason"), REFUSED, ids=str)
def test_what_cannot_be_done_is_refused_with_a_reason(case: Case, reason: str) -> None:
    operator = REGISTRY.find(case.op_type, 18)
    arrays = [a.astype(np.float32) if a is not None and a.dtype == np.float64 else a for a in case.inputs]

    def build() -> None:
        operator.check_attributes(case.attributes)
        operator.function(*arrays, **case.attributes)

    with pytest.raises(Refusal, match=reason):
        build()


def models() -> list[Path]:
    zoo = os.environ.get("NAFLOW_ZOO")
    return sorted(Path(zoo).glob("**/*.onnx")) if zoo else []


@pytest.mark.skipif(not models(), reason="NAFLOW_ZOO names no folder of ONNX models")
@pytest.mark.parametrize("path", models(), ids=lambda path: path.stem)
def test_real_models_are_covered(path: Path) -> None:
    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 18:
        model, opset = version_converter.convert_version(model, 18), 18
    for node in model.graph.node:
        operator = REGISTRY.find(node.op_type, opset, node.domain)
        operator.check_attributes([a.name for a in node.attribute])
