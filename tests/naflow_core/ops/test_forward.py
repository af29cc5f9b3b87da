"""Every operator against onnxruntime, on the device and folded in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from naflow_core.ops import REGISTRY, contrib
from naflow_core.ops.registry import REALS
from support.op_case import Case
from support.op_cases import CASES


def reference(case: Case) -> list[np.ndarray]:
    """The node's outputs as onnxruntime computes them, unoptimised."""
    names = [f"i{n}" if a is not None else "" for n, a in enumerate(case.inputs)]
    outputs = [f"o{n}" for n in range(case.outputs)]
    attributes = {
        k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in case.attributes.items()
    }
    node = helper.make_node(case.op_type, names, outputs, domain=case.domain, **attributes)
    given = {n: a for n, a in zip(names, case.inputs, strict=True) if a is not None}
    declared = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given.items()
    ]
    graph = helper.make_graph(
        [node], "one", declared, [helper.make_empty_tensor_value_info(o) for o in outputs]
    )
    opsets = [helper.make_opsetid("", 18 if case.domain else case.opset)]
    opsets += [helper.make_opsetid(case.domain, case.opset)] if case.domain else []
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options).run(None, given)


def check(found: Sequence[Any], expected: list[np.ndarray], case: Case) -> None:
    assert len(found) >= len(expected), case
    for ours, theirs in zip(found, expected, strict=False):
        assert tuple(ours.shape) == theirs.shape, case
        values, wanted = np.asarray(ours), theirs.astype(np.float32) if theirs.dtype == np.float16 else theirs
        if not np.issubdtype(wanted.dtype, np.floating):
            np.testing.assert_array_equal(values, wanted, str(case))
            continue
        largest = np.nanmax(np.abs(wanted), initial=1e-30, where=np.isfinite(wanted))
        np.testing.assert_allclose(values, wanted, rtol=0, atol=case.tolerance * largest, err_msg=str(case))


def constant_inputs(case: Case) -> frozenset[int]:
    """Positions that the operator gets as numpy arrays although the rest is traced."""
    operator = REGISTRY.find(case.op_type, case.opset, case.domain)
    return operator.static | operator.static_if_known


def as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def on_device(cases: Sequence[Case]) -> list[tuple[Any, ...]]:
    """The results for traced inputs, all cases in one compiled program; numpy results pass through."""
    known: dict[int, tuple[Any, ...]] = {}

    @jax.jit
    def run(values: list[list[jax.Array]]) -> list[tuple[Any, ...]]:
        results = []
        for number, (case, given) in enumerate(zip(cases, values, strict=True)):
            operator = REGISTRY.find(case.op_type, case.opset, case.domain)
            static, queue = constant_inputs(case), iter(given)
            inputs = [
                a if a is None or position in static else next(queue)
                for position, a in enumerate(case.inputs)
            ]
            result = as_tuple(operator.function(*inputs, **case.attributes))
            if all(isinstance(r, np.ndarray) for r in result):
                known[number] = result
                result = ()
            results.append(result)
        return results

    arguments = []
    for case in cases:
        static = constant_inputs(case)
        arguments.append(
            [jnp.asarray(a) for n, a in enumerate(case.inputs) if a is not None and n not in static]
        )
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = run(arguments)
    return [known.get(number, result) for number, result in enumerate(found)]


@pytest.mark.parametrize("op_type", sorted({case.op_type for case in CASES}))
def test_agrees_with_onnxruntime(op_type: str) -> None:
    cases = [case for case in CASES if case.op_type == op_type]
    for case, found in zip(cases, on_device(cases), strict=True):
        operator = REGISTRY.find(case.op_type, case.opset, case.domain)
        operator.check_attributes(case.attributes)
        expected = reference(case)
        check(found, expected, case)
        check_interval(case, expected[0])
        if operator.foldable:
            check_folding(case, expected)


def check_interval(case: Case, expected: np.ndarray) -> None:
    """The announced interval, from the inputs' own, holds all values."""
    operator = REGISTRY.find(case.op_type, case.opset, case.domain)
    if operator.value_range is None or expected.size == 0:
        return
    known = [a if a is not None and a.size and a.dtype != bool else None for a in case.inputs]
    intervals = [(float(np.min(a)), float(np.max(a))) if a is not None else REALS for a in known]
    positions = constant_inputs(case)
    static = {f"input_{n}": a for n, a in enumerate(case.inputs) if n in positions and a is not None}
    low, high = operator.value_range(intervals, {**case.attributes, **static})
    slack = 1e-5 * max(1.0, float(np.max(np.abs(expected))))
    assert low - slack <= expected.min(), case
    assert expected.max() <= high + slack, case


def check_folding(case: Case, expected: list[np.ndarray]) -> None:
    """The same function on numpy arrays gives numpy arrays, exact types included."""
    with np.errstate(all="ignore"):
        found = as_tuple(
            REGISTRY.find(case.op_type, case.opset, case.domain).function(*case.inputs, **case.attributes)
        )
    assert all(isinstance(value, np.ndarray | np.generic) for value in found), case
    check(found, expected, case)
    for ours, theirs in zip(found, expected, strict=False):
        if case.same_type:
            assert ours.dtype == theirs.dtype, case


def test_every_operator_has_a_case() -> None:
    covered = {case.op_type for case in CASES}
    # onnxruntime has no kernel for these versions yet: tests of their own.
    ours = {name for domain, name, _ in REGISTRY.names() if domain in ("", contrib.DOMAIN)}  # not users'
    assert ours - covered == {"CumProd", "Swish"}


def test_swish_is_its_definition() -> None:
    x = np.linspace(-8, 8, 33, dtype=np.float32)
    swish = REGISTRY.find("Swish", 24).function
    expected = x / (1 + np.exp(-1.5 * x.astype(np.float64)))
    np.testing.assert_allclose(swish(x, alpha=1.5), expected, atol=1e-6)
    np.testing.assert_allclose(swish(jnp.asarray(x), alpha=1.5), expected, atol=1e-6)


def test_running_products() -> None:
    x = np.array([[2, 3, 4], [5, 1, -2]], np.float32)
    product = REGISTRY.find("CumProd", 26).function
    for exclusive, reverse, expected in (
        (0, 0, [[2, 6, 24], [5, 5, -10]]),
        (1, 0, [[1, 2, 6], [1, 5, 5]]),
        (0, 1, [[24, 12, 4], [-10, -2, -2]]),
        (1, 1, [[12, 4, 1], [-2, -2, 1]]),
    ):
        for array in (x, jnp.asarray(x)):
            found = product(array, np.array(1), exclusive=exclusive, reverse=reverse)
            np.testing.assert_array_equal(found, expected)


def test_new_modes_that_onnxruntime_lacks() -> None:
    x = np.arange(2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)
    to_depth, to_space = (REGISTRY.find(op, 28).function for op in ("SpaceToDepth", "DepthToSpace"))
    deep = to_depth(x, blocksize=2, mode="CRD")
    np.testing.assert_array_equal(deep[0, :4, 0, 0], [0, 1, 6, 7])
    np.testing.assert_array_equal(to_space(deep, blocksize=2, mode="CRD"), x)
    modulo = REGISTRY.find("Mod", 28).function
    a, b = np.array([5.5, -5.5, 5.5], np.float32), np.array([3, 3, -3], np.float32)
    for found in (modulo(a, b), modulo(jnp.asarray(a), b)):
        np.testing.assert_array_equal(found, [2.5, 0.5, -0.5])


def test_softmax_of_a_large_product() -> None:
    """Fused with the product before it, x - max(x) would be positive and its exponential inf."""
    softmax = REGISTRY.find("Softmax", 18).function
    for value in (7.7e9, 9.99e9):
        x = np.full((1, 1000), value, np.float32)
        y = jax.jit(lambda x: softmax(x / np.float32(3)))(x)
        np.testing.assert_allclose(y, np.full((1, 1000), 1e-3), rtol=1e-5)
