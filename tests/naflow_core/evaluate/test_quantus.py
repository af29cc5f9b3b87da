"""The measures that Quantus has too, on the same arrays."""

from __future__ import annotations

import numpy as np
import pytest

import naflow_core as nf
from naflow_core.evaluate import METRICS, Subject
from naflow_core.evaluate.metrics import Sample
from naflow_core.evaluate.metrics.imputation import imputed
from naflow_core.evaluate.picture import inside
from support.evaluation_cases import linear_network, sample_of, shown_of

quantus = pytest.importorskip("quantus", reason="Quantus is not installed (pip install 'naflow[quantus]')")

SIZE = 12
BOX = (2 / 12, 1 / 12, 9 / 12, 6 / 12)


@pytest.fixture(scope="module")
def sample() -> Sample:
    random = np.random.default_rng(0)
    subject = Subject(nf.load(linear_network(random.normal(size=(SIZE, SIZE)))))
    return sample_of(subject, random.uniform(0, 1, (1, 1, SIZE, SIZE)).astype(np.float32), boxes=(BOX,))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("sparseness", "Sparseness"),
        ("complexity", "Complexity"),
        ("energy", "AttributionLocalisation"),
        ("pointing-game", "PointingGame"),
    ],
)
def test_measures_of_one_map(name: str, theirs: str, sample: Sample) -> None:
    random = np.random.default_rng(2)
    maps = random.gamma(0.3, size=(8, SIZE, SIZE)).astype(np.float32)
    found = [METRICS[name].function(shown_of(sample, values)) for values in maps]
    measure = getattr(quantus, theirs)(disable_warnings=True, normalise=False)
    expected = measure.evaluate_batch(
        x_batch=np.zeros((len(maps), 1, SIZE, SIZE)),  # only its size is looked at
        a_batch=maps[:, None].astype(float),
        s_batch=np.repeat(inside((BOX,), SIZE, SIZE)[None, None], len(maps), axis=0),
    )
    assert [outcome and outcome.value for outcome in found] == pytest.approx(
        [float(value) for value in expected], rel=1e-4, abs=1e-5
    )


def test_imputation_of_road() -> None:
    from quantus.functions.perturb_func import noisy_linear_imputation

    random = np.random.default_rng(1)
    picture = np.cumsum(np.cumsum(random.normal(size=(3, 20, 20)), axis=1), axis=2)
    gone = random.random((20, 20)) < 0.6
    expected = noisy_linear_imputation(picture, np.flatnonzero(gone), noise=0.0)
    assert np.abs(imputed(picture, gone[None])[0] - expected).max() < 0.03 * np.ptp(picture)
