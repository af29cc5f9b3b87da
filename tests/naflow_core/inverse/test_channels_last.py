"""Dense convolutions are solved with another layout inside, which changes nothing but the time."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onnx import ModelProto

import naflow_core as nf
from naflow_core import cascade
from naflow_core.analysis.plan import Segment
from naflow_core.inverse.channels_last import invert_channels_last
from naflow_core.inverse.linearised import LinearisedInverse, invert_linearised
from naflow_core.ops.registry import REALS
from naflow_core.solve import Stopping
from support import replicas
from support.blocks import SIZE, Net, picture

INNER, OUTER = 6, 8
KINDS = {
    "plain": {},
    "strided": {"strides": [2, 2]},
    "dilated": {"dilations": [2, 2]},
    "grouped": {"group": 2},
}
NON_NEGATIVE = (0.0, math.inf)


def network(kind: str) -> ModelProto:
    net = Net(6)
    net.conv("x", "c", 3, INNER)
    net.add("Relu", ["c"], "r")
    net.conv("r", "t", INNER, OUTER, **KINDS[kind])
    net.add("Relu", ["t"], "top")
    net.add("GlobalAveragePool", ["top"], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.dense("flat", "y", OUTER, 4)
    return net.model()


def segment_of(model: ModelProto) -> tuple[Segment, tuple[jax.Array, ...]]:
    """The convolution behind "r", and its weights and bias."""
    plan = nf.load(model).inspect(input_shapes={"x": (2, 3, SIZE, SIZE)}).plan
    assert plan is not None
    (segment,) = (s for s in plan.segments if (s.source, s.target) == ("r", "t"))
    assert segment.channels_last
    return segment, plan.program.operands(segment.operands, {})


def problem(linear: replicas.Linearised) -> tuple[np.ndarray, np.ndarray]:
    """Something to invert, and the equations that count."""
    random = np.random.default_rng(1)
    rows = random.random(linear.y0.shape) < 0.6
    return np.where(rows, linear.y0 + random.normal(size=linear.y0.shape), 0), rows


@pytest.mark.parametrize(
    ("kind", "anchor", "bounds", "damping"),
    [
        ("plain", "origin", REALS, 0.0),
        ("plain", "activation", NON_NEGATIVE, 0.3),
        ("strided", "origin", NON_NEGATIVE, 0.2),
        ("dilated", "relative", NON_NEGATIVE, 0.1),
        ("grouped", "activation", (0.0, 6.0), 0.3),
    ],
)
def test_is_the_dense_solution(kind: str, anchor: str, bounds: tuple[float, float], damping: float) -> None:
    model = network(kind)
    segment, operands = segment_of(model)
    x0 = replicas.tensors(model, picture(3), ["r"])["r"]
    linear = replicas.Linearised.of(replicas.Function(model, "r", "t"), x0)
    y, rows = problem(linear)

    @jax.jit
    def inverse(x0: jax.Array, y: jax.Array, rows: jax.Array) -> LinearisedInverse:
        return invert_channels_last(
            lambda x: segment.subprogram(x, operands)[0],
            x0,
            y,
            rows,
            bounds=bounds,
            anchor=anchor,
            unique=damping > 0,
            damping=damping,
            stopping=Stopping(1e-6, 3000),
            view=None,
        )

    found = inverse(*(jnp.asarray(values, jnp.float32) for values in (x0, y, rows)))
    np.testing.assert_allclose(found.offset.reshape(-1), linear.offset, atol=2e-5)
    expected = linear.preimage(y, rows, damping=damping, anchor=anchor, bounds=bounds)
    np.testing.assert_allclose(found.solution.x, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("anchor", "bounds", "damping", "map_change"),
    [
        ("origin", REALS, 0.0, 0.0),
        ("activation", (0.0, 6.0), 0.0, 0.0),
        ("activation", NON_NEGATIVE, 0.3, 0.05),
    ],
)
def test_is_what_channels_first_gives(
    anchor: str, bounds: tuple[float, float], damping: float, map_change: float
) -> None:
    """Down to the iterations, with pictures that stop at their own and with a map that is watched."""
    segment, weights = segment_of(network("strided"))
    random = np.random.default_rng(2)
    with jax.enable_x64(True):
        operands = tuple(jnp.asarray(weight, float) for weight in weights)

        def function(x: jax.Array) -> jax.Array:
            return segment.subprogram(x, operands)[0]

        x0 = jnp.asarray(random.random((2, INNER, SIZE, SIZE)))
        y = (
            function(x0)
            + random.standard_normal(function(x0).shape) * np.array([1, 1e-3])[:, None, None, None]
        )
        rows = jnp.asarray(random.random(y.shape) < 0.6, y.dtype)
        options = {
            "bounds": bounds,
            "anchor": anchor,
            "unique": damping > 0,
            "damping": damping,
            "stopping": Stopping(1e-4, 40, map_change),
            "view": (lambda x: jnp.maximum(x, 0).sum(axis=1)) if map_change else None,
        }

        @jax.jit
        def both(x0: jax.Array, y: jax.Array, rows: jax.Array) -> tuple[LinearisedInverse, LinearisedInverse]:
            first = invert_linearised(function, x0, y, rows, systems=(0,), **options)
            return first, invert_channels_last(function, x0, y, rows, **options)

        first, last = both(x0, y, rows)
        assert last.solution.x.dtype == np.float64
        np.testing.assert_allclose(last.solution.x, first.solution.x, atol=1e-6)
        np.testing.assert_allclose(last.offset, first.offset, atol=1e-12)
        np.testing.assert_array_equal(last.solution.iterations, first.solution.iterations)
        np.testing.assert_array_equal(last.solution.converged, first.solution.converged)


def test_which_layers_are() -> None:
    net = Net(7)
    net.conv("x", "patches", 3, 8)
    net.conv("patches", "dense", 8, 8)
    net.conv("dense", "depthwise", 8, 8, group=8)
    net.conv("depthwise", "pointwise", 8, 8, 1)
    net.conv("pointwise", "grouped", 8, 8, group=4)
    net.add("Relu", ["grouped"], "top")
    net.add("GlobalAveragePool", ["top"], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.dense("flat", "y", 8, 4)
    plan = nf.load(net.model()).inspect(input_shapes={"x": (1, 3, SIZE, SIZE)}).plan
    assert plan is not None
    assert [s.target for s in plan.segments if s.channels_last] == ["dense", "grouped"]


def test_a_cascade_solves_its_convolutions_so(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def spy(function, x0, *rest, **options):  # type: ignore[no-untyped-def]
        calls.append(x0.shape)
        return invert_channels_last(function, x0, *rest, **options)

    monkeypatch.setattr(cascade, "invert_channels_last", spy)
    model, x = nf.load(network("grouped")), picture(3)
    explained = model.explain(x, layers="spine").collect()
    assert calls == ([(1, INNER, SIZE, SIZE)] if jax.default_backend() == "cpu" else [])
    assert all(flow.diagnostics.converged.all() for flow in explained.flows)
