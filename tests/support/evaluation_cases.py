"""Maps in front of small models, and the example network's pictures with their truth."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, helper
from PIL import Image

import naflow_core as nf
from naflow_core.evaluate import Picture, Subject
from naflow_core.evaluate.metrics import Sample, Shown
from naflow_core.evaluate.picture import Box
from support.command_line import DEMO, DEMO_MODEL
from support.onnx_graphs import make_model

DIGITS = 64


def linear_network(weights: np.ndarray) -> ModelProto:
    """x [n, 1, h, w] >= 0 -> c Conv 1x1 -> top Relu -> scores: sum(weights * x) and 0 -> y Softmax."""
    constants = {
        "one": np.ones((1, 1, 1, 1), np.float32),
        "w": np.stack([weights.ravel(), np.zeros(weights.size)], axis=1).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "one"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c"], ["top"]),
        helper.make_node("Flatten", ["top"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=-1),
    ]
    return make_model(nodes, {"x": ["n", 1, *weights.shape]}, constants=constants)


def pooled_network() -> ModelProto:
    """x [n, 1, 6, 6] >= 0 -> c Conv 1x1 -> top Relu -> mean over all cells -> scores, it and 0 -> Softmax."""
    constants = {
        "one": np.ones((1, 1, 1, 1), np.float32),
        "w": np.array([[1, 0]], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "one"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c"], ["top"]),
        helper.make_node("GlobalAveragePool", ["top"], ["gap"]),
        helper.make_node("Flatten", ["gap"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=-1),
    ]
    return make_model(nodes, {"x": ["n", 1, 6, 6]}, constants=constants)


def sample_of(subject: Subject, x: np.ndarray, class_: int = 0, boxes: Sequence[Box] = ()) -> Sample:
    """A picture x [1, ...] in front of a model."""
    scores = subject.scores(x)
    return Sample(
        subject=subject,
        picture=Picture("picture", x, boxes=boxes),
        class_=class_,
        score=float(scores[0, class_]),
        probability=float(subject.as_probabilities(scores)[0, class_]),
        axes=subject.layer(subject.source).axes,
        seed=0,
    )


def shown_of(sample: Sample, values: np.ndarray, layer: str = "top") -> Shown:
    """A map [h, w]; computed again it is the same."""
    values = np.asarray(values, np.float32)
    return Shown(sample, "method", layer, values, lambda *_: values)


def digits(count: int = 6) -> tuple[Picture, ...]:
    """The example network's pictures with class and box."""
    truth = json.loads((DEMO / "inputs" / "truth.json").read_text(encoding="utf-8"))
    found = []
    for name, known in list(truth.items())[:count]:
        pixels = np.array(Image.open(DEMO / "inputs" / name), np.float32) / 255
        left, top, right, bottom = (value / DIGITS for value in known["box"])
        box = (left, top, right, bottom)
        found.append(Picture(name, pixels[None, None], (known["label"],), (box,)))
    return tuple(found)


def digits_model() -> nf.Model:
    """The example network."""
    return nf.load(DEMO_MODEL)
