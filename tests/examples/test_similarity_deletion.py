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


def test_the_interval_resamples_groups_whole() -> None:
    """Copies of a pair add nothing: the interval is that of the pairs without copies."""
    values = np.random.default_rng(0).normal(size=20)
    alone = deletion.interval(values, np.arange(20))
    copied = deletion.interval(np.tile(values, 3), np.tile(np.arange(20), 3))
    assert copied.low == pytest.approx(alone.low)
    assert copied.high == pytest.approx(alone.high)
    assert alone.low < values.mean() < alone.high
    assert deletion.interval(np.tile(values, 3), np.arange(60)).low > copied.low


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
