"""What must hold for whole cascades (METHOD.md section 5, properties 3 to 7), and batches."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import naflow_core as nf
from naflow_core import cascade
from naflow_core.inverse import channels
from support import replicas
from support.blocks import SIZE, SPINE, Net, network, picture

TIGHT = {"tolerance": 1e-6, "max_iterations": 3000}
PAPER = nf.Method.preset("paper", **TIGHT)


def close_with_head(net: Net, source: str, channels: int) -> None:
    net.add("GlobalAveragePool", [source], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.dense("flat", "y", channels, 4)


def states(model, x, method, coefficients):
    """Every spine tensor's layer, for given coefficients at the top."""
    explanation = nf.load(model).explain(x, method=method, layers="spine")
    plan = explanation.plan
    names = [n for n in plan.program.shapes if n != "x"]
    values = {n: jnp.asarray(v, jnp.float32) for n, v in replicas.tensors(model, x, names).items()} | {
        "x": jnp.asarray(x)
    }
    shape = plan.program.shapes[plan.top]
    top = jnp.broadcast_to(jnp.asarray(coefficients, jnp.float32), shape)
    return list(cascade.run(plan, method, values, top, set(plan.spine))), values


@functools.cache
def one_to_one():
    """Only layers that lose nothing: an invertible 1x1 convolution, normalisation, rearrangements."""
    net = Net(4)
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0] * np.array([1.0, 2.0, 0.7])
    net.constant("w", rotation.astype(np.float32)[..., None, None])
    net.add("Conv", ["x", "w", net.bias("b", 3)], "c")
    net.add("LeakyRelu", ["c"], "l", alpha=0.2)
    positive = [
        net.constant(n, np.float32(v))
        for n, v in (("s", [1, -2, 0.5]), ("o", [0.1, 0, -1]), ("m", [0, 1, 2]), ("v", [1, 2, 3]))
    ]
    net.add("BatchNormalization", ["l", *positive], "n")
    net.add("Elu", ["n"], "e")
    net.add("Transpose", ["e"], "t", perm=[0, 2, 3, 1])
    net.add("Transpose", ["t"], "back", perm=[0, 3, 1, 2])
    net.add("Mul", ["back", net.constant("k", np.float32(-1.5))], "scaled")
    close_with_head(net, "scaled", 3)
    return net.model()


@pytest.mark.parametrize("anchor", ["origin", "activation", "relative"])
def test_nothing_abandoned_and_one_to_one_layers_give_back_the_activation(anchor):
    layers, values = states(
        one_to_one(),
        picture(1),
        dataclasses.replace(PAPER, anchor=anchor),
        np.random.default_rng(2).normal(size=(1, 3, SIZE, SIZE)),
    )
    assert len(layers) == 8
    for layer in layers:
        assert np.asarray(layer.state.retained).all(), layer.tensor
        np.testing.assert_allclose(
            layer.state.bpfm, values[layer.tensor], rtol=1e-3, atol=1e-3, err_msg=layer.tensor
        )


@pytest.mark.parametrize("name", ["residual", "inception"])
def test_an_accelerator_computes_while_a_layer_is_handed_out(name, monkeypatch):
    """The same layers, each handed out when the next step has begun."""
    events: list[str] = []
    original = cascade.step

    def step(plan, segment, *rest):
        events.append(f"begin {segment.source}")
        return original(plan, segment, *rest)

    monkeypatch.setattr(cascade, "step", step)
    found = {}
    for overlap in (False, True):
        explanation = nf.load(network(name)).explain(picture(1), layers="spine")
        (chunk,) = explanation._chunks
        layers = []
        for layer in cascade.run(
            explanation.plan, explanation.method, chunk.values, chunk.top_coefficients,
            set(explanation.layers), overlap=overlap,
        ):  # fmt: skip
            events.append(f"have {layer.tensor}")
            layers.append(layer)
        found[overlap] = layers, events.copy()
        events.clear()
    (plain, one_by_one), (ahead, overlapped) = found[False], found[True]
    order = [layer.tensor for layer in plain]
    assert order == [layer.tensor for layer in ahead]
    for a, b in zip(plain, ahead, strict=True):
        np.testing.assert_array_equal(a.flow, b.flow)
        for ours, theirs in zip(a.diagnostics, b.diagnostics, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    top, *below = order
    pairs = zip(order, below, strict=False)
    assert one_by_one == [f"have {top}", *(e for n in below for e in (f"begin {n}", f"have {n}"))]
    assert overlapped == [*(e for n, m in pairs for e in (f"begin {m}", f"have {n}")), f"have {order[-1]}"]


def test_conservation_gap_is_small_where_equations_are_consistent():
    for layer in states(one_to_one(), picture(1), PAPER, np.ones((1, 3, 1, 1)))[0]:
        assert layer.diagnostics.conservation_gap[0] < 1e-3, layer.tensor


def test_conservation_gap_is_reported_where_they_are_not():
    """A tall system with abandoned outputs pinned to zero has no exact solution."""
    method = nf.Method(rows="all", abandon=nf.Abandonment("mass", 0.3), feasible=False, **TIGHT)
    flows = list(nf.load(network("residual")).explain(picture(1), method=method, layers=["r0"]))
    assert max(flow.diagnostics.conservation_gap[0] for flow in flows) > 0.01


def linear_blocks() -> dict[str, Net]:
    """Blocks of linear nodes between r0 and b: what a single matrix can say too."""
    found = {}
    for name in ("add", "concat", "fan-out"):
        net = Net(6)
        net.add("Relu", ["x"], "r0")
        if name == "add":
            net.conv("r0", "c1", 3, 3)
            net.add("Add", ["c1", "r0"], "b")
        elif name == "concat":
            net.conv("r0", "c1", 3, 2)
            net.conv("r0", "c2", 3, 1, 1)
            net.add("Concat", ["c1", "c2"], "b", axis=1)
        else:
            net.conv("r0", "c1", 3, 3)
            net.conv("c1", "c2", 3, 3)
            net.add("Add", ["c1", "c2"], "a1")
            net.add("Add", ["a1", "r0"], "b")
        found[name] = net
    return found


@pytest.mark.parametrize("name", ["add", "concat", "fan-out"])
def test_a_block_has_the_flow_of_the_same_function_as_one_matrix(name):
    net = linear_blocks()[name]
    net.add("Relu", ["b"], "top")
    close_with_head(net, "top", 3)
    model, x = net.model(1), picture(5)
    values = replicas.tensors(model, x, ["r0"])
    linear = replicas.Linearised.of(replicas.Function(model, "r0", "b"), values["r0"])
    whole = Net()
    size = 3 * SIZE * SIZE
    whole.constants = {k: v for k, v in net.constants.items() if k in ("w_y", "b_y")}
    whole.constant("matrix", linear.matrix.T.astype(np.float32))
    whole.constant("offset", linear.offset.astype(np.float32))
    whole.constant("shape", np.array([1, 3, SIZE, SIZE]))
    whole.constant("line", np.array([1, size]))
    whole.add("Relu", ["x"], "r0")
    whole.add("Reshape", ["r0", "line"], "flat0")
    whole.add("Gemm", ["flat0", "matrix", "offset"], "flat1")
    whole.add("Reshape", ["flat1", "shape"], "b")
    whole.add("Relu", ["b"], "top")
    close_rest = [node for node in net.nodes if node.output[0] in ("gap", "flat", "y")]
    whole.nodes.extend(close_rest)
    top = np.random.default_rng(1).normal(size=(1, 3, SIZE, SIZE)) * (values_of_top(model, x) > 0)
    block, matrix = (
        {one.tensor: one.state for one in states(m, x, PAPER, top)[0]} for m in (model, whole.model(1))
    )
    for tensor in ("top", "b", "r0", "x"):
        for ours, other in zip(block[tensor], matrix[tensor], strict=True):
            np.testing.assert_allclose(ours, other, atol=2e-3 * np.abs(other).max(), err_msg=tensor)


def values_of_top(model, x):
    return replicas.tensors(model, x, ["top"])["top"]


def with_abandoned_channel(factor: float):
    """conv - Relu - conv - Relu - head, where the head does not look at channel 1 of the last Relu."""
    net = Net(8)
    net.conv("x", "c0", 3, 4)
    net.add("Relu", ["c0"], "r0")
    net.conv("r0", "c1", 4, 3)
    net.add("Relu", ["c1"], "top")
    close_with_head(net, "top", 3)
    net.constants["w_y"][1] = 0.0
    net.constants["w_c1"][1] *= np.float32(factor)
    net.constants["b_c1"][1] *= np.float32(factor)
    return net.model()


@pytest.mark.parametrize("rows", ["retained", "all"])
def test_scaling_an_abandoned_channel_changes_nothing_under_retained_rows(rows):
    method = nf.Method(rows=rows, abandon=nf.Abandonment("zero-gradient"), feasible=False, **TIGHT)
    flows = [
        {
            f.tensor: f.map
            for f in nf.load(with_abandoned_channel(factor)).explain(
                picture(3), method=method, layers="spine"
            )
        }
        for factor in (1.0, 7.0)
    ]
    change = max(np.abs(flows[0][t] - flows[1][t]).max() / flows[0][t].max() for t in flows[0])
    if rows == "retained":
        assert change < 1e-4
    else:  # there the channel's equations count, so that the test above can fail
        assert change > 1e-3


@pytest.mark.parametrize("name", ["residual"])
def test_a_batch_gives_what_its_pictures_give_alone(name):
    """Very different pictures, so that scalars shared between them would show."""
    x = picture(7, 3) * np.float32([1, 30, 0.05]).reshape(3, 1, 1, 1)
    model = nf.load(network(name))
    method = nf.Method(damping=0.1, tolerance=1e-6, max_iterations=2000)
    together = model.explain(x, method=method, layers="spine").collect()
    single = [model.explain(x[i : i + 1], method=method, layers="spine").collect() for i in range(3)]
    chunked = model.explain(x, method=method, layers="spine", batch_size=1).collect()
    for index, flow in enumerate(together.flows):
        for i in range(3):
            alone = single[i].flows[index].map[0]
            np.testing.assert_allclose(flow.map[i], alone, atol=1e-5 * max(alone.max(), 1e-20), rtol=1e-4)
            np.testing.assert_array_equal(chunked.flows[index].map[i], alone)


@functools.cache
def hostile():
    """Dead channels, zero variances, gates that close, a normalisation of what may be constant."""
    net = Net(9)
    net.conv("x", "c0", 3, 4)
    net.constants["w_c0"][2] = 0.0
    net.constants["b_c0"][2] = 0.0
    dead = [("s", [1, 0, 1, -1]), ("o", [0, 0, -1, 0.1]), ("m", [0, 0, 0, 0]), ("v", [1, 0, 0, 2])]
    net.add("BatchNormalization", ["c0", *(net.constant(n, np.float32(v)) for n, v in dead)], "n0")
    net.add("HardSwish", ["n0"], "r0")
    net.add("MaxPool", ["r0"], "p", kernel_shape=[2, 2], strides=[1, 1])
    net.add(
        "InstanceNormalization", ["p", net.constant("is", np.float32([1, 0, 2, 1])), net.bias("ib", 4)], "i"
    )
    net.add("GlobalAveragePool", ["i"], "g")
    net.add("Sigmoid", ["g"], "gate")
    net.add("Mul", ["i", "gate"], "b")
    net.conv("b", "c1", 4, 4, group=4)
    net.add("Relu", ["c1"], "top")
    close_with_head(net, "top", 4)
    return nf.load(net.model())


def pictures(values):
    return st.lists(st.sampled_from(values), min_size=3 * SIZE * SIZE, max_size=3 * SIZE * SIZE)


@pytest.mark.parametrize("anchor", ["origin", "relative"])
@settings(max_examples=12, deadline=None)
@example([0.0] * (3 * SIZE * SIZE), 1.0)
@example([1.0] * (3 * SIZE * SIZE), 1e12)
@given(pictures([0.0, 1.0, -1.0, 0.3]), st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e6, 1e12]))
def test_no_input_gives_nan_or_inf(anchor, values, scale):
    x = (np.float32(values) * np.float32(scale)).reshape(1, 3, SIZE, SIZE)
    for flow in hostile().explain(x, layers="spine", method=nf.Method(anchor=anchor)):
        assert np.isfinite(flow.map).all(), flow.tensor
        assert (flow.map >= 0).all()
        assert np.isfinite(flow.diagnostics.relative_residual).all()
        assert np.isfinite(flow.diagnostics.conservation_gap).all()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("anchor", ["origin", "activation"])
def test_depthwise_channels_are_solved_one_by_one(anchor, apart, monkeypatch):
    """With damping and bounds, each channel as if it were alone; a dead one stays empty."""
    if apart:
        monkeypatch.setattr(channels, "TOGETHER_BYTES", 0)  # as channels of large maps are
    net = Net(2)
    net.add("Relu", ["x"], "r0")
    net.conv("r0", "c1", 3, 3, group=3)
    net.constants["w_c1"][1] = 0.0
    net.constants["w_c1"][2] *= np.float32(1e3)
    net.add("Relu", ["c1"], "top")
    close_with_head(net, "top", 3)
    model, x = net.model(), picture(4)
    method = nf.Method(damping=0.2, anchor=anchor, abandon=nf.Abandonment("mass", 0.8), **TIGHT)
    layers, values = states(model, x, method, np.ones((1, 3, 1, 1)))
    state = {layer.tensor: layer.state for layer in layers}
    linear = replicas.Linearised.of(
        replicas.Function(model, "r0", "c1"), np.asarray(values["r0"], np.float64)
    )
    block = SIZE * SIZE
    for c in (0, 2):
        part = slice(c * block, (c + 1) * block)
        own = replicas.Linearised(
            linear.matrix[part, part],
            linear.offset[part],
            np.asarray(values["r0"])[:, c],
            np.zeros((1, SIZE, SIZE)),
        )
        above = state["c1"]
        rows = np.asarray(above.retained | (values["top"] > 0))[:, c]
        expected = own.preimage(
            np.asarray(above.bpfm)[:, c], rows, damping=0.2, anchor=anchor, bounds=(0.0, np.inf)
        )
        assert np.abs(expected - own.x0).max() > 0.1 * np.abs(own.x0).max()
        kept = np.asarray(state["r0"].retained)[:, c]
        np.testing.assert_allclose(
            np.asarray(state["r0"].bpfm)[:, c],
            np.where(kept, expected, 0),
            atol=2e-3 * np.abs(expected).max(),
        )
    assert not np.asarray(state["r0"].bpfm)[:, 1].any()


def test_spine_of_the_blocks_is_as_documented():
    plan = nf.load(network("residual")).inspect(input_shapes={"x": (1, 3, SIZE, SIZE)}).plan
    assert plan is not None
    assert plan.spine == SPINE
