"""A few channels at a time give what all of them give together."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naflow_core as nf
from naflow_core.analysis.plan import Segment
from naflow_core.inverse.channels import TOGETHER_BYTES, channels_at_a_time, invert_some_channels
from naflow_core.inverse.linearised import LinearisedInverse, invert_linearised
from naflow_core.ops.registry import REALS
from naflow_core.solve import Stopping
from support.blocks import Net

SIDE = 6
CHANNELS = 6


def layer(op: str) -> tuple[Segment, tuple[jax.Array, ...]]:
    """A segment that is one layer of six channels, and its operands."""
    net = Net(3)
    net.conv("x", "c", 3, CHANNELS)
    net.add("Relu", ["c"], "r")
    if op == "Conv":
        net.conv("r", "t", CHANNELS, CHANNELS, group=CHANNELS)
        net.constants["w_t"][2] *= np.float32(1e3)
        net.constants["w_t"][4] = 0
        net.constants["w_t"][5] = np.float32(1 / 9)  # a blur takes many iterations
    else:
        net.add("AveragePool", ["r"], "t", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Relu", ["t"], "top")
    net.add("GlobalAveragePool", ["top"], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.dense("flat", "y", CHANNELS, 4)
    plan = nf.load(net.model()).inspect(input_shapes={"x": (2, 3, SIDE, SIDE)}).plan
    assert plan is not None
    (segment,) = (s for s in plan.segments if (s.source, s.target) == ("r", "t"))
    assert segment.systems == (0, 1)
    return segment, plan.program.operands(segment.operands, {})


@pytest.mark.parametrize(
    ("op", "size", "anchor", "bounds", "damping"),
    [
        ("Conv", 1, "activation", (0.0, math.inf), 0.3),
        ("Conv", 2, "activation", (0.0, 6.0), 0.0),
        ("Conv", 3, "origin", REALS, 0.3),
        ("Conv", 2, "origin", (0.0, math.inf), 0.0),
        ("Conv", 1, "relative", (0.0, math.inf), 0.1),
        ("AveragePool", 2, "activation", (0.0, math.inf), 0.3),
        ("AveragePool", 1, "origin", REALS, 0.3),
    ],
)
def test_as_together(op: str, size: int, anchor: str, bounds: tuple[float, float], damping: float) -> None:
    segment, weights = layer(op)
    with jax.enable_x64(True):
        operands = tuple(jnp.asarray(weight, float) for weight in weights)
        compare(segment, operands, size, anchor, bounds, damping)


def compare(
    segment: Segment,
    operands: tuple[jax.Array, ...],
    size: int,
    anchor: str,
    bounds: tuple[float, float],
    damping: float,
) -> None:
    random = np.random.default_rng(1)
    x0 = jnp.asarray(random.random((2, CHANNELS, SIDE, SIDE)))
    y0 = segment.subprogram(x0, operands)[0]
    y = jnp.asarray(random.standard_normal(y0.shape)) + y0
    rows = jnp.asarray(random.random(y0.shape) < 0.6, y.dtype)
    options = {
        "bounds": bounds,
        "anchor": anchor,
        "unique": damping > 0,
        "damping": damping,
        # undamped, a blur is so ill-conditioned that rounding is all one compares after a dozen iterations
        "stopping": Stopping(1e-4, 40 if damping else 6),
    }

    @jax.jit
    def together(x0: jax.Array, y: jax.Array, rows: jax.Array) -> LinearisedInverse:
        function = lambda x: segment.subprogram(x, operands)[0]  # noqa: E731
        return invert_linearised(function, x0, y, rows, systems=(0, 1), **options)

    @jax.jit
    def apart(x0: jax.Array, y: jax.Array, rows: jax.Array) -> LinearisedInverse:
        return invert_some_channels(segment.subprogram, operands, x0, y, rows, size=size, **options)

    whole, offset = together(x0, y, rows)
    found, own = apart(x0, y, rows)
    assert found.x.dtype == np.float64
    scale = np.abs(whole.x).max(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(found.x / scale, whole.x / scale, atol=1e-5)
    np.testing.assert_allclose(own, offset, atol=1e-9 * float(jnp.abs(y).max()))
    np.testing.assert_array_equal(found.iterations, whole.iterations)
    np.testing.assert_array_equal(found.converged, whole.converged)
    np.testing.assert_allclose(found.relative_residual, whole.relative_residual, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(found.reference2, whole.reference2, rtol=1e-7)


def test_one_channel_that_does_not_converge_is_told() -> None:
    segment, operands = layer("Conv")
    random = np.random.default_rng(2)

    @jax.jit
    def inverse(x0: jax.Array) -> LinearisedInverse:
        y = segment.subprogram(x0, operands)[0].at[:, :5].set(0)
        return invert_some_channels(
            segment.subprogram,
            operands,
            x0,
            y,
            jnp.ones_like(y).at[:, :5].set(0),  # nothing is asked of the others
            size=1,
            bounds=REALS,
            anchor="origin",
            unique=False,
            damping=0.0,
            stopping=Stopping(1e-6, 3),
        )

    found, _ = inverse(jnp.asarray(random.random((2, CHANNELS, SIDE, SIDE)), jnp.float32))
    assert not np.asarray(found.converged).any()
    assert (np.asarray(found.iterations) == 3).all()


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 32, 112, 112), 2),
        ((1, 96, 56, 56), 8),
        ((4, 96, 56, 56), 2),
        ((1, 97, 56, 56), 1),
        ((1, 16, 400, 400), 1),
        ((1, 16, 8, 8), None),
        ((1, 1, 400, 400), None),
    ],
)
def test_what_goes_together_fits(shape: tuple[int, ...], size: int | None) -> None:
    assert TOGETHER_BYTES == 128 << 10
    assert channels_at_a_time(shape) == size
