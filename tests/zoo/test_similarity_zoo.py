"""Similarities of real embedding models against finite differences. Needs NAFLOW_ZOO."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import naflow_core as nf
from support.finite_differences import check_against_differences, check_local_descriptors

ROOT = os.environ.get("NAFLOW_ZOO")
NETWORKS = {
    "osnet_x0_25_msmt17": (1, 3, 256, 128),
    "relationnet_miniimagenet_conv4_encoder": (1, 3, 84, 84),
}
pytestmark = pytest.mark.skipif(not ROOT, reason="set NAFLOW_ZOO to a folder with models/*.onnx")


def texture(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Smooth seeded noise, as real-valued as a preprocessed photograph."""
    coarse = np.random.default_rng(seed).normal(size=(*shape[:2], 8, 8)).astype(np.float32)
    return np.kron(coarse, np.ones((shape[2] // 8 + 1, shape[3] // 8 + 1), np.float32))[
        :, :, : shape[2], : shape[3]
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_and_coefficients_match_finite_differences(name: str) -> None:
    path = Path(str(ROOT), "models", f"{name}.onnx")
    model, proto = nf.load(path), onnx.load(path)
    x, references = (texture(NETWORKS[name], seed) for seed in (0, 1))
    embeddings = model.embed(references)
    for metric in ("cosine", "dot", "euclidean"):
        check_against_differences(model, proto, x, embeddings, metric, 2e-3)


@pytest.mark.parametrize("held", [True, False])
def test_local_descriptors_match_finite_differences(held: bool) -> None:
    name = "relationnet_miniimagenet_conv4_encoder"
    path = Path(str(ROOT), "models", f"{name}.onnx")
    model, proto = nf.load(path), onnx.load(path)
    x, references = (texture(NETWORKS[name], seed) for seed in (0, 1))
    check_local_descriptors(model, proto, x, model.embed(references), held, 2e-4)
