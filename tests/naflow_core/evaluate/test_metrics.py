"""Measures against closed forms: a linear model, boxes counted by hand, dense linear systems."""

from __future__ import annotations

import numpy as np
import pytest

import naflow_core as nf
from naflow_core.evaluate import METRICS, Subject
from naflow_core.evaluate.masking import masked_probabilities, masked_scores
from naflow_core.evaluate.metrics import Sample, Shown
from naflow_core.evaluate.metrics.imputation import imputed
from naflow_core.evaluate.metrics.registry import Metrics, Outcome
from naflow_core.evaluate.metrics.removal import SHARES, area, chosen
from naflow_core.evaluate.picture import Axes, inside
from support.evaluation_cases import digits, digits_model, linear_network, pooled_network, sample_of, shown_of

SIZE = 10
FAITHFUL = tuple(m.name for m in METRICS if m.faithfulness)


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 0.4, (SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def sample(weights: np.ndarray) -> Sample:
    x = np.random.default_rng(4).uniform(0, 2, (1, 1, SIZE, SIZE)).astype(np.float32)
    return sample_of(Subject(nf.load(linear_network(weights))), x)


def outcome(name: str, shown: Shown) -> Outcome:
    found = METRICS[name].function(shown)
    assert found is not None
    return found


def gains(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """What each pixel adds to the score, compared with the mean colour."""
    x = sample.planes[0].astype(np.float64)
    return weights * (x - x.mean())


def test_deletion_of_a_linear_model_is_known_in_closed_form(sample: Sample, weights: np.ndarray) -> None:
    gain = gains(sample, weights)
    perfect = gain - gain.min()
    found = outcome("deletion-mean", shown_of(sample, perfect))
    order = np.sort(gain.ravel())[::-1]
    shares = np.array([0, *SHARES, 1])
    scores = [sample.score - order[: round(share * order.size)].sum() for share in shares]
    expected = 1 / (1 + np.exp(-np.array(scores)))
    assert np.array(found.curve) == pytest.approx(np.stack([shares, expected], axis=1), abs=1e-5)
    assert found.value == pytest.approx(area(list(zip(shares, expected, strict=True))), abs=1e-5)


def test_the_perfect_map_wins_and_its_opposite_loses(sample: Sample, weights: np.ndarray) -> None:
    gain = gains(sample, weights)
    random = np.random.default_rng(0).random((20, SIZE, SIZE))
    for name, sign in (("deletion-mean", -1), ("insertion-mean", 1), ("road", 1)):
        best, worst = (
            sign * outcome(name, shown_of(sample, m)).value for m in (gain - gain.min(), gain.max() - gain)
        )
        others = [sign * outcome(name, shown_of(sample, m)).value for m in random]
        assert worst < min(others) <= max(others) < best


def test_layer_deletion_of_a_linear_model(sample: Sample, weights: np.ndarray) -> None:
    """Zeroing a cell takes its w * x; random cells take their share of the whole on average."""
    parts = (weights * sample.planes[0]).astype(np.float64)
    found = outcome("layer-deletion", shown_of(sample, parts - parts.min()))
    order = np.sort(parts.ravel())[::-1]
    drops = [order[: round(share * order.size)].sum() / abs(sample.score) for share in (0.05, 0.1, 0.2)]
    chance = [drop - gain for drop, (_, gain) in zip(drops, found.curve, strict=True)]
    assert found.value == pytest.approx(np.mean([gain for _, gain in found.curve]))
    again = outcome("layer-deletion", shown_of(sample, parts.max() - parts))
    order = order[::-1]
    lowest = [order[: round(share * order.size)].sum() / abs(sample.score) for share in (0.05, 0.1, 0.2)]
    same = [drop - gain for drop, (_, gain) in zip(lowest, again.curve, strict=True)]
    assert chance == pytest.approx(same, rel=1e-4)


@pytest.mark.parametrize("name", FAITHFUL)
def test_an_empty_map_is_a_random_one(name: str, sample: Sample) -> None:
    """The very same value as the random numbers have that break its ties."""
    empty = shown_of(sample, np.zeros((SIZE, SIZE)))
    noise = empty.random("ties").random((SIZE, SIZE))
    random = shown_of(sample, noise.astype(np.float32))
    assert outcome(name, empty).value == pytest.approx(outcome(name, random).value, abs=1e-6)


def test_the_strongest_pixels_are_chosen(sample: Sample) -> None:
    ramp = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    mask = chosen(shown_of(sample, ramp), (0.05, 0.1))
    assert mask.shape == (2, SIZE, SIZE)
    assert np.flatnonzero(mask[0]).tolist() == list(range(95, 100))
    assert np.flatnonzero(mask[1]).tolist() == list(range(90, 100))


def test_energy_and_pointing_by_hand(sample: Sample) -> None:
    """A box over cells (2..4, 1..3.5) of ten by ten."""
    boxed = sample_of(sample.subject, sample.picture.x, boxes=((0.1, 0.2, 0.35, 0.4),))
    values = np.zeros((SIZE, SIZE))
    values[2, 1], values[3, 3], values[8, 8] = 3.0, 2.0, 5.0  # whole, half, outside
    assert outcome("energy", shown_of(boxed, values)).value == pytest.approx(4 / 10)
    assert outcome("energy", shown_of(boxed, np.zeros((SIZE, SIZE)))).value == pytest.approx(0.05)
    assert outcome("pointing-game", shown_of(boxed, values)).value == 0
    values[2, 2] = 6
    assert outcome("pointing-game", shown_of(boxed, values)).value == 1
    two = inside(((0, 0, 0.5, 0.5), (0.25, 0.25, 1, 1)), 4, 4)
    assert two.sum() == 4 + 9 - 1


def test_shape_of_known_maps(sample: Sample) -> None:
    even, point = np.ones((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    point[4, 4] = 7
    assert outcome("sparseness", shown_of(sample, even)).value == pytest.approx(0, abs=1e-12)
    assert outcome("sparseness", shown_of(sample, point)).value == pytest.approx(1 - 1 / SIZE**2)
    assert outcome("complexity", shown_of(sample, even)).value == pytest.approx(np.log(SIZE**2))
    assert outcome("complexity", shown_of(sample, point)).value == 0
    empty = shown_of(sample, np.zeros((SIZE, SIZE)))
    assert outcome("sparseness", empty).value == 0
    assert outcome("complexity", empty).value == pytest.approx(np.log(SIZE**2))


def test_a_map_that_keeps_everything_loses_no_confidence(sample: Sample, weights: np.ndarray) -> None:
    """Only the weakest pixel of this map loses its contrast."""
    bright = np.ones((SIZE, SIZE))
    bright[0, 0] = 0
    x = sample.planes[0].astype(np.float64)
    score = sample.score - weights[0, 0] * (x[0, 0] - x.mean())
    probability = 1 / (1 + np.exp(-score))
    drop = max(0.0, sample.probability - probability) / sample.probability
    assert outcome("average-drop", shown_of(sample, bright)).value == pytest.approx(drop, abs=1e-5)
    assert outcome("increase", shown_of(sample, bright)).value == float(probability > sample.probability)


def test_sensitivity_counts_the_largest_change(sample: Sample) -> None:
    first, second = np.zeros((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.float32)
    first[0, 0], second[0, 1] = 5, 2
    again = iter([first, second, first])
    shown = Shown(sample, "method", "top", first, lambda *_: next(again))
    assert outcome("max-sensitivity", shown).value == pytest.approx(np.sqrt(2))
    assert outcome("max-sensitivity", shown_of(sample, first)).value == 0


def test_imputation_solves_the_linear_system() -> None:
    random = np.random.default_rng(5)
    picture = np.cumsum(np.cumsum(random.normal(size=(2, 15, 18)), axis=1), axis=2)
    gone = random.random((3, 15, 18)) < np.array([0.1, 0.5, 0.8])[:, None, None]
    found = imputed(picture, gone)
    for mask, filled in zip(gone, found, strict=True):
        assert filled[:, ~mask] == pytest.approx(picture[:, ~mask])
        exact = _dense(picture, mask)
        assert np.abs(filled - exact).max() < 0.03 * np.ptp(picture)


def _dense(picture: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The same by a dense solve: every removed pixel is the weighted mean of its neighbours."""
    _, height, width = picture.shape
    matrix, right = np.eye(height * width), picture.reshape(len(picture), -1).T.copy()
    for i, j in zip(*np.nonzero(gone), strict=True):
        row = i * width + j
        around = {
            (i + a) * width + j + b: 1 / 6 if a * b == 0 else 1 / 12
            for a in (-1, 0, 1)
            for b in (-1, 0, 1)
            if (a, b) != (0, 0) and 0 <= i + a < height and 0 <= j + b < width
        }
        right[row] = 0
        for place, weight in around.items():
            matrix[row, place] = -weight / sum(around.values())
    return np.linalg.solve(matrix, right).T.reshape(picture.shape)


def test_with_everything_removed_the_mean_is_left() -> None:
    picture = np.arange(16.0).reshape(1, 4, 4)
    assert imputed(picture, np.ones((1, 4, 4), bool)) == pytest.approx(7.5)


def test_layer_masking_averages_over_known_cells_only() -> None:
    subject = Subject(nf.load(pooled_network()))
    x = np.random.default_rng(6).uniform(0, 3, (1, 1, 6, 6)).astype(np.float32)
    known = np.random.default_rng(7).random((11, 6, 6)) < 0.4
    means = np.array([x[0, 0][mask].mean() for mask in known])
    expected = 1 / (1 + np.exp(-means))
    assert masked_probabilities(subject, x, known)[:, 0] == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def digit_subject() -> Subject:
    return Subject(digits_model())


def test_layer_masking_with_everything_known_is_the_plain_forward_pass(digit_subject: Subject) -> None:
    x = digits(1)[0].x
    found = masked_probabilities(digit_subject, x, np.ones((2, 64, 64), bool))
    assert found == pytest.approx(np.repeat(digit_subject.probabilities(x), 2, axis=0), abs=1e-4)


def test_the_shape_of_a_mask_leaks_nothing(digit_subject: Subject) -> None:
    """On an even picture a hole is filled with what is around it, in every layer: it is not seen at all."""
    x = np.full((1, 1, 64, 64), 0.5, np.float32)
    known = np.ones((2, 64, 64), bool)
    known[0, 24:44, 22:36] = False
    known[1] = np.random.default_rng(1).random((64, 64)) < 0.7
    known[1, :16] = known[1, -16:] = known[1, :, :16] = known[1, :, -16:] = True
    found = masked_scores(digit_subject, x, known)
    whole = digit_subject.scores(x)
    painted = digit_subject.scores(np.where(known[:, None], x, 0).astype(np.float32))
    assert (np.abs(painted - whole).max(axis=1) > 1).all()
    assert found == pytest.approx(np.repeat(whole, 2, axis=0), abs=0.05)


def test_nothing_masked_flows_through_the_layers(digit_subject: Subject) -> None:
    """Whatever the masked pixels hold, the answer is the same to the last bit."""
    x = digits(1)[0].x
    known = np.random.default_rng(8).random((3, 64, 64)) < 0.5
    other = np.where(known[0], x, np.random.default_rng(9).random(x.shape)).astype(np.float32)
    first = masked_probabilities(digit_subject, x, known[:1])
    assert np.array_equal(first, masked_probabilities(digit_subject, other, known[:1]))
    nothing = masked_probabilities(digit_subject, x, np.zeros((1, 64, 64), bool))
    assert np.isfinite(nothing).all()


def test_axes_find_pixels_in_any_layout() -> None:
    tensor = np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3)
    axes = Axes.of("x", 4, (1, 2))
    planes = axes.planes(tensor)
    assert planes.shape == (2, 3, 4, 5)
    assert np.array_equal(axes.tensor(planes, tensor.shape), tensor)
    assert axes.spread(np.ones((2, 4, 5))).shape == (2, 4, 5, 1)
    with pytest.raises(nf.InputError, match="has 1 spatial axes"):
        Axes.of("x", 3, (2,))


def test_measures_have_a_direction_and_names_are_taken_once() -> None:
    assert all(m.better != "neither" for m in METRICS if m.faithfulness)
    assert not any(m.faithfulness and (m.probing or m.stability or m.boxes) for m in METRICS)
    table = Metrics()
    table.register("one", "a measure", better="higher")(lambda _: Outcome(0.0))
    with pytest.raises(ValueError, match="'one' is registered already"):
        table.register("one", "a measure", better="higher")(lambda _: Outcome(1.0))
    with pytest.raises(nf.OptionError, match="measure 'two' does not exist"):
        table["two"]
