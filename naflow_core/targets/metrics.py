"""Similarity metrics, by name.

A metric is a JAX function of one picture's embedding and of its references. It returns how much each channel
contributes to the similarity, and the similarity itself, which is the sum of the contributions. Channels are
the first axis of what it gets: the elements of a vector, or the channels of a feature map (local
descriptors), whose contributions are summed over positions.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from naflow_core.errors import OptionError

Array = Any
Measure = Callable[[Array, Array], tuple[Array, Array]]
NEAREST_DESCRIPTORS = 3


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to compare an embedding with references.

    Attributes:
        name: as users and reports write it.
        function: (embedding [C, ...], references [M, C, ...]) to (contributions [C], similarity), averaged
            over the references.
        pools: the references of one class are one pool, which the function looks through as a whole; else a
            class is represented by the mean of its embeddings.
        directional: undefined for an embedding of length zero.
        maps_only: for embeddings that are feature maps; these may differ in size.
    """

    name: str
    function: Measure
    pools: bool = False
    directional: bool = False
    maps_only: bool = False


class MetricRegistry:
    """Metrics by name; duplicates are refused."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def register(
        self, name: str, *, pools: bool = False, directional: bool = False, maps_only: bool = False
    ) -> Callable[[Measure], Measure]:
        """Decorator: add a metric. The arguments are the attributes of `Metric`.

        Raises:
            ValueError: there is a metric of that name.
        """

        def add(function: Measure) -> Measure:
            if name in self._metrics:
                raise ValueError(f"metric {name!r} is already registered")
            self._metrics[name] = Metric(name, function, pools, directional, maps_only)
            return function

        return add

    def unregister(self, name: str) -> None:
        """Take a metric out again."""
        del self._metrics[name]

    def find(self, name: str) -> Metric:
        """The metric of that name.

        Raises:
            OptionError: there is none; the text says what there is.
        """
        if name not in self._metrics:
            near = difflib.get_close_matches(name, self._metrics, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(self.names())}"
            raise OptionError(
                f"metric {name!r} does not exist", hint=f"{hint}; nf.metrics.register adds another"
            )
        return self._metrics[name]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._metrics))


REGISTRY = MetricRegistry()
register = REGISTRY.register


def _per_channel(values: Array) -> Array:
    """[M, C, ...] to [C]: summed over positions, averaged over references."""
    return values.reshape(*values.shape[:2], -1).sum(axis=2).mean(axis=0)


def _unit(values: Array, axes: tuple[int, ...]) -> Array:
    return values / jnp.sqrt(jnp.sum(values * values, axis=axes, keepdims=True))


@register("cosine", directional=True)
def cosine(embedding: Array, references: Array) -> tuple[Array, Array]:
    """Inner product of the embeddings at unit length; a feature map counts as one long vector."""
    unit = _unit(embedding, tuple(range(embedding.ndim)))
    return _summed(unit[None] * _unit(references, tuple(range(1, references.ndim))))


@register("dot", directional=True)
def dot(embedding: Array, references: Array) -> tuple[Array, Array]:
    """Inner product of the embeddings."""
    return _summed(embedding[None] * references)


@register("euclidean")
def euclidean(embedding: Array, references: Array) -> tuple[Array, Array]:
    """Minus the squared distance between the embeddings."""
    return _summed(-jnp.square(embedding[None] - references))


@register("image-to-class", pools=True, directional=True, maps_only=True)
def image_to_class(embedding: Array, references: Array) -> tuple[Array, Array]:
    """Mean cosine between each local descriptor and its 3 nearest among those of all references together.

    Differentiated, the lengths of the descriptors of `embedding` are held. A cosine does not change with the
    length, so its full gradient times the descriptor adds up to zero at every place, and is zero where two
    descriptors agree: it shows where they differ. With the lengths held it adds up to the place's share of
    the similarity.

    Source: W. Li et al., "Revisiting Local Descriptor based Image-to-Class Measure for Few-shot Learning",
    CVPR 2019, which sums where this takes the mean.
    """
    return _image_to_class(embedding, references, lax.stop_gradient)


@register("image-to-class-full", pools=True, directional=True, maps_only=True)
def image_to_class_full(embedding: Array, references: Array) -> tuple[Array, Array]:
    """The same similarity as `image_to_class`, with its full gradient."""
    return _image_to_class(embedding, references, lambda lengths: lengths)


def _image_to_class(
    embedding: Array, references: Array, held: Callable[[Array], Array]
) -> tuple[Array, Array]:
    channels = embedding.shape[0]
    query = _safe_unit(embedding.reshape(channels, -1).T, held)
    pool = _safe_unit(jnp.moveaxis(references, 1, -1).reshape(-1, channels), held)
    count = min(NEAREST_DESCRIPTORS, pool.shape[0])
    near, places = lax.top_k(jnp.matmul(query, pool.T, precision=lax.Precision.HIGHEST), count)
    del near  # taken again from the places, so that the sum of the contributions is the similarity
    terms = query[:, None, :] * pool[places]
    contributions = terms.mean(axis=(0, 1))
    return contributions, contributions.sum()


def _safe_unit(descriptors: Array, held: Callable[[Array], Array]) -> Array:
    """Rows at unit length, divided by `held` of it; a row of zeros (no channel is on) stays zero."""
    squares = jnp.sum(descriptors * descriptors, axis=1, keepdims=True)
    alive = squares > 0
    return jnp.where(alive, descriptors / held(jnp.sqrt(jnp.where(alive, squares, 1.0))), 0.0)


def _summed(terms: Array) -> tuple[Array, Array]:
    contributions = _per_channel(terms)
    return contributions, contributions.sum()


@functools.partial(jax.jit, static_argnums=(0, 1))
def measure(metric: Metric, shared: bool, embeddings: Array, references: Array) -> tuple[Array, Array, Array]:
    """Contributions [N, C], similarity [N] and its gradient by the embedding [N, C, ...].

    Args:
        shared: whether `references` are [M, C, ...] for all pictures, else [N, M, C, ...].
        embeddings: [N, C, ...].
    """

    def one(embedding: Array, own: Array) -> tuple[Array, Array, Array]:
        def score(e: Array) -> tuple[Array, Array]:
            contributions, similarity = metric.function(e, own)
            return similarity, contributions

        (similarity, contributions), gradient = jax.value_and_grad(score, has_aux=True)(embedding)
        return contributions, similarity, gradient

    return jax.vmap(one, in_axes=(0, None if shared else 0))(embeddings, references)


@functools.partial(jax.jit, static_argnums=0)
def measure_some(
    metric: Metric, embeddings: Array, references: Array, share: Array
) -> tuple[Array, Array, Array]:
    """As `measure` with those of shared references that have a share, for metrics that do not pool: their
    number is no part of the program.

    Args:
        references: [M, C, ...]; share: [M] of each in the mean, 0 to leave it out.
    """

    def score(e: Array) -> tuple[Array, Array]:
        contributions, similarity = jax.vmap(lambda r: metric.function(e, r[None]))(references)
        return (share * similarity).sum(), (share[:, None] * contributions).sum(axis=0)

    def one(e: Array) -> tuple[Array, Array, Array]:
        (similarity, contributions), gradient = jax.value_and_grad(score, has_aux=True)(e)
        return contributions, similarity, gradient

    return jax.vmap(one)(embeddings)


@functools.partial(jax.jit, static_argnums=0)
def pairwise(metric: Metric, embeddings: Array, references: Array) -> Array:
    """Similarity [N, M] of each embedding [N, C, ...] with each reference [M, C, ...] alone."""

    def one(embedding: Array) -> Array:
        return jax.vmap(lambda r: metric.function(embedding, r[None])[1])(references)

    return lax.map(one, embeddings)


def checked(metric: Metric, embedding: tuple[int, ...], references: tuple[int, ...]) -> None:
    """Refuse a metric that does not fit the embedding, or returns other shapes than it should.

    Args:
        embedding: shape of one embedding, [C, ...].
        references: shape of its references, [M, C, ...].

    Raises:
        OptionError: names the metric.
    """
    if metric.maps_only and len(embedding) < 2:
        raise OptionError(
            f"metric {metric.name!r} compares local descriptors, this model gives a vector of {embedding[0]}",
            hint="use cosine, dot or euclidean",
        )
    structs = (jax.ShapeDtypeStruct(shape, np.float32) for shape in (embedding, references))
    try:
        contributions, score = jax.eval_shape(metric.function, *structs)
        shapes = (contributions.shape, score.shape)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise OptionError(
            f"metric {metric.name!r} fails on an embedding of shape {list(embedding)}: "
            f"{type(error).__name__}: {first}"
        ) from error
    if shapes != ((embedding[0],), ()):
        raise OptionError(
            f"metric {metric.name!r} returns shapes {list(shapes[0])} and {list(shapes[1])} "
            f"instead of [{embedding[0]}] and []",
            hint="return the contributions of the channels and the similarity",
        )
