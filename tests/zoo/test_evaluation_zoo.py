"""What an evaluation computes of real networks: as onnxruntime has it, and consistent with itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import naflow_core as nf
from naflow_core.evaluate.rivals import find
from naflow_core.evaluate.subject import Subject

pytestmark = pytest.mark.skipif(
    "NAFLOW_ZOO" not in os.environ, reason="set NAFLOW_ZOO to a folder of models and pictures"
)
MODELS = Path(os.environ.get("NAFLOW_ZOO", "."), "models")


@pytest.fixture(
    scope="module",
    params=["mobilenetv1_025_128_tf_int8qdq", "mobilenetv1_025_128_tf_logits", "resnet20_*", "resnet8_*"],
)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(nf.load(next(MODELS.glob(f"{request.param}.onnx"))), batch=2)


@pytest.fixture(scope="module")
def x(subject: Subject) -> np.ndarray:
    shape, random = subject.layers[0].shape, np.random.default_rng(0)
    smooth = random.uniform(0, 1, (2, *shape)).cumsum(axis=1).cumsum(axis=2)
    scaled = (smooth - smooth.min()) / np.ptp(smooth)
    if subject.model.inputs[0].dtype == "uint8":
        return (255 * scaled).astype(np.uint8)
    return (2 * scaled - 1).astype(np.float32)


def test_probabilities_are_onnxruntimes(subject: Subject, x: np.ndarray) -> None:
    output = subject.plan.head.output
    name = subject.model.inputs[0].name
    theirs = np.concatenate([subject.model.reference_scores({name: row[None]}, output) for row in x])
    ours = subject.probabilities(x) if subject.plan.head.squashed_by else subject.scores(x)
    if x.dtype == np.uint8:  # probabilities in steps of 1 / 256
        np.testing.assert_allclose(ours, theirs / 256, atol=1 / 256)
    else:
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_every_studied_layer_tells_the_scores(subject: Subject, x: np.ndarray) -> None:
    scores = subject.scores(x)
    loose = x.dtype == np.uint8  # a last bit decides how a value is rounded to a step
    tolerance = (2e-2 if loose else 1e-4) * np.abs(scores).max()
    for name, value in subject.tap(x, subject.studied).items():
        np.testing.assert_allclose(subject.scores_from(name, value), scores, atol=tolerance, err_msg=name)


def test_shuffled_weights_give_finite_scores_and_other_maps(subject: Subject, x: np.ndarray) -> None:
    classes = subject.scores(x).argmax(axis=1)
    rival, layer = find("hires-cam"), subject.top
    before = rival(subject, x, classes, layer, np.random.default_rng(0))
    assert before.any()
    for depth in (1, subject.depth):
        other = subject.randomised(depth)
        assert np.isfinite(other.scores(x)).all()
        assert not np.allclose(other.scores(x), subject.scores(x))
        after = rival(other, x, classes, layer, np.random.default_rng(0))
        assert not np.allclose(before, after, atol=1e-3 * before.max())
