"""Two pictures and their similarity: flows for either side, and which places answer to which."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.analysis.embedding import normalised
from naflow_core.errors import InputError, OptionError, TargetError
from naflow_core.explainer import Model
from naflow_core.explanation import Explanation
from naflow_core.model.inputs import device_value
from naflow_core.model.program import Subprogram, evaluate
from naflow_core.targets import SimilarityTarget

Array = Any
Sides = Literal["query", "gallery", "both"]
POINT_METRICS = ("cosine", "dot")


@dataclass(frozen=True, slots=True)
class Pair:
    """The explanations of a pair's two sides; one that was not asked for is None."""

    query: Explanation | None
    gallery: Explanation | None

    @property
    def similarity(self) -> np.ndarray:
        """[N] similarity of each pair."""
        side = self.query or self.gallery
        assert side is not None
        return side.prediction.target_score


def explain_pair(
    model: Model,
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    metric: str = "cosine",
    normalise: str = "minmax",
    coefficients: str = "gradient",
    sides: Sides = "both",
    **options: Any,
) -> Pair:
    """Explain the similarity of query[i] and gallery[i], for each i.

    Args:
        query, gallery: [N, ...] pictures as the model takes them.
        metric, normalise, coefficients: as in `SimilarityTarget`.
        sides: whose flows are wanted.
        options: `method`, `layers`, `output`, `top_feature_map`, `batch_size` of `Model.explain`.

    Raises:
        As `Model.explain`; OptionError for another `sides`.
    """
    if sides not in ("query", "gallery", "both"):
        raise OptionError(f"sides {sides!r} does not exist", hint="use query, gallery or both")

    def side(own: np.ndarray, other: np.ndarray) -> Explanation:
        where = {key: options.get(key) for key in ("output", "batch_size")}
        target = SimilarityTarget(model.embed(other, **where), metric, normalise, coefficients, paired=True)
        return model.explain(own, target, **options)

    return Pair(
        side(query, gallery) if sides != "gallery" else None,
        side(gallery, query) if sides != "query" else None,
    )


def point_to_point(
    model: Model,
    query: np.ndarray,
    gallery: np.ndarray,
    point: tuple[int, ...],
    *,
    metric: str = "cosine",
    output: str | None = None,
    top_feature_map: str | None = None,
) -> np.ndarray:
    """For one place in the query's top feature map, where the gallery picture carries the similarity.

    An embedding is made of what each place of the top feature map gives to it, by the head's Jacobian; the
    similarity of two embeddings then has a term for each pair of places. Where the head is linear (averages,
    products with weights without bias) the terms of all pairs add up to the similarity. An embedding at unit
    length is taken before the graph normalises it. For embeddings that are feature maps, the terms are those
    of the local descriptors themselves.

    Source: S. Zhu, T. Yang, C. Chen, "Visual Explanation for Deep Metric Learning", 2019, extended from
    average and maximum pooling to any head by its linearisation.

    Args:
        query, gallery: [N, ...] pictures as the model takes them; pair by pair.
        point: place in the query's top feature map, one index for each of its spatial axes.
        metric: "cosine" or "dot".
        output, top_feature_map: as for `Model.explain`.

    Returns:
        [N, H, W] float32, signed, in the size of the gallery's top feature map.

    Raises:
        OptionError: another metric.
        InputError: the point lies outside, or the numbers of pictures differ.
        TargetError: cosine, and an embedding is the zero vector.
    """
    if metric not in POINT_METRICS:
        raise OptionError(f"metric {metric!r} has no terms by place", hint="use cosine or dot")
    sides = [_Side.of(model, x, output, top_feature_map) for x in (query, gallery)]
    if sides[0].count != sides[1].count:
        raise InputError(f"{sides[0].count} pictures do not pair with {sides[1].count}")
    first, second = sides
    spatial = [first.top.shape[axis] for axis in first.axes]
    if len(point) != len(spatial) or any(not 0 <= p < n for p, n in zip(point, spatial, strict=True)):
        raise InputError(
            f"point {list(point)} is not in the top feature map {first.name!r}, which has {spatial} places"
        )
    if first.is_map:
        return _descriptor_map(first, second, point, metric == "cosine")
    if metric == "cosine":
        for name, side in zip(("query", "gallery"), sides, strict=True):
            if not np.asarray(side.embedding).reshape(side.count, -1).any(axis=1).all():
                raise TargetError(f"an embedding of the {name} is the zero vector, which has no cosine")
    mask = np.zeros((1, *first.top.shape[1:]), np.float32)
    chosen: list[Any] = [slice(None)] * mask.ndim
    for axis, place in zip(first.axes, point, strict=True):
        chosen[axis] = place
    mask[tuple(chosen)] = 1
    share = _push(first.head, first.top, first.operands, first.top * mask)
    if metric == "cosine":
        share = share / (_length(first.embedding) * _length(second.embedding))
    terms = _terms(second.head, second.top, second.operands, share)
    return np.asarray(terms.sum(axis=second.channels), np.float32)


@dataclass(frozen=True, slots=True)
class _Side:
    """One picture's top feature map (the embedding itself where that is a map), and the head behind it."""

    head: Subprogram
    operands: tuple[Array, ...]
    name: str
    top: Array
    embedding: Array
    axes: tuple[int, ...]
    is_map: bool

    @property
    def count(self) -> int:
        """Number of pictures."""
        return int(self.top.shape[0])

    @property
    def channels(self) -> tuple[int, ...]:
        """The axes of the top feature map that are neither batch nor spatial."""
        return tuple(i for i in range(1, self.top.ndim) if i not in self.axes)

    @classmethod
    def of(cls, model: Model, x: np.ndarray, output: str | None, top: str | None) -> _Side:
        """Run the model on `x`."""
        plan = model.plan(x, output=output, top_feature_map=top)
        program, end = plan.program, plan.head.output
        begin = end if plan.head.is_feature_map else plan.top
        raw = normalised(program, end)
        if raw and program.between(begin, (raw,)):
            end = raw
        head, operand_names = program.extract(begin, (end,))
        feeds = {name: device_value(value) for name, value in model.check_inputs(x).items()}
        needed = {begin, end, *operand_names}
        wanted = tuple(name for name in program.shapes if name in needed and name not in program.inputs)
        forward, names = program.extract(plan.source, wanted, whole=True)
        found = evaluate(forward, feeds[plan.source], program.operands(names, feeds))
        values = {**feeds, **dict(zip(wanted, found, strict=True))}
        operands = program.operands(operand_names, values)
        axes = plan.layouts[begin]
        embedding = values[end].reshape(program.pictures, *program.shape_of_one(end))
        return cls(head, operands, begin, values[begin], embedding, axes, plan.head.is_feature_map)


def _descriptor_map(first: _Side, second: _Side, point: tuple[int, ...], unit: bool) -> np.ndarray:
    """Inner products (or cosines) of the query's descriptor at the point with all of the gallery's."""
    query, gallery = (
        np.moveaxis(np.asarray(side.top, np.float64), side.axes, range(-len(point), 0))
        for side in (first, second)
    )
    where: tuple[Any, ...] = (slice(None), slice(None), *point)
    one = query[where]
    products = np.einsum("nc,nc...->n...", one, gallery)
    if unit:
        lengths = np.sqrt((one**2).sum(axis=1)).reshape(-1, *([1] * len(point)))
        lengths = lengths * np.sqrt((gallery**2).sum(axis=1))
        products = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return products.astype(np.float32)


def _length(embedding: Array) -> Array:
    squares = jnp.sum(embedding * embedding, axis=tuple(range(1, embedding.ndim)), keepdims=True)
    return jnp.sqrt(squares)


@functools.partial(jax.jit, static_argnums=0)
def _push(head: Subprogram, top: Array, operands: tuple[Array, ...], tangent: Array) -> Array:
    return jax.jvp(lambda t: head(t, operands)[0], (top,), (tangent,))[1]


@functools.partial(jax.jit, static_argnums=0)
def _terms(head: Subprogram, top: Array, operands: tuple[Array, ...], share: Array) -> Array:
    embedding, pull = jax.vjp(lambda t: head(t, operands)[0], top)
    return pull(share.reshape(embedding.shape))[0] * top
