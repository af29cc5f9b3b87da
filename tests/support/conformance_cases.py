"""The backend test suite that ships inside the onnx package: models with inputs and expected outputs."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from onnx import ModelProto, TensorProto, numpy_helper, version_converter

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
_DATA = Path(onnx.backend.test.__file__).parent / "data"
_LIGHT_RTOL, _LIGHT_ATOL = 2e-3, 1e-5


@dataclass(frozen=True)
class ConformanceCase:
    """One model with what goes in and what must come out.

    Attributes:
        name: onnx's own, without "test_"; unique over all kinds.
        operator: what the case is about: "Conv", or "ai.onnx.ml:Binarizer"; "" for whole models.
        inputs: by graph input; other objects than arrays where the suite has sequences and the like.
        expanded: the operator spelt out in simpler ones (an ONNX function body).
    """

    name: str
    kind: str
    operator: str
    expanded: bool
    model: ModelProto
    inputs: dict[str, Any]
    outputs: tuple[Any, ...]
    rtol: float
    atol: float

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"


@functools.cache
def load_cases(kind: str) -> tuple[ConformanceCase, ...]:
    """All cases of one kind, sorted by name."""
    own = {"node": _node_cases, "light": _light_cases}
    cases = own[kind]() if kind in own else _stored_cases(kind)
    return tuple(sorted(cases, key=lambda case: case.name))


@functools.cache
def grouped_cases() -> dict[str, tuple[ConformanceCase, ...]]:
    """All cases by what they are about: an operator, "Conv"; one spelt out in others, "Gelu-expanded";
    a suite of small models, "simple"; one network, "light_resnet50"."""
    groups: dict[str, list[ConformanceCase]] = {}
    for kind in KINDS:
        for case in load_cases(kind):
            about = case.operator + ("-expanded" if case.expanded else "")
            groups.setdefault(about or (case.name if kind == "light" else kind), []).append(case)
    return {name: tuple(cases) for name, cases in sorted(groups.items())}


def _node_cases() -> Iterator[ConformanceCase]:
    # The package makes these when it is imported, from numpy's global generator.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_node_model_tests

        tests = load_node_model_tests()
    np.random.set_state(state)  # noqa: NPY002
    first = {test.name: _operator(test.model) for test in tests}
    for test in tests:
        base = re.sub(r"_expanded(_.*)?$", "", test.name)
        expanded = base != test.name and base in first
        ((inputs, outputs),) = test.data_sets
        model = _lifted(test.model)
        yield _case(
            test.name,
            "node",
            first[base if expanded else test.name],
            expanded,
            model,
            inputs,
            outputs,
            (test.rtol, test.atol),
        )


def _stored_cases(kind: str) -> Iterator[ConformanceCase]:
    for folder in sorted((_DATA / kind).iterdir()):
        if not (folder / "model.onnx").is_file():
            continue
        model = _lifted(onnx.load(folder / "model.onnx"))
        given = {tensor.name for tensor in model.graph.initializer}
        fed = [value for value in model.graph.input if value.name not in given]
        for data in sorted(folder.glob("test_data_set_*")):
            inputs, outputs = (
                [_read(path, value) for path, value in zip(_numbered(data, prefix), values, strict=True)]
                for prefix, values in (("input", fed), ("output", model.graph.output))
            )
            name = folder.name if data.name == "test_data_set_0" else f"{folder.name}_{data.name[14:]}"
            yield _case(name, kind, "", False, model, inputs, outputs, (1e-3, 1e-7))


def _lifted(model: ModelProto) -> ModelProto:
    """Some cases, all of PyTorch's, are older than the oldest opset that is read: onnx brings them there."""
    opset = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0)
    return version_converter.convert_version(model, 7) if 0 < opset < 7 else model


def _light_cases() -> Iterator[ConformanceCase]:
    for path in sorted((_DATA / "light").glob("*.onnx")):
        model = onnx.load(path)
        given = {tensor.name for tensor in model.graph.initializer}
        inputs = []
        for value in model.graph.input:
            if value.name in given:
                continue
            shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
        expected = [onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb"))]
        yield _case(path.stem, "light", "", False, model, inputs, expected, (_LIGHT_RTOL, _LIGHT_ATOL))


def _case(
    name: str,
    kind: str,
    operator: str,
    expanded: bool,
    model: ModelProto,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    tolerance: tuple[float, float],
) -> ConformanceCase:
    given = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in given]
    fed = dict(zip(names, map(_plain, inputs), strict=True))
    expected = tuple(map(_plain, outputs))
    return ConformanceCase(
        name.removeprefix("test_"), kind, operator, expanded, model, fed, expected, *tolerance
    )


def _operator(model: ModelProto) -> str:
    node = model.graph.node[0]
    return f"{node.domain}:{node.op_type}" if node.domain else node.op_type


def _numbered(folder: Path, prefix: str) -> list[Path]:
    return sorted(folder.glob(f"{prefix}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))


def _read(path: Path, value: onnx.ValueInfoProto) -> Any:
    kind = value.type.WhichOneof("value")
    if kind == "tensor_type":
        return onnx.load_tensor(path)
    message = onnx.SequenceProto() if kind == "sequence_type" else onnx.OptionalProto()
    message.ParseFromString(path.read_bytes())
    return message


def _plain(value: Any) -> Any:
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic | int | float) else value
