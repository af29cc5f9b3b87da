"""Flows of a similarity point at what two pictures share, on a small sample of the benchmark's digits."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.benchmarks import script

pytest.importorskip("sklearn", reason="the digit scans come with scikit-learn")
deletion = script("similarity_deletion")
cases = script("similarity_cases")
removal = script("similarity_removal")
ZOO = os.environ.get("NAFLOW_ZOO")


@pytest.fixture(scope="module")
def two_digits() -> Any:
    """Rows of both tables: 48 queries with two digits, of which the reference has one; two layers."""
    encoder, pairs = cases.digits(48, seed=3)
    *_, case = pairs
    case = dataclasses.replace(case, layers=2)
    return deletion.measure(encoder, case, 3, ways=(deletion.GRADIENT,))


def test_the_flow_beats_random_cells(two_digits: Any) -> None:
    for row in two_digits["deletion"]:
        assert row["pairs"] == 48
        assert row["lead"]["random cells"].low > 0, row["removed"]


def test_the_right_reference_beats_the_wrong_one_and_shuffled_channels(two_digits: Any) -> None:
    """Where so little goes that the flow has to choose; at 20 % that takes more pairs than these."""
    few, many = two_digits["deletion"]
    assert (few["removed"], many["removed"]) == (0.05, 0.2)
    for control in ("random reference", "shuffled channels"):
        assert few["lead"][control].low > 0


def test_the_reference_decides_which_digit(two_digits: Any) -> None:
    (halves,) = two_digits["halves"]
    assert halves["flow"].low > 0.5 > halves["random reference"].high


@pytest.fixture(scope="module")
def descriptors() -> dict[str, Any]:
    """The row of each metric, by name: one digit in the query, the top layer."""
    encoder, pairs = cases.digit_descriptors(48, seed=3)
    case = dataclasses.replace(next(pairs), layers=1)
    held, _, full = deletion.WAYS_OF["image-to-class"]
    rows = deletion.measure(encoder, case, 3, (held, full), (0.2,))["deletion"]
    return {name: row for name, row in zip(("held", "", "full", ""), rows, strict=True) if name}


def test_of_local_descriptors_the_flow_finds_those_that_agree(descriptors: dict[str, Any]) -> None:
    held, full = descriptors["held"], descriptors["full"]
    assert (held["how"], full["how"]) == ("taken out", "taken out")
    assert held["lead"]["random cells"].low > 0
    assert held["lead"]["random reference"].low > 0
    assert held["fall"]["flow"] > full["fall"]["flow"]


def test_the_interval_resamples_groups_whole() -> None:
    """Copies of a pair add nothing: the interval is that of the pairs without copies."""
    values = np.random.default_rng(0).normal(size=20)
    alone = deletion.interval(values, np.arange(20))
    copied = deletion.interval(np.tile(values, 3), np.tile(np.arange(20), 3))
    assert copied.low == pytest.approx(alone.low)
    assert copied.high == pytest.approx(alone.high)
    assert alone.low < values.mean() < alone.high
    assert deletion.interval(np.tile(values, 3), np.arange(60)).low > copied.low


def test_kinds_of_pairs_together_are_their_pairs_together() -> None:
    random = np.random.default_rng(1)
    rows = [
        {
            "query": str(count), "pairs": count, "coefficients": "gradient", "how": "painted", "removed": 0.2,
            "similarity": {"flow": 0.5}, "fall": {"flow": float(count)},
            "each": {name: random.normal(size=count).tolist() for name in deletion.CONTROLS},
            "groups": list(range(count)),
        }
        for count in (4, 6)
    ]  # fmt: skip
    (row,) = deletion.together(rows)
    assert (row["pairs"], row["fall"]["flow"]) == (10, pytest.approx(5.2))
    for name in deletion.CONTROLS:
        values = np.array(rows[0]["each"][name] + rows[1]["each"][name])
        assert row["lead"][name] == deletion.interval(values, np.array([*range(4), *range(6)]))
    rows[1]["removed"] = 0.05
    assert len(deletion.together(rows)) == 2


def test_layers_are_spaced_and_the_top_is_among_them() -> None:
    assert deletion.spaced(tuple("abcdefghij"), 3) == ("d", "g", "j")
    assert deletion.spaced(tuple("abc"), 4) == ("a", "b", "c")
    assert deletion.spaced(tuple("abc"), None) == ("a", "b", "c")


def test_colour_pictures_and_cells_that_do_not_divide_them() -> None:
    picture = np.full((1, 10, 10, 3), (40, 50, 60), np.uint8)
    picture[0, 0:4, 0:4] = (200, 210, 220)
    maps = np.zeros((1, 3, 3))
    maps[0, 0, 0] = 1
    left = deletion.without(picture, maps, 1 / 9)
    assert (left == np.array([40, 50, 60], np.uint8)).all()


class Colours:
    """An encoder whose descriptors are the mean colours of the cells of a 4 x 4 grid."""

    def embed(self, pictures: np.ndarray) -> np.ndarray:
        cells = pictures.reshape(len(pictures), 4, 2, 4, 2, 3).mean(axis=(2, 4))
        return cells.transpose(0, 3, 1, 2)

    def places(self, embeddings: np.ndarray, references: np.ndarray) -> np.ndarray:
        return cases.Encoder.places(self, embeddings, references)


def test_a_descriptor_that_is_taken_out_no_longer_counts() -> None:
    """What is left is the mean over the other places, whose pixels are as they were."""
    random = np.random.default_rng(2)
    pictures = random.integers(1, 255, (2, 8, 8, 3)).astype(np.uint8)
    references = random.random((2, 3, 4, 4))
    each = Colours().places(Colours().embed(pictures), references)
    maps = random.permuted(np.tile(np.arange(16.0), (2, 1)), axis=1).reshape(2, 4, 4)
    kept = maps < 12
    wanted = [own[keep].mean() for own, keep in zip(each, kept, strict=True)]
    finer = np.kron(maps, np.ones((2, 2)))
    for given in (maps, finer):
        np.testing.assert_allclose(removal.taken_out(Colours(), pictures, given, 0.25, references), wanted)


def test_holes_are_filled_from_around() -> None:
    """A plain picture stays as it is, in colour or grey; what is far from a hole is untouched."""
    gone = np.random.default_rng(1).random((1, 9, 9)) < 0.5
    for plain in (np.full((1, 9, 9, 3), (40, 50, 60), np.uint8), np.full((1, 9, 9), 7, np.uint8)):
        assert (removal.filled(plain, gone) == plain).all()
    slope = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (1, 9, 1))
    hole = np.zeros((1, 9, 9), bool)
    hole[0, 4, 4] = True
    assert (removal.filled(slope, hole) == slope).all()


@pytest.mark.skipif(not ZOO, reason="set NAFLOW_ZOO to a folder with models/ and images/")
def test_photographs_make_the_pairs_they_should() -> None:
    """The same photograph is nearer than a stranger; a composite has its photograph on the side it says."""
    name, folder = "squeezenet11_fp32_winml", Path(str(ZOO))
    encoder = cases.encoder_of(folder, name)
    same, _, two = cases.photograph_pairs(encoder, folder, name, seed=1)
    embeddings = encoder.embed(same.queries)
    right, wrong = (
        encoder.similarity(embeddings, same.references[key]) for key in ("flow", "random reference")
    )
    assert (right > wrong).mean() > 0.9
    half = two.queries.shape[2] // 2
    sides = [np.repeat(side, 2, axis=2) for side in (two.queries[:, :, :half], two.queries[:, :, half:])]
    left, other = (encoder.similarity(encoder.embed(side), two.references["flow"]) for side in sides)
    assert ((left > other) == two.first).mean() > 0.9
