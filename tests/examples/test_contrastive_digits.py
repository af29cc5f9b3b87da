"""The contrastive example: its views are what they claim to be, and its encoder as good as it claims."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import naflow_core as nf

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "contrastive_digits"
MODEL = EXAMPLE / "contrastive_digits.onnx"
CHECKED = 300
TOP_LAYERS = ("deepen_relu", "top_relu")

pytest.importorskip("sklearn", reason="the digit scans come with scikit-learn")


def _load(name: str, folder: Path = EXAMPLE) -> ModuleType:
    """A module of a folder of scripts, which imports its neighbours by their bare names."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = before


views, measures, encoder, onnx_file, train, explore = map(
    _load, ("views", "measures", "encoder", "onnx_file", "train", "explore")
)


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def unseen() -> Any:
    scans, rng = views.load_scans("test"), np.random.default_rng(11)
    return views.draw(scans, rng.integers(len(scans.images), size=CHECKED), rng)


def vectors(session: onnxruntime.InferenceSession, pictures: np.ndarray) -> np.ndarray:
    return session.run(None, {"image": views.as_input(pictures)})[0]


def stated(what: str) -> float:
    """A figure of the README."""
    found = re.search(rf"{what} \*\*([\d.]+) %\*\*", (EXAMPLE / "README.md").read_text())
    assert found is not None
    return float(found[1]) / 100


def test_the_digit_is_where_the_box_says(unseen: Any) -> None:
    """Outside its box the picture is the backdrop plus noise; inside it is brighter."""
    inside = np.zeros((CHECKED, 32, 32), bool)
    for mask, (left, top, right, bottom) in zip(inside, unseen.boxes, strict=True):
        assert 0 <= left < right <= 32
        assert 0 <= top < bottom <= 32
        mask[top:bottom, left:right] = True
    added = unseen.pictures / 255.0 - unseen.backdrops
    assert np.abs(added[~inside]).mean() < 0.03
    assert added[inside].mean() > 0.15
    sides = [
        added[i, top:bottom, (left, right - 1)].max()
        for i, (left, top, right, bottom) in enumerate(unseen.boxes)
    ]
    assert np.mean(sides) > 0.2


def test_digits_differ_in_place_and_size(unseen: Any) -> None:
    heights = unseen.boxes[:, 3] - unseen.boxes[:, 1]
    assert len(np.unique(heights)) >= 6
    assert unseen.boxes[:, :2].min() <= 1
    assert unseen.boxes[:, 2:].max() >= 31
    assert set(unseen.labels) == set(range(10))


def test_there_is_clutter_and_it_hardly_enters_the_box(unseen: Any) -> None:
    bright = unseen.backdrops > 0.5
    assert np.mean(bright.sum((1, 2)) > 10) > 0.9
    shares = [
        bright[i, top:bottom, left:right].mean() for i, (left, top, right, bottom) in enumerate(unseen.boxes)
    ]
    assert np.mean(shares) < 0.05


def test_a_seed_decides_everything() -> None:
    scans, picks = views.load_scans("test"), np.arange(5)
    first, again, other = (views.draw(scans, picks, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first.pictures, again.pictures)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.pictures, other.pictures)


def test_training_and_test_scans_are_disjoint() -> None:
    known, unknown = views.load_scans("train"), views.load_scans("test")
    assert not set(known.rows) & set(unknown.rows)
    assert len(known.rows) + len(unknown.rows) == 1797
    assert not {i.tobytes() for i in known.images} & {i.tobytes() for i in unknown.images}


def test_the_loss_against_the_written_out_formula() -> None:
    rng = np.random.default_rng(0)
    e = rng.standard_normal((6, 4)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    terms = []
    for i in range(6):
        j = (i + 3) % 6
        others = sum(np.exp(e[i] @ e[k] / train.TEMPERATURE) for k in range(6) if k != i)
        terms.append(-np.log(np.exp(e[i] @ e[j] / train.TEMPERATURE) / others))
    assert float(train.contrastive_loss(e)) == pytest.approx(np.mean(terms), rel=1e-4)


def test_neighbours_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    bank, queries = (rng.standard_normal((n, 8)) for n in (60, 12))
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    labels = rng.integers(4, size=60)
    for query, found in zip(queries, measures.knn_labels(queries, bank, labels, k=7), strict=True):
        votes = dict.fromkeys(range(4), 0.0)
        for row in sorted(range(60), key=lambda i: -(query @ bank[i]))[:7]:
            votes[int(labels[row])] += np.exp(query @ bank[row] / 0.07)
        assert found == max(votes, key=votes.__getitem__)


def test_episodes_of_perfect_and_of_meaningless_embeddings() -> None:
    labels, rng = np.repeat(np.arange(10), 20), np.random.default_rng(2)
    assert measures.one_shot_episode(np.eye(10)[labels], labels, rng) == 1.0
    noise = rng.standard_normal((200, 8))
    guessed = measures.bootstrap(
        np.array([measures.one_shot_episode(noise, labels, rng) for _ in range(100)]), draws=500
    )
    assert guessed.low < 0.2 < guessed.high + 0.02
    assert guessed.high - guessed.low < 0.1


def test_the_export_is_the_network() -> None:
    """With other weights than those that are shipped."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(encoder.initialise, jax.random.key(0))
    params, statistics = jax.tree.map(lambda s: rng.uniform(0.1, 0.3, s.shape).astype(np.float32), shapes)
    signs = {name: rng.choice([-1, 1], v.shape) for name, v in params.items() if name.endswith("weight")}
    params |= {name: params[name] * sign.astype(np.float32) for name, sign in signs.items()}
    session = onnxruntime.InferenceSession(
        onnx_file.to_onnx({**params, **statistics}).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pictures = rng.random((2, 1, 32, 32)).astype(np.float32)
    embed = jax.jit(encoder.embed, static_argnames="training")
    ours = embed(params, statistics, pictures, training=False)[0]
    assert np.allclose(session.run(None, {"image": pictures})[0], ours, atol=1e-4)


def test_the_model_file() -> None:
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert MODEL.stat().st_size < 400_000
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    (image,), (embedding,) = model.graph.input, model.graph.output
    axes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (image, embedding)]
    assert axes == [["N", 1, 32, 32], ["N", 64]]
    assert nf.load(MODEL).inspect().to_dict()["top_feature_map"] == "top_relu"


def test_embeddings_have_length_one_and_differ(unseen: Any, session: onnxruntime.InferenceSession) -> None:
    e = vectors(session, np.concatenate([unseen.pictures, np.zeros((1, 32, 32), np.uint8)]))
    assert np.allclose(np.linalg.norm(e, axis=1), 1.0, atol=1e-5)
    assert np.abs(e.mean(0)).max() < 0.5


def test_neighbours_are_as_good_as_the_readme_says(
    unseen: Any, session: onnxruntime.InferenceSession
) -> None:
    scans = views.load_scans("train")
    bank = views.draw(scans, np.arange(len(scans.images)), np.random.default_rng(21))
    found = measures.knn_labels(
        vectors(session, unseen.pictures), vectors(session, bank.pictures), bank.labels
    )
    # Other views than those the figure was measured on: two standard deviations of a sample this size.
    share = stated("nearest-neighbour accuracy")
    assert (found == unseen.labels).mean() >= share - 2 * np.sqrt(share * (1 - share) / CHECKED)


def test_one_shot_is_as_good_as_the_readme_says(unseen: Any, session: onnxruntime.InferenceSession) -> None:
    e, rng = vectors(session, unseen.pictures), np.random.default_rng(5)
    episodes = [measures.one_shot_episode(e, unseen.labels, rng) for _ in range(200)]
    assert np.mean(episodes) >= stated("5-way 1-shot accuracy") - 0.05


def test_the_encoder_looks_at_the_digit(unseen: Any, session: onnxruntime.InferenceSession) -> None:
    """Without the digit, neighbours do not tell it; so the label is not hidden in the clutter."""
    empty = np.rint(255 * np.clip(unseen.backdrops, 0, 1)).astype(np.uint8)
    scans = views.load_scans("train")
    bank = views.draw(scans, np.arange(400), np.random.default_rng(22))
    found = measures.knn_labels(vectors(session, empty), vectors(session, bank.pictures), bank.labels)
    assert (found == unseen.labels).mean() < 0.25


def test_the_pictures_that_are_shipped() -> None:
    """They are views of unseen scans, redrawn here from their seed."""
    truth = json.loads((EXAMPLE / "inputs" / "truth.json").read_text())
    assert {p.name for p in (EXAMPLE / "inputs").glob("*.png")} == set(truth)
    names, drawn = train.shown()
    assert names == list(truth)
    for i, (name, entry) in enumerate(truth.items()):
        picture = np.asarray(Image.open(EXAMPLE / "inputs" / name))
        assert picture.shape == (32, 32)
        assert np.abs(picture.astype(int) - drawn.pictures[i]).max() <= 1
        assert entry == {"label": drawn.labels[i], "box": list(drawn.boxes[i])}
        assert name.endswith(f"_{entry['label']}.png")


def test_the_side_files() -> None:
    assert (EXAMPLE / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    recipe = json.loads((EXAMPLE / "preprocess.json").read_text())
    assert recipe == {"channels": "L", "size": 32, "subtract": 0, "divide": 255}


@pytest.fixture(scope="module")
def model() -> nf.Model:
    return nf.load(MODEL)


def test_the_bank_answers_as_numpy_does(model: nf.Model, session: onnxruntime.InferenceSession) -> None:
    bank = explore.make_bank(model, count=150)
    _, pictures, _ = explore.shipped("query")
    answer, rows = explore.ask_bank(model, bank, pictures, TOP_LAYERS)
    labels = np.array([int(label) for label in bank.labels])
    expected = measures.knn_labels(vectors(session, pictures), bank.embeddings, labels)
    facts = answer.similarity
    assert facts is not None
    assert [facts.candidates[i] for i in answer.target] == [str(label) for label in expected]
    for picture, row in zip(pictures, rows, strict=True):
        assert np.array_equal(row.picture, picture)
        assert 1 <= len(row.references) <= 5
        check_maps(row.maps)


def test_the_episode_answers_as_numpy_does(model: nf.Model, session: onnxruntime.InferenceSession) -> None:
    _, supports, labels = explore.shipped("support")
    _, pictures, _ = explore.shipped("query")
    answer, rows = explore.ask_episode(model, supports, labels, pictures, TOP_LAYERS)
    similarity = vectors(session, pictures) @ vectors(session, supports).T
    assert np.allclose(answer.scores, similarity, atol=1e-4)
    for i, row in enumerate(rows):
        nearest_first = supports[np.argsort(-similarity[i])]
        assert all(np.array_equal(a, b) for a, b in zip(row.references, nearest_first, strict=True))
        check_maps(row.maps)


def test_pairs_are_seen_from_both_sides(model: nf.Model, session: onnxruntime.InferenceSession) -> None:
    _, first, _ = explore.shipped("query")
    second = explore.shipped("support")[1][:2]
    similarity, rows = explore.ask_pairs(model, first, second, TOP_LAYERS)
    assert np.allclose(similarity, (vectors(session, first) * vectors(session, second)).sum(1), atol=1e-4)
    shown = [picture for pair in zip(first, second, strict=True) for picture in pair]
    assert all(np.array_equal(row.picture, picture) for row, picture in zip(rows, shown, strict=True))
    for row in rows:
        check_maps(row.maps)
    assert explore.sheet(rows).size == ((2 + len(TOP_LAYERS)) * 132 - 4, 4 * 132 - 4)


def check_maps(maps: list[np.ndarray]) -> None:
    """One for each layer that was asked for, and something in each."""
    assert [values.shape for values in maps] == [(8, 8)] * len(TOP_LAYERS)
    assert all(np.isfinite(values).all() and values.max() > 0 for values in maps)


def test_what_the_deletion_benchmark_paints_over() -> None:
    deletion = _load("similarity_deletion", ROOT / "benchmarks")
    picture = np.full((1, 32, 32), 40, np.uint8)
    picture[0, 8:16, 4:12] = 200
    maps = np.zeros((1, 8, 8))
    maps[0, 2:4, 1:3] = 1.0
    left = deletion.without(picture, maps, share=4 / 64)
    assert (left == 40).all()
    assert (deletion.without(picture, -maps, share=60 / 64) == picture).all()


def test_two_digits_are_on_their_halves() -> None:
    """The first digit's ink lies where it is said to, and a map's share on that half is counted right."""
    deletion = _load("similarity_deletion", ROOT / "benchmarks")
    scans, rng = views.load_scans("test"), np.random.default_rng(6)
    empty = views.Scans(np.zeros_like(scans.images), scans.labels, scans.rows)
    images = np.concatenate([scans.images[:40], empty.images[:40]])
    both = views.Scans(images, np.concatenate([scans.labels[:40]] * 2), np.arange(80))
    pictures, on_left = views.draw_two(both, np.arange(40), np.arange(40, 80), rng)
    ink = np.maximum(pictures / 255.0 - 0.45, 0.0)
    assert 5 < on_left.sum() < 35
    assert deletion.matching_share(ink, on_left).min() > 0.95
    assert deletion.matching_share(ink, ~on_left).max() < 0.05
