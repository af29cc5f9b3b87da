"""Verification of tensors that are tiny: noise where terms cancel is excused, a wrong value is not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from naflow_core.verify import TensorComparison
from support.blocks import Net

SHAPE = (1, 3, 4, 4)
X = np.full(SHAPE, 0.7, np.float32) + np.float32([0, 1, 2]).reshape(1, 3, 1, 1)
FAULTS = {
    "Sub": lambda a, b: a - b + np.float32(3e-4),
    "Mul": lambda a, b: a * b * np.float32(1.01),
    "Div": lambda a, b: a / b * np.float32(1.01),
}
"""Functions that are wrong by a little."""


def verified(net: Net, x: np.ndarray = X) -> dict[str, TensorComparison]:
    outcome = nf.load(net.model(1, size=4)).verify(x)
    assert outcome.ok == all(t.within(outcome.tolerance) for t in outcome.tensors)
    return {t.tensor: t for t in outcome.tensors}


def normalised_constant() -> Net:
    """(x - mean(x)) / sqrt(variance + epsilon) of planes that are constant: zero but for rounding.

    A third of either is subtracted, so that something is rounded; the mean is a convolution's.
    """
    net = Net()
    axes = net.constant("axes", np.array([2, 3]))
    kernel = np.zeros((3, 3, 4, 4), np.float32)
    kernel[range(3), range(3)] = 1 / 16
    net.add("Conv", ["x", net.constant("kernel", kernel)], "mean")
    net.add("Mul", ["x", net.constant("third", np.float32(1 / 3))], "less")
    net.add("Mul", ["mean", net.constant("same", np.float32(1.0000001 / 3))], "mean3")
    net.add("Sub", ["less", "mean3"], "d")
    net.add("Mul", ["d", "d"], "dd")
    net.add("ReduceMean", ["dd", axes], "variance")
    net.add("Add", ["variance", net.constant("epsilon", np.float32(1e-5))], "sum")
    net.add("Sqrt", ["sum"], "root")
    net.add("Div", ["d", "root"], "n")
    net.add("Mul", ["n", net.constant("gain", np.float32(1.5))], "scaled")
    net.dense(net.add("Flatten", ["scaled"], "f"), "y", 48, 2)
    return net


def disturbed(monkeypatch: pytest.MonkeyPatch, op: str, function: Any) -> None:
    """Replace what an operator computes."""
    entries = nf.ops.REGISTRY._entries[("", op)]
    monkeypatch.setitem(
        nf.ops.REGISTRY._entries, ("", op), [dataclasses.replace(e, function=function) for e in entries]
    )


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our differences are off by a rounding error of what is subtracted, as another order of adding gives."""
    unit = np.float32(3 * np.finfo(np.float32).eps)
    disturbed(monkeypatch, "Sub", lambda a, b: a - b + unit * abs(a))


def test_noise_where_terms_cancel_is_excused(noisy: None) -> None:
    found = verified(normalised_constant())
    excused = {name for name, item in found.items() if item.only_rounding}
    assert {"d", "n", "scaled"} <= excused
    assert "less" not in excused
    assert all(item.within(1e-4) for item in found.values()), found
    # on its own scale it is nothing like onnxruntime's
    assert found["d"].max_abs_error > 1e-7
    assert found["d"].max_rel_error < 16 * np.finfo(np.float32).eps


def test_more_than_noise_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed(monkeypatch, "Sub", FAULTS["Sub"])
    found = verified(normalised_constant())
    assert not found["d"].only_rounding
    assert not found["d"].within(1e-4)


def test_a_fault_behind_noise_is_found(noisy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is wrong is wrong for onnxruntime's inputs too."""
    disturbed(monkeypatch, "Div", FAULTS["Div"])
    found = verified(normalised_constant())
    assert found["d"].only_rounding
    assert not found["n"].only_rounding
    assert not found["n"].within(1e-4)


@pytest.mark.parametrize("small", [1e-6, 1e-12, 1e-30])
def test_a_wrong_tensor_that_is_only_small_is_found(small: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product with a small number reads numbers of any size, and nothing cancels."""
    net = Net()
    net.add("Mul", ["x", net.constant("small", np.float32(small))], "m")
    net.dense(net.add("Flatten", ["m"], "f"), "y", 48, 2)
    assert verified(net)["m"].within(1e-4)
    disturbed(monkeypatch, "Mul", FAULTS["Mul"])
    found = verified(net)["m"]
    assert not found.only_rounding
    assert found.max_rel_error == pytest.approx(0.01, rel=1e-3)
    assert not found.within(1e-4)


def test_a_small_sum_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms that cancel down to a few hundred-thousandths leave digits enough to be wrong in."""
    net = Net()
    net.add("Sub", ["x", net.constant("near", X - np.float32(5e-5))], "d")
    net.dense(net.add("Flatten", ["d"], "f"), "y", 48, 2)
    assert verified(net)["d"].within(1e-4)
    disturbed(monkeypatch, "Sub", lambda a, b: (a - b) * np.float32(2))
    found = verified(net)["d"]
    assert not found.only_rounding
    assert not found.within(1e-4)
