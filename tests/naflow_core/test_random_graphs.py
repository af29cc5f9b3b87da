"""Networks composed by chance against onnxruntime, and what must hold for their cascades.

A few of them by default; NAFLOW_RANDOM_GRAPHS=500 runs that many of each kind. A failure names the seed and
the number of blocks, from which `random_graph` builds the network again.
"""

from __future__ import annotations

import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import naflow_core as nf
from naflow_core import cascade
from naflow_core.ahead import drop_programs
from support.onnx_graphs import make_model, run_onnxruntime
from support.random_graphs import Grower, Maps, conv, head, normalisation, random_graph, shuffle

SEEDS, BLOCKS = st.integers(0, 2**32 - 1), st.integers(1, 3)
RUN = {"max_iterations": 40, "tolerance": 1e-3}
METHODS = [
    nf.Method(**RUN),
    nf.Method.preset("paper", **RUN),
    nf.Method(rows="active", anchor="signed", **RUN),
    nf.Method(rows="all", abandon=nf.Abandonment("mass-each", 0.9), feasible=False, **RUN),
    nf.Method(anchor="relative", evidence="net", abandon=nf.Abandonment("balanced-mass", 0.9), **RUN),
]

DRAWN = itertools.count()

RETAINED = [nf.Method(rows="retained", **RUN), METHODS[1]]
"""Abandoned neurons put no equation."""


def some(count: int) -> settings:
    """So many examples, the same ones each time, or as many as the environment asks for.

    Nothing is shrunk: a smaller seed is no smaller network, and every attempt would compile another one.
    """
    wanted = os.environ.get("NAFLOW_RANDOM_GRAPHS")
    return settings(
        max_examples=int(wanted) if wanted else count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
    )


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    """Every network is compiled for a single use."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def make_room():
    """A process cannot hold the programs of hundreds of networks: each maps memory, which is limited."""
    if next(DRAWN) % 20 == 19:
        drop_programs()


def drawn(seed, blocks, *rest):
    make_room()
    return random_graph(seed, blocks, *rest)


@some(12)
@given(SEEDS, BLOCKS)
def test_every_tensor_is_as_onnxruntime_computes_it(seed, blocks):
    model, x = drawn(seed, blocks)
    found = nf.load(model).verify(x)
    assert found.tensors
    assert found.ok, [t for t in found.tensors if not t.within(found.tolerance)]


@some(4)
@given(SEEDS, BLOCKS)
def test_flows_are_finite_and_in_order(seed, blocks):
    """For noise, for a constant picture, and for one that is far out of range."""
    network, noise = drawn(seed, blocks)
    count, _, *size = noise.shape
    model, method = nf.load(network), METHODS[seed % len(METHODS)]
    for x in (noise, np.full_like(noise, 0.5), 1e6 * noise):
        explanation = model.explain(x, method=method, layers="spine")
        plan = explanation.plan
        assert [n for n in plan.spine if n in plan.layouts] == list(explanation.layers)
        assert (explanation.layers[0], explanation.layers[-1]) == ("x", plan.top)
        flows = list(explanation)
        assert [flow.index for flow in flows] == list(range(len(explanation.layers)))[::-1]
        for flow in flows:
            spatial = [plan.program.shapes[flow.tensor][axis] for axis in plan.layouts[flow.tensor]]
            assert flow.map.shape == (count, *spatial)
            assert flow.map.dtype == np.float32
            assert np.isfinite(flow.map).all()
            assert (flow.map >= 0).all()
            diagnostics = flow.diagnostics
            assert np.isfinite(diagnostics.relative_residual).all()
            assert np.isfinite(diagnostics.conservation_gap).all()
            assert ((diagnostics.retained_fraction >= 0) & (diagnostics.retained_fraction <= 1)).all()
            assert (diagnostics.iterations <= method.max_iterations).all()
        assert flows[-1].map.shape == (count, *size)


@some(3)
@given(SEEDS, BLOCKS)
def test_activation_mode_is_the_activation_times_the_whole_gradient(seed, blocks):
    """t_k where its gradient is not zero: no chain of steps, but one derivative of the score per tensor."""
    model, x = drawn(seed, blocks)
    method = nf.Method.preset("published-code")
    explanation = nf.load(model).explain(x, method=method, layers="spine")
    plan, classes = explanation.plan, explanation.prediction.target
    flows = {flow.tensor: flow for flow in explanation}
    chosen = ["x", plan.spine[seed % len(plan.spine)]]
    for name in {n for n in chosen if n in flows}:
        value = x if name == "x" else tensors(model, x, [name])[name]
        part, operands = plan.program.extract(name, (plan.head.scores,))
        constants = plan.program.operands(operands, {})

        def score(t, part=part, constants=constants):
            (scores,) = part(t, constants)
            return jnp.sum(scores.reshape(len(x), -1)[jnp.arange(len(x)), jnp.asarray(classes)])

        product = np.maximum(value * np.asarray(jax.jit(jax.grad(score))(value)), 0)
        others = tuple(axis for axis in range(1, value.ndim) if axis not in plan.layouts[name])
        expected = product.sum(axis=others)
        np.testing.assert_allclose(flows[name].map, expected, atol=allowance(expected, flows.values()))


def allowance(expected, flows):
    """Where gradients cancel, as behind the mean of what was normalised, a map is all rounding."""
    largest = max(flow.map.max() for flow in flows)
    return 1e-4 * expected.max() + 1e-6 * largest + 1e-20


def tensors(model, x, names):
    """Forward values by name, as onnxruntime computes them."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    present = {output.name for output in twin.graph.output}
    twin.graph.output.extend(make_model([], {}, [n for n in names if n not in present]).graph.output)
    return dict(zip(names, run_onnxruntime(twin, {"x": x}, names), strict=True))


def unseen_channel(g: Grower, x: Maps, factor: float) -> None:
    """Convolution, Relu, and a classifier that does not look at channel 0; its weights are scaled."""
    y = conv(g, x, 3, same=True)
    for name in g.nodes[-1].input[1:]:
        g.constants[name][0] *= np.float32(factor)
    kernel = g.kernel(3, 3)
    g.constants[kernel][0] = 0
    g.add("MatMul", [g.put("Flatten", g.put("GlobalAveragePool", g.put("Relu", y.name))), kernel], "y")


@some(2)
@given(SEEDS, BLOCKS)
def test_scaling_a_channel_that_nothing_looks_at_changes_no_flow(seed, blocks):
    method = RETAINED[seed % 2]
    flows = []
    for factor in (1.0, 7.0):
        model, x = drawn(seed, blocks, functools.partial(unseen_channel, factor=factor))
        explanation = nf.load(model).explain(x, method=method, layers="spine")
        flows.append({flow.tensor: flow for flow in explanation})
    assert flows[0].keys() == flows[1].keys()
    for name, before in flows[0].items():
        atol = allowance(before.map, flows[0].values())
        np.testing.assert_allclose(flows[1][name].map, before.map, atol=atol, err_msg=name)


def mixing(g: Grower, x: Maps) -> Maps:
    """An orthogonal 1x1 convolution, or one of separate 2x2 windows, with gains that differ."""
    k = 2 if x.height % 2 == x.width % 2 == 0 and x.channels < 3 else 1
    rows = x.channels * k * k
    matrix = np.linalg.qr(g.chance.normal(size=(rows, rows)))[0] * g.chance.uniform(0.7, 1.5, (rows, 1))
    kernel = g.constant(g.name("kernel"), matrix.reshape(rows, x.channels, k, k).astype(np.float32))
    y = g.put("Conv", x.name, kernel, g.uniform(-0.2, 0.3, rows), strides=[k, k])
    return Maps(y, rows, x.height // k, x.width // k)


def bending(g: Grower, x: Maps) -> Maps:
    kind = g.pick(["LeakyRelu", "Elu", "Selu", "Softplus", "PRelu", "Swish", "Mish"])
    if kind == "PRelu":
        return Maps(g.put(kind, x.name, g.uniform(0.1, 0.5, x.channels, 1, 1)), *x.shape)
    if kind == "Swish":
        return Maps(g.put("Mul", x.name, g.put("Sigmoid", x.name)), *x.shape)
    return Maps(g.put(kind, x.name), *x.shape)


def shifting(g: Grower, x: Maps) -> Maps:
    op = g.pick(["Add", "Sub", "Mul", "Div"])
    return Maps(g.put(op, x.name, g.uniform(0.5, 2.0, *g.pick([(), (x.channels, 1, 1)]))), *x.shape)


def moving(g: Grower, x: Maps) -> Maps:
    """Copies and rearrangements that lose nothing."""
    c, h, w = x.shape
    kind = g.pick(["space", "depth", "pad", "turn", "repeat"])
    if kind == "space" and c % 4 == 0:
        return Maps(g.put("DepthToSpace", x.name, blocksize=2), c // 4, 2 * h, 2 * w)
    if kind == "depth" and h % 2 == w % 2 == 0 and c < 3:
        return Maps(g.put("SpaceToDepth", x.name, blocksize=2), 4 * c, h // 2, w // 2)
    if kind == "pad":
        mode = g.pick(["constant", "reflect", "edge"])
        return Maps(g.put("Pad", x.name, g.integers(0, 0, 1, 0, 0, 0, 0, 1), mode=mode), c, h + 1, w + 1)
    if kind == "repeat" and h * w < 50:
        scales = g.constant(g.name("scales"), np.float32([1, 1, 2, 1]))
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return Maps(g.put("Resize", x.name, "", scales, mode="nearest", **how), c, 2 * h, w)
    return Maps(g.put("Transpose", x.name, perm=[0, 1, 3, 2]), c, w, h)


@some(3)
@given(SEEDS)
def test_nothing_abandoned_and_one_to_one_layers_give_back_the_activations(seed):
    make_room()
    g = Grower(seed)
    start = Maps("x", *(int(n) for n in (g.chance.integers(1, 4), *g.chance.integers(4, 7, 2))))
    x = start
    for layer in g.chance.permutation([mixing, mixing, bending, shifting, moving, normalisation, shuffle]):
        x = layer(g, x)
    head(g, x)
    shape = {"x": ("n", *start.shape)}
    model = make_model(g.nodes, shape, constants=g.constants, opset=g.opset, ir_version=10)
    picture = g.chance.normal(size=(1, *start.shape)).astype(np.float32)
    method = nf.Method.preset("paper", tolerance=1e-6, max_iterations=1000)
    plan = nf.load(model).explain(picture, method=method, layers="spine").plan
    made = [name for name in plan.program.shapes if name != "x"]
    forward = {"x": picture, **tensors(model, picture, made)}
    values = {name: jnp.asarray(value) for name, value in forward.items()}
    top = jnp.asarray(g.chance.normal(size=plan.program.shapes[plan.top]), jnp.float32)
    for layer in cascade.run(plan, method, values, top, set(plan.spine)):
        value = np.asarray(values[layer.tensor])
        assert np.asarray(layer.state.retained).all(), layer.tensor
        atol = 2e-3 * np.abs(value).max()
        np.testing.assert_allclose(layer.state.bpfm, value, atol=atol, err_msg=layer.tensor)
