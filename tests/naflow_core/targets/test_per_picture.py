"""A target of its own for every picture of a batch."""

from __future__ import annotations

import numpy as np
import pytest

import naflow_core as nf
from support.blocks import network, picture

TARGETS = (nf.ClassTarget(2), nf.ClassTarget(), nf.ClassTarget("b", nf.Labels(("a", "b", "c", "d"))))


@pytest.fixture(scope="module")
def model() -> nf.Model:
    return nf.load(network("residual"))


@pytest.fixture(scope="module")
def alone(model: nf.Model) -> list[nf.Result]:
    x = picture(3, 3)
    return [model.explain(x[i : i + 1], t, layers="spine").collect() for i, t in enumerate(TARGETS)]


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_every_picture_is_explained_for_its_own_class(
    model: nf.Model, alone: list[nf.Result], batch_size: int | None
) -> None:
    result = model.explain(
        picture(3, 3), nf.PerPicture(TARGETS), layers="spine", batch_size=batch_size
    ).collect()
    assert result.prediction.target.tolist() == [int(one.prediction.target[0]) for one in alone]
    assert result.prediction.target[0] == 2
    assert result.prediction.target[2] == 1
    for i, one in enumerate(alone):
        for got, expected in zip(result.flows, one.flows, strict=True):
            np.testing.assert_allclose(got.map[i], expected.map[0], atol=1e-5)


def test_one_target_for_each_picture(model: nf.Model) -> None:
    with pytest.raises(nf.TargetError, match="3 targets do not fit 2 pictures"):
        model.explain(picture(3, 2), nf.PerPicture(TARGETS), layers="spine")


def test_a_wrong_class_is_named(model: nf.Model) -> None:
    with pytest.raises(nf.TargetError, match="class 9"):
        model.explain(picture(3, 2), nf.PerPicture((nf.ClassTarget(), nf.ClassTarget(9))), layers="spine")


def test_steps_pass_every_tensor_and_give_the_same_flows(model: nf.Model, alone: list[nf.Result]) -> None:
    x = picture(3, 3)[:1]
    deepest, last = alone[0].flows[-1], alone[0].flows[0]
    steps = list(model.explain(x, TARGETS[0], layers=(last.tensor, deepest.tensor)).steps())
    assert [step.tensor for step in steps] == [flow.tensor for flow in reversed(alone[0].flows)]
    flows = [step.flow for step in steps]
    assert flows[1:-1] == [None] * (len(steps) - 2)
    assert flows[-1] is not None
    np.testing.assert_array_equal(flows[-1].map, last.map)
    assert steps[-1].finite.tolist() == [True]


def test_released_activations_are_computed_again(model: nf.Model, alone: list[nf.Result]) -> None:
    explanation = model.explain(picture(3, 3)[:1], TARGETS[0], layers="spine")
    for expected in reversed(alone[0].flows):
        explanation.release()
        np.testing.assert_array_equal(next(explanation).map, expected.map)
