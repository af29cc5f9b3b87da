"""Normal equations cell by cell against dense solves in float64, and which layers take them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import naflow_core as nf
from naflow_core.solve import Stopping, least_squares, least_squares_by_cells
from support.onnx_graphs import make_model

STOPPING = Stopping(1e-4, 500)


def maps(matrix, rows):
    return (
        lambda v: rows * jnp.einsum("oi,ni...->no...", matrix, v),
        lambda u: jnp.einsum("oi,no...->ni...", matrix, rows * u),
    )


@functools.partial(jax.jit, static_argnums=0)
def solve(method, matrix, rows, b, damping):
    forward, adjoint = maps(matrix, rows)
    if method == "cells":
        return least_squares_by_cells(matrix, rows, forward, adjoint, b, damping=damping, stopping=STOPPING)
    return least_squares(forward, adjoint, b, damping=damping, relative=True, stopping=Stopping(1e-6, 500))


def case(seed, inner=5, outer=9, spatial=(3, 4), count=2):
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(outer, inner)).astype(np.float32)
    rows = random.random((count, outer, *spatial)) * (random.random((count, outer, *spatial)) < 0.4)
    rows[:, :, 0] = 0  # cells without an equation
    b = rows * random.normal(size=rows.shape)
    return matrix, rows.astype(np.float32), b.astype(np.float32)


def dense(matrix, rows, b, damping):
    """One picture after the other, as one system each."""
    found = []
    for m, right in zip(rows.astype(np.float64), b.astype(np.float64), strict=True):
        outer, inner = matrix.shape
        cells = m[0].size
        a = np.zeros((outer, cells, inner, cells))
        for cell in range(cells):
            a[:, cell, :, cell] = m.reshape(outer, -1)[:, cell, None] * matrix
        a, right = a.reshape(outer * cells, -1), right.reshape(-1)
        gain = np.linalg.norm(a.T @ right) / np.linalg.norm(right)
        normal = a.T @ a + (damping * gain) ** 2 * np.eye(inner * cells)
        found.append(np.linalg.solve(normal, a.T @ right).reshape(inner, *m.shape[1:]))
    return np.stack(found)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3, 2.0]))
def test_the_cells_solve_what_the_whole_system_does(seed, damping):
    matrix, rows, b = case(seed)
    found = solve("cells", matrix, rows, b, damping)
    expected = dense(matrix, rows, b, damping)
    np.testing.assert_allclose(found.x, expected, atol=1e-5 * np.abs(expected).max())
    assert found.converged.all()
    assert list(found.iterations) == [1, 1]
    assert (np.asarray(found.relative_residual) < 1e-5).all()


def test_the_residual_is_measured_not_assumed():
    """With next to no damping, cells of fewer equations than channels are beyond float32's factors."""
    matrix, rows, b = case(1, inner=12, outer=6)
    assert not solve("cells", matrix, rows, b, 1e-6).converged.all()


def test_a_picture_without_equations_gives_zeros():
    matrix, rows, b = case(2)
    rows[1], b[1] = 0, 0
    found = solve("cells", matrix, rows, b, 0.3)
    assert not np.asarray(found.x[1]).any()
    assert list(found.iterations) == [1, 0]
    assert found.converged.all()
    alone = solve("cells", matrix, rows[:1], b[:1], 0.3)
    np.testing.assert_allclose(found.x[:1], alone.x, atol=1e-6)


def layer(weights, **attributes):
    """A linear tensor of 8 channels behind a convolution, and the layer in question."""
    random = np.random.default_rng(0)
    constants = {"stem": (8, 2, 3, 3), "weights": weights, "last": (4, 6, 3, 3)}
    constants = {name: random.normal(size=shape).astype(np.float32) for name, shape in constants.items()}
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["t"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["t", "weights"], ["u"], **attributes),
        helper.make_node("Relu", ["u"], ["v"]),
        helper.make_node("Conv", ["v", "last"], ["w"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["w"], ["top"]),
        helper.make_node("GlobalAveragePool", ["top"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    model = make_model(nodes, {"x": [1, 2, 6, 6]}, ["y"], constants)
    return nf.load(model)


@pytest.mark.parametrize(
    ("weights", "attributes", "taken"),
    [
        ((6, 8, 1, 1), {}, True),
        ((6, 8, 1, 1), {"auto_pad": "SAME_UPPER"}, True),
        ((6, 4, 1, 1), {"group": 2}, False),
        ((6, 8, 1, 1), {"strides": [2, 2]}, False),
        ((6, 8, 1, 1), {"pads": [1, 1, 1, 1]}, False),
        ((6, 8, 3, 3), {"pads": [1, 1, 1, 1]}, False),
    ],
)
def test_layers_of_one_cell_and_few_channels_take_it(weights, attributes, taken):
    model = layer(weights, **attributes)
    x = np.random.default_rng(2).normal(size=(1, 2, 6, 6)).astype(np.float32)
    flows = {}
    for damping in (0.3, 0.099):
        method = nf.Method(damping=damping, tolerance=1e-6, max_iterations=2000)
        flows[damping] = {flow.tensor: flow for flow in model.explain(x, method=method, layers="spine")}
    direct = flows[0.3]["t"].diagnostics
    assert direct.converged.all()
    assert (direct.iterations == 1).all() == taken
    assert (flows[0.099]["t"].diagnostics.iterations > 1).all()  # too little damping for factors


def test_the_flows_are_those_of_the_iterations():
    matrix, rows, b = case(3, inner=8, outer=24, spatial=(7, 7))
    direct, iterated = (solve(method, matrix, rows, b, 0.3).x for method in ("cells", "cg"))
    np.testing.assert_allclose(direct, iterated, atol=2e-5 * np.abs(iterated).max())
