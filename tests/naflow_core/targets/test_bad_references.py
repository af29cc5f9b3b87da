"""What does not fit is refused with one clear line, before any flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import naflow_core as nf
from support.embedding_networks import embedding_network, pictures

ROWS = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
NAN = np.where(np.arange(4)[:, None] == 2, np.float32(np.nan), ROWS)
ZERO = np.where(np.arange(4)[:, None] == 1, np.float32(0), ROWS)
OWN = "own"


def bank(rows: np.ndarray = ROWS, sha256: str = OWN, **fields: Any) -> Callable[[nf.Model], nf.BankTarget]:
    options = {key: fields.pop(key) for key in ("k", "wanted", "metric") if key in fields}

    def made(model: nf.Model) -> nf.BankTarget:
        digest = model.sha256 if sha256 == OWN else sha256
        return nf.BankTarget(nf.Bank(rows, ["a", "a", "a", "b"][: len(rows)], digest, **fields), **options)

    return made


@pytest.fixture(scope="module")
def model() -> nf.Model:
    return nf.load(embedding_network("neck"))


@pytest.mark.parametrize(
    ("made", "kind", "said"),
    [
        (lambda _: nf.SimilarityTarget(ROWS[:, :5]), nf.TargetError, "neither embeddings of shape \\[6\\]"),
        (lambda _: nf.SimilarityTarget(pictures(2)[:, :1]), nf.TargetError, "nor pictures for the model"),
        (lambda _: nf.SimilarityTarget(NAN), nf.TargetError, "references: number 2 has nan"),
        (lambda _: nf.SimilarityTarget(ZERO), nf.TargetError, "references: number 1 is the zero vector"),
        (lambda _: nf.SimilarityTarget(ROWS[:0]), nf.TargetError, "there are no references"),
        (lambda _: nf.SimilarityTarget(np.array(["a"])), nf.TargetError, "references are no numbers"),
        (lambda _: nf.SimilarityTarget(ROWS, names=["a"]), nf.TargetError, "1 names do not fit 4"),
        (lambda _: nf.SimilarityTarget(ROWS, paired=True), nf.TargetError, "do not pair with 2 pictures"),
        (lambda _: nf.SimilarityTarget(ROWS, "cosin"), nf.OptionError, "did you mean 'cosine'"),
        (lambda _: nf.SimilarityTarget(ROWS, normalise="max"), nf.OptionError, "use minmax or none"),
        (lambda _: nf.SimilarityTarget(ROWS, coefficients="x"), nf.OptionError, "contribution or gradient"),
        (lambda _: nf.SimilarityTarget(ROWS, "image-to-class"), nf.OptionError, "compares local descriptors"),
        (lambda _: nf.PrototypeTarget(ROWS, "aabb", "z"), nf.TargetError, "way 'z' is not among"),
        (lambda _: nf.PrototypeTarget(ROWS, "aab"), nf.TargetError, "3 labels do not fit 4 supports"),
        (lambda _: nf.PrototypeTarget(ROWS, "aaaa", contrast=True), nf.TargetError, "no runner-up"),
        (lambda _: nf.PrototypeTarget([ROWS[0], -ROWS[0]], "aa"), nf.TargetError, "prototypes: number 0"),
        (bank(sha256="0" * 64), nf.TargetError, "is of another model: its SHA-256 begins with 00000000"),
        (bank(ROWS[:0]), nf.TargetError, "is empty"),
        (bank(ROWS[:, :5]), nf.TargetError, "holds embeddings of shape \\[5\\], the model gives \\[6\\]"),
        (bank(NAN), nf.TargetError, "number 2 has nan"),
        (bank(ZERO), nf.TargetError, "number 1 is the zero vector"),
        (bank(wanted="z"), nf.TargetError, "label 'z' is not in bank"),
        (bank(output="other"), nf.TargetError, "holds output 'other'"),
        (bank(k=0), nf.OptionError, "k 0 must be at least 1"),
        (bank(names=["x"]), nf.TargetError, "1 names do not fit 4"),
    ],
)
def test_refused(model: nf.Model, made: Any, kind: type[nf.NaflowError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        model.explain(pictures(2), made(model))
    assert "\n" not in str(caught.value)


def test_zero_is_a_place_for_the_distance(model: nf.Model) -> None:
    found = model.explain(pictures(2), nf.SimilarityTarget(ZERO, "euclidean"), layers="top")
    assert np.isfinite(found.prediction.target_score).all()


def test_zero_query_is_named() -> None:
    model = nf.load(embedding_network("average"))
    x = np.stack([pictures(1)[0], np.zeros((2, 8, 8), np.float32)])
    with pytest.raises(nf.TargetError, match="explained pictures: number 1 is the zero vector"):
        model.explain(x, nf.SimilarityTarget(pictures(1, seed=1)))
    with pytest.raises(nf.TargetError, match="explained pictures: number 1 is the zero vector"):
        model.explain(x, nf.SimilarityTarget(pictures(1, seed=1)), batch_size=1)


def test_label_that_is_not_near(model: nf.Model) -> None:
    rows = np.concatenate([model.embed(pictures(2)), -model.embed(pictures(1))])
    target = nf.BankTarget(nf.Bank(rows, ["a", "a", "b"], model.sha256), k=2, wanted="b")
    with pytest.raises(nf.TargetError, match="none of the 2 nearest neighbours of picture 0 is 'b'"):
        model.explain(pictures(2), target)
    far = np.concatenate([pictures(2)[1:], pictures(2)[:1]])
    near = nf.BankTarget(nf.Bank(model.embed(far), ["b", "a"], model.sha256), k=1, wanted="b")
    with pytest.raises(nf.TargetError, match="neighbours of picture 1 is 'b'"):
        model.explain(far, near, batch_size=1)


def test_feature_map_is_no_class_score() -> None:
    model = nf.load(embedding_network("map"))
    with pytest.raises(nf.TargetError, match=r"feature map .*explain a similarity"):
        model.explain(pictures(1))
