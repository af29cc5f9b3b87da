"""Slopes of a network's head, measured with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.utils import Extractor

import naflow_core as nf
from naflow_core.targets.aim import Aim, Space, pull_back

Head = Callable[[np.ndarray], np.ndarray]


def head_of(proto: onnx.ModelProto, top: str, output: str) -> Head:
    """The part of a model from one tensor to another, in onnxruntime."""
    if top == output:
        return lambda t: t.astype(np.float64)
    part = Extractor(onnx.shape_inference.infer_shapes(proto)).extract_model([top], [output])
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda t: np.asarray(session.run(None, {top: t.astype(np.float32)})[0], np.float64)


def aimed(model: nf.Model, x: np.ndarray, target: Any) -> tuple[Aim, np.ndarray, np.ndarray, nf.Explanation]:
    """What a similarity target explains of `x`, with t_K and G_K."""
    explanation = model.explain(x, target, layers=model.plan(x).top)
    plan = explanation.plan
    program = plan.program
    head, names = program.extract(plan.top, (plan.head.output,))
    (t,) = (tap_of(model, x, plan.top),)
    space = Space(model, plan.head.output, program.shapes[plan.head.output][1:], None)
    aim = target.bind(space).aim(model.embed(x))
    G = pull_back(head, t, program.operands(names, {}), aim.cotangent)
    return aim, t, np.asarray(G, np.float64), explanation


def tap_of(model: nf.Model, x: np.ndarray, tensor: str) -> np.ndarray:
    """One tensor of the forward pass, by onnxruntime."""
    feeds = {model.inputs[0].name: x}
    session = onnxruntime.InferenceSession(
        model.loaded.serialized_with_outputs([tensor]), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run([tensor], feeds)[0], np.float32)


def slopes(
    function: Callable[[np.ndarray], np.ndarray], t: np.ndarray, directions: np.ndarray, step: float
) -> np.ndarray:
    """Central differences [directions, N] of a function from t [N, ...] to [N]."""
    return np.stack([(function(t + step * d) - function(t - step * d)) / (2 * step) for d in directions])


def similarity(metric: str, e: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Mean similarity [N] of e [N, ...] with r [M, ...], by the book."""
    e, r = (a.reshape(len(a), -1).astype(np.float64) for a in (e, r))
    if metric == "cosine":
        e, r = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (e, r))
    if metric == "euclidean":
        return -((e[:, None] - r[None]) ** 2).sum(axis=2).mean(axis=1)
    return (e @ r.T).mean(axis=1)


def terms(metric: str, e: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Channel terms [N, C], each as the change of the similarity when its channel stops to count."""
    e, r = (a.astype(np.float64) for a in (e, r))
    if metric == "cosine":
        e, r = (a / np.sqrt((a**2).sum(axis=tuple(range(1, a.ndim)), keepdims=True)) for a in (e, r))
    plain = "euclidean" if metric == "euclidean" else "dot"
    found = []
    for c in range(e.shape[1]):
        without = [a.copy() for a in (e, r)]
        for a in without:
            a[:, c] = 0
        found.append(similarity(plain, e, r) - similarity(plain, *without))
    return np.stack(found, axis=1)


def check_against_differences(
    model: nf.Model, proto: onnx.ModelProto, x: np.ndarray, references: np.ndarray, metric: str, step: float
) -> None:
    """p, w and G_K of both kinds of coefficients, to 1e-3."""
    target = nf.SimilarityTarget(references, metric, "none", "contribution")
    aim, t, G, explanation = aimed(model, x, target)
    head = head_of(proto, explanation.plan.top, explanation.plan.head.output)
    e = head(t)
    expected = terms(metric, e, references)
    close(aim.similarity.contributions, expected)
    np.testing.assert_allclose(
        aim.similarity.contributions.sum(axis=1), aim.similarity.score, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(aim.similarity.score, similarity(metric, e, references), rtol=1e-4)
    close(aim.similarity.weights, expected / abs(expected.sum(axis=1, keepdims=True)))
    random = np.random.default_rng(3)
    # relative to each neuron, so that no activation changes its sign
    directions = random.normal(size=(4, *t.shape)) * np.abs(t)
    spread = aim.similarity.weights.reshape(*aim.similarity.weights.shape, *[1] * (e.ndim - 2)).astype(
        np.float64
    )
    axes = tuple(range(1, e.ndim))
    measured = slopes(lambda a: (spread * head(a)).sum(axis=axes), t, directions, step)
    close(np.einsum("d...,...->d...", directions, G).reshape(4, len(t), -1).sum(axis=2), measured)
    gradient = nf.SimilarityTarget(references, metric, coefficients="gradient")
    _, _, G, _ = aimed(model, x, gradient)
    measured = slopes(lambda a: similarity(metric, head(a), references), t, directions, step)
    close(np.einsum("d...,...->d...", directions, G).reshape(4, len(t), -1).sum(axis=2), measured)


def check_local_descriptors(
    model: nf.Model, proto: onnx.ModelProto, x: np.ndarray, references: np.ndarray, held: bool, step: float
) -> None:
    """The similarity of local descriptors, and G_K, to 1e-3; `held`: the lengths of the picture's are."""
    target = nf.SimilarityTarget(references, "image-to-class" if held else "image-to-class-full")
    aim, t, G, explanation = aimed(model, x, target)
    embed = head_of(proto, explanation.plan.top, explanation.plan.head.output)
    pool = unit_rows(np.moveaxis(references, 1, -1).reshape(-1, references.shape[1]).astype(np.float64))
    lengths = [lengths_of(e.reshape(len(e), -1).T) for e in embed(t)]

    def score(top: np.ndarray) -> np.ndarray:
        rows = [e.reshape(len(e), -1).T for e in embed(top)]
        own = lengths if held else [lengths_of(r) for r in rows]
        each = [r / n @ pool.T for r, n in zip(rows, own, strict=True)]
        return np.array([np.sort(table, axis=1)[:, -3:].mean() for table in each])

    close(aim.similarity.score, score(t))
    directions = np.random.default_rng(3).normal(size=(4, *t.shape)) * np.abs(t)
    measured = slopes(score, t, directions, step)
    close(np.einsum("d...,...->d...", directions, G).reshape(4, len(t), -1).sum(axis=2), measured)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Each row at length 1; zeros stay."""
    return np.asarray(rows / lengths_of(rows))


def lengths_of(rows: np.ndarray) -> np.ndarray:
    """[N, 1], never 0."""
    return np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """To 1e-3 of the largest value."""
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
