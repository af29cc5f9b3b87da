"""Normalisations that exporters write node by node, against the same function with its statistics held."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import naflow_core as nf
from naflow_core import cascade
from naflow_core.analysis.plan import Plan
from naflow_core.records import State
from support import replicas
from support.blocks import Net

SIZE, CHANNELS = 4, 6
METHOD = nf.Method.preset("paper")
SHAPE = (2, CHANNELS, SIZE, SIZE)
X = (np.random.default_rng(1).normal(size=SHAPE) * 2 + 0.7).astype(np.float32)
GAMMA = np.float32([1.5, -0.5, 2, 0.3, -1, 0.8]).reshape(-1, 1, 1)
BETA = np.float32([0.2, 0, -1, 0.5, 0.1, -0.3]).reshape(-1, 1, 1)
EPSILON = np.float32(1e-3)


class Spelling(Net):
    """Adds nodes that take constants by value."""

    def op(self, op: str, *inputs: str | np.ndarray | float, **attributes: object) -> str:
        names = []
        for value in inputs:
            if not isinstance(value, str):
                array = np.asarray(value)
                value = self.constant(f"k{len(self.constants)}", array.astype(np.float32)
                                      if array.dtype.kind == "f" else array)  # fmt: skip
            names.append(value)
        return self.add(op, names, f"t{len(self.nodes)}", **attributes)

    def mean(self, x: str, axes: tuple[int, ...], keepdims: int = 1) -> str:
        return self.op("ReduceMean", x, np.array(axes), keepdims=keepdims)


def pytorch(net: Spelling, x: str, axes: tuple[int, ...]) -> str:
    d = net.op("Sub", x, net.mean(x, axes))
    variance = net.mean(net.op("Pow", d, 2.0), axes)
    n = net.op("Div", d, net.op("Sqrt", net.op("Add", variance, EPSILON)))
    return net.op("Add", net.op("Mul", n, GAMMA), BETA)


def tensorflow(net: Spelling, x: str, axes: tuple[int, ...]) -> str:
    """x * inv + (beta - mean * inv), inv = gamma / sqrt(variance + epsilon)."""
    mean = net.mean(x, axes)
    difference = net.op("Sub", x, mean)
    variance = net.mean(net.op("Mul", difference, difference), axes)
    root = net.op("Reciprocal", net.op("Sqrt", net.op("Add", variance, EPSILON)))
    inv = net.op("Mul", root, GAMMA)
    return net.op("Add", net.op("Mul", x, inv), net.op("Sub", BETA, net.op("Mul", mean, inv)))


def flax(net: Spelling, x: str, axes: tuple[int, ...]) -> str:
    """Sums over a count, E[x^2] - E[x]^2, statistics reshaped and spread to the input's size."""
    count = float(np.prod([SHAPE[a] for a in axes]))
    kept = np.array([1 if a in axes else n for a, n in enumerate(SHAPE)])

    def spread(value: str) -> str:
        return net.op("Expand", net.op("Reshape", value, kept), np.array(SHAPE))

    def average(value: str) -> str:
        return net.op("Div", net.op("ReduceSum", value, np.array(axes), keepdims=0), count)

    mean = average(x)
    square = net.op("Mul", mean, mean)
    variance = net.op("Max", net.op("Sub", average(net.op("Mul", x, x)), square), 0.0)
    root = net.op("Div", 1.0, net.op("Sqrt", net.op("Add", spread(variance), EPSILON)))
    centred = net.op("Sub", x, spread(mean))
    return net.op("Add", net.op("Mul", centred, net.op("Mul", root, GAMMA)), BETA)


def standardised(x: np.ndarray, at: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The normalisation of x with the statistics of `at`."""
    mean = at.mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(at.var(axis=axes, keepdims=True) + EPSILON) * GAMMA + BETA


def group(net: Spelling, x: str, _axes: tuple[int, ...]) -> str:
    grouped = net.op("Reshape", x, np.array([2, 3, -1]))
    d = net.op("Sub", grouped, net.mean(grouped, (2,)))
    variance = net.mean(net.op("Mul", d, d), (2,))
    n = net.op("Div", d, net.op("Sqrt", net.op("Add", variance, EPSILON)))
    return net.op("Add", net.op("Mul", net.op("Reshape", n, np.array(SHAPE)), GAMMA), BETA)


def grouped(x: np.ndarray, at: np.ndarray, _axes: tuple[int, ...]) -> np.ndarray:
    x, at = (v.reshape(2, 3, -1) for v in (x, at))
    n = (x - at.mean(axis=2, keepdims=True)) / np.sqrt(at.var(axis=2, keepdims=True) + EPSILON)
    return n.reshape(SHAPE) * GAMMA + BETA


def response(net: Spelling, x: str, axes: tuple[int, ...]) -> str:
    """Global response normalisation: the input itself is added."""
    energy = net.op("ReduceL2", x, np.array(axes), keepdims=1)
    relative = net.op("Div", energy, net.op("Add", net.mean(energy, (1,)), EPSILON))
    gained = net.op("Mul", net.op("Mul", x, relative), GAMMA)
    return net.op("Add", net.op("Add", gained, BETA), x)


def responding(x: np.ndarray, at: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    energy = np.sqrt((at**2).sum(axis=axes, keepdims=True))
    return x * (energy / (energy.mean(axis=1, keepdims=True) + EPSILON)) * GAMMA + BETA + x


Case = tuple[Callable[..., str], Callable[..., np.ndarray], tuple[int, ...]]
CASES: dict[str, Case] = {
    **{
        f"{spelling.__name__} {name}": (spelling, standardised, axes)
        for spelling in (pytorch, tensorflow, flax)
        for name, axes in (("layer", (1,)), ("instance", (2, 3)), ("whole", (1, 2, 3)))
    },
    "group": (group, grouped, ()),
    "response": (response, responding, (2, 3)),
}


def planned(spelling: Callable[..., str], *arguments: object) -> tuple[nf.Model, Plan, Spelling]:
    net = Spelling()
    end = spelling(net, "x", *arguments)
    net.add("Flatten", [net.conv(end, "c", CHANNELS, 2)], "f")
    net.dense("f", "y", 2 * SIZE * SIZE, 3)
    model = nf.load(net.model(2, channels=CHANNELS, size=SIZE))
    plan = model.inspect(top_feature_map=end).plan
    assert plan is not None
    return model, plan, net


def inverse(plan: Plan, net: Spelling, y: np.ndarray) -> np.ndarray:
    """`y` carried back from the top to the input, nothing abandoned."""
    model = net.model(2, channels=CHANNELS, size=SIZE)
    made = [name for name in plan.program.shapes if name in plan.program.producer]
    values = {"x": X, **{n: v.astype(np.float32) for n, v in replicas.tensors(model, X, made).items()}}
    for segment in reversed(plan.segments):
        above = State(y, np.ones_like(y), np.ones(y.shape, bool))
        y = np.asarray(cascade.invert(*cascade.arguments(plan, segment, METHOD, values, above)).preimage)
    return y


@pytest.mark.parametrize("name", CASES)
def test_it_is_inverted_with_the_forward_statistics(name: str) -> None:
    """f(f^-1(y)) = y, and f^-1 is the inverse of the dense matrix, of f with the statistics of x held."""
    spelling, replica, axes = CASES[name]
    _, plan, net = planned(spelling, axes)
    rules = [segment.rule for segment in plan.segments]
    assert "frozen-statistics" in {rule.name for rule in rules}
    assert not any(rule.mixes or rule.kind == "least_squares" for rule in rules), [r.name for r in rules]
    y = (np.random.default_rng(2).normal(size=SHAPE) * 3).astype(np.float32)
    found = inverse(plan, net, y)
    at = X.astype(np.float64)
    np.testing.assert_allclose(replica(found.astype(np.float64), at, axes), y, rtol=1e-4, atol=1e-4)
    offset = replica(np.zeros(SHAPE), at, axes)
    units = np.eye(X.size).reshape(-1, *SHAPE)
    matrix = np.stack([(replica(unit, at, axes) - offset).reshape(-1) for unit in units], axis=1)
    expected = np.linalg.solve(matrix, (y - offset).reshape(-1)).reshape(SHAPE)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_scale_of_zero_abandons_its_channel() -> None:
    gamma = GAMMA.copy()
    gamma[2] = 0

    def dead(net: Spelling, x: str) -> str:
        d = net.op("Sub", x, net.mean(x, (2, 3)))
        root = net.op("Sqrt", net.op("Add", net.mean(net.op("Mul", d, d), (2, 3)), EPSILON))
        return net.op("Add", net.op("Mul", d, net.op("Div", gamma, root)), BETA)

    _, plan, net = planned(dead)
    found = inverse(plan, net, np.ones(SHAPE, np.float32))
    assert np.isfinite(found).all()
    # the difference of the dead channel is nought: what is left is its mean
    np.testing.assert_allclose(found[:, 2], np.broadcast_to(X[:, 2].mean(axis=(1, 2))[:, None, None],
                                                            found[:, 2].shape), rtol=1e-4)  # fmt: skip


def test_one_is_the_same_as_the_operator() -> None:
    """A file with the operator, and one with the nodes it stands for: the same preimage."""

    def operator(net: Spelling, x: str) -> str:
        return net.op("InstanceNormalization", x, GAMMA.reshape(-1), BETA.reshape(-1), epsilon=1e-3)

    y = (np.random.default_rng(5).normal(size=SHAPE) * 3).astype(np.float32)
    found = [inverse(plan, net, y) for _, plan, net in (planned(operator), planned(pytorch, (2, 3)))]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)


def excitation(net: Spelling, x: str) -> str:
    pooled = net.mean(x, (2, 3))
    return net.op("Mul", x, net.op("Sigmoid", net.conv(pooled, "squeezed", CHANNELS, CHANNELS, kernel=1)))


def weighted(net: Spelling, x: str) -> str:
    pooled = net.mean(x, (2, 3))
    return net.op("Mul", x, net.conv(pooled, "squeezed", CHANNELS, CHANNELS, kernel=1))


def gated(net: Spelling, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", net.mean(x, (2, 3))))


def squared(net: Spelling, x: str) -> str:
    """A product of two tensors that both follow the input directly."""
    d = net.op("Sub", x, net.mean(x, (2, 3)))
    return net.op("Mul", d, x)


def divided(net: Spelling, x: str) -> str:
    d = net.op("Abs", net.op("Sub", x, net.mean(x, (2, 3))))
    return net.op("Div", x, net.op("Add", d, 1.0))


def moved(net: Spelling, x: str) -> str:
    """Other positions are added, so that it is not element by element."""
    turned = net.op("Transpose", x, perm=[0, 1, 3, 2])
    return net.op("Add", net.op("Sub", turned, net.mean(x, (2, 3))), x)


def spread(net: Spelling, x: str) -> str:
    """Only a statistic leads on: nothing of the input's own place is left."""
    return net.op("Expand", net.op("Sub", net.mean(x, (2, 3)), net.op("ReduceMax", x, np.array([2, 3]))),
                  np.array(SHAPE))  # fmt: skip


@pytest.mark.parametrize("spelling", [excitation, weighted, gated, squared, divided, moved, spread])
def test_what_only_looks_like_one_is_solved(spelling: Callable[..., str]) -> None:
    _, plan, _ = planned(spelling)
    assert plan.segments[0].kind == "composite"
    assert plan.segments[0].rule.name == "least-squares"


def test_it_begins_no_block_and_is_reported() -> None:
    model, plan, _ = planned(pytorch, (1,))
    assert plan.blocks() == (plan.top,)
    nodes = {node["op_type"]: node["rule"] for node in model.inspect().to_dict()["nodes"]}
    assert nodes["Sub"] == nodes["Div"] == "frozen-statistics"
