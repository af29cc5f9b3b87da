"""Every method against a plain float64 replica of its paper's formula, and the laws that they obey."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from sklearn.decomposition import NMF

import naflow_core as nf
from naflow_core.evaluate.rivals import REGISTRY, factors, find, input_gradients, perturbation, variant
from naflow_core.evaluate.rivals.registry import RivalRegistry
from naflow_core.evaluate.subject import Subject
from support import evaluation_network as small
from support.export_variants import channels_last
from support.replicas import tensors

CLASSES = np.array([2, 0])
CAMS = ("grad-cam", "grad-cam++", "layer-cam", "hires-cam")
FAST = {"integrated-gradients": {"steps": 4}, "smoothgrad": {"samples": 2}, "rise": {"masks": 8, "cells": 3}}
CONTROLS = ("random", "centre", "edges", "empty")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(nf.load(small.network()), layers=("m0", "n1", "top"), batch=4)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return small.pictures(2)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mapped(name: str, subject: Subject, x: np.ndarray, layer: str = "m0", **options: Any) -> np.ndarray:
    rival = find(name)
    if options:
        rival = rival.configured(name, **options)
    return rival(subject, x, CLASSES[: len(x)], layer, seeded())


def replica_cam(name: str, value: np.ndarray, slopes: list[np.ndarray]) -> np.ndarray:
    """One picture, loops over channels. `slopes`: of one or several copies of the picture."""
    slope = slopes[0]
    total = np.zeros(value.shape[1:])
    for c in range(len(value)):
        if name == "grad-cam":
            total += slope[c].mean() * value[c]
        elif name == "layer-cam":
            total += np.maximum(slope[c], 0) * value[c]
        elif name == "hires-cam":
            total += slope[c] * value[c]
        else:
            one, two, three = (np.mean([s[c] ** n for s in slopes], axis=0) for n in (1, 2, 3))
            below = 2 * two + value[c].sum() * three
            alpha = np.where(below == 0, 0, two / np.where(below == 0, 1, below))
            total += (alpha * np.maximum(one, 0)).sum() * value[c]
    return np.maximum(total, 0)


@pytest.mark.parametrize("layer", ["m0", "n1", "top"])
@pytest.mark.parametrize("name", CAMS)
def test_class_activation_maps(name: str, layer: str, subject: Subject, x: np.ndarray) -> None:
    found = mapped(name, subject, x, layer)
    for i, kind in enumerate(CLASSES):
        value, slope = small.slow_gradient(small.network(), x[i : i + 1], int(kind), layer)
        expected = replica_cam(name, value, [slope])
        np.testing.assert_allclose(found[i], expected, rtol=2e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("layer", ["m0", "top"])
def test_smooth_grad_cam_averages_the_powers_over_noisy_copies(
    layer: str, subject: Subject, x: np.ndarray
) -> None:
    found = mapped("smooth-grad-cam++", subject, x, layer, samples=3, spread=0.1)
    random = seeded()
    reach = np.ptp(x, axis=(1, 2, 3), keepdims=True)
    copies = [x + 0.1 * reach * random.standard_normal(x.shape, np.float32) for _ in range(3)]
    for i, kind in enumerate(CLASSES):
        value, _ = small.slow_gradient(small.network(), x[i : i + 1], int(kind), layer)
        slopes = [
            small.slow_gradient(small.network(), copy[i : i + 1], int(kind), layer)[1] for copy in copies
        ]
        expected = replica_cam("smooth-grad-cam++", value, slopes)
        np.testing.assert_allclose(found[i], expected, rtol=1e-2, atol=1e-3 * expected.max())


def test_smooth_grad_cam_without_noise_is_grad_cam(subject: Subject, x: np.ndarray) -> None:
    found = mapped("smooth-grad-cam++", subject, x, spread=0.0, samples=2)
    np.testing.assert_allclose(found, mapped("grad-cam++", subject, x), rtol=1e-4, atol=1e-7)


def test_before_global_pooling_the_cell_by_cell_map_is_grad_cam(subject: Subject, x: np.ndarray) -> None:
    np.testing.assert_allclose(
        mapped("hires-cam", subject, x, "top"), mapped("grad-cam", subject, x, "top"), rtol=1e-4, atol=1e-6
    )
    assert not np.allclose(mapped("hires-cam", subject, x, "m0"), mapped("grad-cam", subject, x, "m0"))


@pytest.mark.parametrize("layer", ["m0", "n1", "top"])
def test_eigen_cam_is_the_first_singular_vector(layer: str, subject: Subject, x: np.ndarray) -> None:
    found = mapped("eigen-cam", subject, x, layer)
    for i in range(2):
        value = tensors(small.network(), x[i : i + 1], [layer])[layer][0]
        _, _, right = np.linalg.svd(value.reshape(len(value), -1).T, full_matrices=False)
        projected = value.reshape(len(value), -1).T @ right[0]
        projected = projected if projected.sum() > 0 else -projected
        np.testing.assert_allclose(
            found[i], np.maximum(projected, 0).reshape(value.shape[1:]), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("shape", [(2, 6, 9), (2, 9, 6)])
def test_eigen_cam_whichever_side_is_smaller(shape: tuple[int, int, int]) -> None:
    class Stub:
        """A layer of any shape, without a network behind it."""

        value = seeded(1).random((shape[0], shape[1], shape[2], 1))

        def studied_gradients(self, *_: object) -> tuple[np.ndarray, None]:
            return self.value, None

        def layer(self, _: str) -> Any:
            return self

        @property
        def axes(self) -> Any:
            return self

        def planes(self, value: np.ndarray) -> np.ndarray:
            return value

    found = factors.eigen_cam(Stub(), np.zeros(2), CLASSES, "any", seeded())  # type: ignore[arg-type]
    for value, picture in zip(Stub.value[..., 0], found[..., 0], strict=True):
        _, strengths, right = np.linalg.svd(value, full_matrices=False)
        np.testing.assert_allclose(picture, strengths[0] * np.abs(right[0]), rtol=1e-6)


def test_factorisation_comes_as_near_as_scikit_learns() -> None:
    random = seeded(5)
    exact = random.random((2, 30, 3)) @ random.random((2, 3, 7))
    matrices = (exact + 0.05 * random.random(exact.shape)).astype(np.float32)
    left, right = factors.factorised(matrices, 3, seeded(), 400)
    assert left.min() >= 0
    assert right.min() >= 0
    np.testing.assert_allclose(np.linalg.norm(right, axis=2), 1, rtol=1e-5)
    for matrix, a, b in zip(matrices, left, right, strict=True):
        theirs = NMF(3, init="random", solver="mu", max_iter=400, tol=0, random_state=0)
        assert theirs.n_components == 3
        with np.errstate(all="ignore"):
            distance = np.linalg.norm(matrix - theirs.fit_transform(matrix) @ theirs.components_)
        assert np.linalg.norm(matrix - a @ b) < 1.2 * distance + 1e-6


def test_factorisation_never_moves_away_and_survives_zeros() -> None:
    matrices = np.maximum(seeded(6).normal(size=(1, 20, 8)), 0).astype(np.float32)
    distances = [
        np.linalg.norm(matrices - np.matmul(*factors.factorised(matrices, 2, seeded(), n)))
        for n in (1, 2, 5, 20, 80)
    ]
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(distances))
    left, right = factors.factorised(np.zeros((1, 4, 3), np.float32), 2, seeded(), 5)
    assert np.isfinite(left).all()
    assert np.isfinite(right).all()
    assert not (left @ right).any()


def test_the_factor_that_adds_most_to_the_class_is_shown(subject: Subject, x: np.ndarray) -> None:
    found = mapped("deep-feature-factorization", subject, x, "m0", factors=3, iterations=50)
    value, slope = subject.gradients(x, CLASSES, ("m0",))["m0"]
    cells = value.reshape(2, 4, -1).transpose(0, 2, 1)
    left, right = factors.factorised(cells, 3, seeded(), 50)
    for i in range(2):
        adds = [(np.outer(left[i, :, k], right[i, k]).T * slope[i].reshape(4, -1)).sum() for k in range(3)]
        best = left[i, :, int(np.argmax(adds))].reshape(4, 4)
        np.testing.assert_allclose(found[i], best, rtol=1e-4, atol=1e-6)
        rest = max(a for k, a in enumerate(adds) if k != int(np.argmax(adds)))
        assert max(adds) > rest


def test_gradient_times_input(subject: Subject, x: np.ndarray) -> None:
    found = mapped("gradient-x-input", subject, x)
    for i, kind in enumerate(CLASSES):
        value, slope = small.slow_gradient(small.network(), x[i : i + 1], int(kind), "x")
        np.testing.assert_allclose(found[i], np.maximum((value * slope).sum(axis=0), 0), rtol=2e-3, atol=1e-4)


def test_integrated_gradients_are_complete(subject: Subject, x: np.ndarray) -> None:
    baseline = input_gradients.flat_colour(subject, x)
    assert np.ptp(baseline, axis=(2, 3)).max() == 0
    attributions = input_gradients.integrated(subject, x, CLASSES, baseline, 200)
    rows = np.arange(2)
    expected = (subject.scores(x) - subject.scores(np.array(baseline)))[rows, CLASSES]
    np.testing.assert_allclose(attributions.sum(axis=(1, 2, 3)), expected, rtol=2e-2, atol=2e-3)
    coarse = input_gradients.integrated(subject, x[:1], CLASSES[:1], baseline[:1], 2)
    line = [baseline[:1] + share * (x - baseline)[:1] for share in (0.25, 0.75)]
    slopes = [small.slow_gradient(small.network(), point, int(CLASSES[0]), "x")[1] for point in line]
    expected = (x - baseline)[0] * np.mean(slopes, axis=0)
    np.testing.assert_allclose(coarse[0], expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())
    found = mapped("integrated-gradients", subject, x, steps=200)
    np.testing.assert_allclose(found, np.maximum(attributions.sum(axis=1), 0), rtol=1e-5)


def test_smoothgrad_is_the_mean_over_the_copies(subject: Subject, x: np.ndarray) -> None:
    found = mapped("smoothgrad", subject, x, samples=2, spread=0.1)
    random = seeded()
    reach = np.ptp(x, axis=(1, 2, 3), keepdims=True)
    copies = [x + 0.1 * reach * random.standard_normal(x.shape, np.float32) for _ in range(2)]
    for i, kind in enumerate(CLASSES):
        slopes = [small.slow_gradient(small.network(), c[i : i + 1], int(kind), "x")[1] for c in copies]
        expected = np.abs(np.mean(slopes, axis=0)).sum(axis=0)
        np.testing.assert_allclose(found[i], expected, rtol=2e-3, atol=1e-3 * expected.max())


def test_occlusion_hides_every_window(subject: Subject, x: np.ndarray) -> None:
    found = mapped("occlusion", subject, x, windows=4)
    for i, kind in enumerate(CLASSES):
        falls, covers = np.zeros((8, 8)), np.zeros((8, 8))
        before = small.slow_scores(small.network(), x[i : i + 1])[0, kind]
        for top in range(0, 7):
            for left in range(0, 7):
                hidden = x[i : i + 1].copy()
                hidden[0, :, top : top + 2, left : left + 2] = x[i].mean(axis=(1, 2))[:, None, None]
                after = small.slow_scores(small.network(), hidden)[0, kind]
                falls[top : top + 2, left : left + 2] += before - after
                covers[top : top + 2, left : left + 2] += 1
        np.testing.assert_allclose(found[i], np.maximum(falls / covers, 0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("size", "windows"), [(8, 4), (7, 3), (224, 7), (5, 9), (1, 1), (28, 7)])
def test_windows_cover_the_axis(size: int, windows: int) -> None:
    spans = perturbation._spans(size, windows)
    covered = np.zeros(size)
    for span in spans:
        assert 0 <= span.start < span.stop <= size
        covered[span] += 1
    assert covered.min() >= 1
    assert len(spans) == len({span.start for span in spans})


def test_rise_weights_masks_by_the_probability_behind_them(subject: Subject, x: np.ndarray) -> None:
    found = mapped("rise", subject, x, masks=12, cells=3, kept=0.4)
    masks = perturbation._smooth_masks(12, 3, 0.4, (8, 8), seeded())
    for i, kind in enumerate(CLASSES):
        flat = x[i].mean(axis=(1, 2), keepdims=True)
        total = np.zeros((8, 8))
        for mask in masks:
            behind = (flat + mask * (x[i] - flat))[None].astype(np.float32)
            total += tensors(small.network(), behind, ["y"])["y"][0, kind] * mask
        np.testing.assert_allclose(found[i], total / (12 * 0.4), rtol=1e-4)


def test_smooth_masks_are_shares_of_the_kept_chance() -> None:
    masks = perturbation._smooth_masks(400, 7, 0.5, (30, 20), seeded())
    assert masks.min() >= 0
    assert masks.max() <= 1
    np.testing.assert_allclose(masks.mean(axis=0), 0.5, atol=0.12)
    assert np.abs(np.diff(masks, axis=2)).max() < 0.5  # smooth: no cell edges


def test_edges_are_sobels(subject: Subject, x: np.ndarray) -> None:
    grey = x.astype(np.float64).mean(axis=1)
    for found, picture in zip(mapped("edges", subject, x), grey, strict=True):
        expected = np.hypot(
            ndimage.sobel(picture, 0, mode="nearest"), ndimage.sobel(picture, 1, mode="nearest")
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_other_controls(subject: Subject, x: np.ndarray) -> None:
    centre = mapped("centre", subject, x)
    np.testing.assert_allclose(centre, centre[:, ::-1, ::-1], rtol=1e-6)
    assert centre[0, 1:3, 1:3].min() > np.delete(centre[0].ravel(), [5, 6, 9, 10]).max()
    assert not mapped("empty", subject, x).any()
    drawn = mapped("random", subject, x)
    assert len(np.unique(drawn)) == drawn.size


def test_flows_and_their_variants(subject: Subject, x: np.ndarray) -> None:
    method = nf.PRESETS["published-code"]
    found = mapped("published-code", subject, x)
    np.testing.assert_allclose(found, subject.flows(x, CLASSES, ("m0",), method)["m0"], rtol=1e-4, atol=1e-6)
    half = dataclasses.replace(method, abandon=nf.Abandonment("mass", 0.5))
    other = variant("half of the mass", half)
    assert other.name == "half of the mass"
    halved = other(subject, x, CLASSES, "m0", seeded())
    np.testing.assert_allclose(halved, subject.flows(x, CLASSES, ("m0",), half)["m0"], rtol=1e-4, atol=1e-6)
    assert not np.allclose(halved, found)
    assert find("paper").options == {"method": nf.PRESETS["paper"]}


@pytest.mark.parametrize("layer", ["m0", "top"])
def test_without_an_inverse_the_flow_of_a_relu_is_layer_cam(
    layer: str, subject: Subject, x: np.ndarray
) -> None:
    flow, cam = (mapped(name, subject, x, layer) for name in ("published-code", "layer-cam"))
    np.testing.assert_allclose(flow, cam, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["m0", "n1", "top"])
def test_net_evidence_of_all_neurons_is_hires_cam(layer: str, subject: Subject, x: np.ndarray) -> None:
    flow = variant("all", nf.Method.preset("published-code", evidence="net"))
    cam = mapped("hires-cam", subject, x, layer)
    np.testing.assert_allclose(flow(subject, x, CLASSES, layer, seeded()), cam, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in REGISTRY.names() if name != "paper"])
def test_maps_are_non_negative_at_their_resolution_and_reproducible(
    name: str, subject: Subject, x: np.ndarray
) -> None:
    rival = find(name).configured(name, **FAST.get(name, {}))
    assert rival.control == (name in CONTROLS)
    assert rival.control or rival.source
    fresh = Subject(nf.load(small.network()), layers=("m0", "n1", "top"), batch=4)
    found = [rival(each, x, CLASSES, "m0", seeded(3)) for each in (subject, fresh)]
    assert found[0].shape == (2, 4, 4) if rival.resolution == "layer" else (2, 8, 8)
    assert found[0].dtype == np.float32
    assert found[0].min() >= 0
    np.testing.assert_array_equal(found[0], found[1])
    samples = name in ("random", "smooth-grad-cam++", "smoothgrad", "rise", "deep-feature-factorization")
    assert np.array_equal(found[0], rival(subject, x, CLASSES, "m0", seeded(4))) != samples


@pytest.mark.parametrize(
    "name", [n for n in REGISTRY.names() if find(n).resolution == "input" and n not in ("smoothgrad", "rise")]
)
def test_channels_last_gives_the_same_maps(name: str, subject: Subject, x: np.ndarray) -> None:
    turned = Subject(nf.load(channels_last(small.network())), layers=("m0",), batch=4)
    moved = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    rival = find(name).configured(name, **FAST.get(name, {}))
    found = rival(turned, moved, CLASSES, "m0", seeded())
    np.testing.assert_allclose(found, rival(subject, x, CLASSES, "m0", seeded()), rtol=1e-3, atol=1e-4)


def test_the_registry_refuses_and_says_what_there_is(subject: Subject, x: np.ndarray) -> None:
    registry = RivalRegistry()
    registry.register("bright")(lambda s, x, k, layer, r: np.full((len(x), 4, 4), -1.0))
    assert registry.names() == ("bright",)
    assert not registry.find("bright")(subject, x, CLASSES, "m0", seeded()).any()  # negative: not important
    with pytest.raises(ValueError, match="already"):
        registry.register("bright")(lambda *_: None)
    with pytest.raises(nf.OptionError, match=r"'brigth' does not exist \(did you mean 'bright'"):
        registry.find("brigth")
    registry.register("broken")(lambda s, x, *_: np.full((len(x), 4, 4), np.nan))
    with pytest.raises(nf.NumericalError, match="broken"):
        registry.find("broken")(subject, x, CLASSES, "m0", seeded())
    registry.register("small")(lambda s, x, *_: np.zeros((len(x), 2, 2)))
    with pytest.raises(ValueError, match="small made maps"):
        registry.find("small")(subject, x, CLASSES, "m0", seeded())
    registry.unregister("small")
    assert registry.names() == ("bright", "broken")
    with pytest.raises(nf.OptionError, match="no option 'step'"):
        find("integrated-gradients").configured("more", step=3)
