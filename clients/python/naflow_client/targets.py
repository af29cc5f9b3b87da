"""What a similarity is explained with; the classes mirror those of `naflow_core`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from naflow_client.inputs import Picture

References = NDArray[Any] | Mapping[str, NDArray[Any]] | Picture | Sequence[Picture]


@dataclass(frozen=True, slots=True, eq=False)
class SimilarityTarget:
    """The similarity with one reference, or the mean similarity with several.

    Attributes:
        references: embeddings, float32 [M, C] or [M, C, ...]; or pictures, which the server embeds one by
            one: files or Pillow images, made into tensors with `preprocess`, or a mapping from input name to
            tensors [M, ...], where "" stands for the only input.
        metric: "cosine", "dot", "euclidean", "image-to-class", or another that the server knows.
        normalise: of the channel weights, "minmax" or "none"; only for "contribution".
        coefficients: "gradient" or "contribution".
        names: of the references, for reports; their files' names, or numbers, when empty.
        paired: reference i belongs to picture i alone.
    """

    references: References
    metric: str = "cosine"
    normalise: str = "minmax"
    coefficients: str = "gradient"
    names: Sequence[str] = ()
    paired: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PrototypeTarget:
    """Few-shot: the similarity with the prototype of one way.

    Attributes:
        supports: as `SimilarityTarget.references`.
        labels: the way of each support.
        wanted: the way to explain; the predicted one when None.
        metric, normalise, coefficients: as in `SimilarityTarget`.
        contrast: take off the similarity with the most similar other way.
    """

    supports: References
    labels: Sequence[str | int]
    wanted: str | int | None = None
    metric: str = "cosine"
    normalise: str = "minmax"
    coefficients: str = "gradient"
    contrast: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class LabelledEmbeddings:
    """A small bank that is sent along.

    Attributes:
        embeddings: float32 [M, C] or [M, C, ...].
        labels: one for each.
        model_sha256: of the model that made them; any other is refused. Not checked when "".
    """

    embeddings: NDArray[Any]
    labels: Sequence[str | int]
    model_sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class BankTarget:
    """The similarity with those of the nearest in a bank that carry the label they vote for.

    Attributes:
        bank: name of a bank that the server keeps; or embeddings with labels, which are sent along.
        k: how many of the nearest vote.
        wanted: the label to explain, which must be among them; the voted one when None.
        metric, normalise, coefficients: as in `SimilarityTarget`.
        temperature: of the votes, greater than 0.
    """

    bank: str | LabelledEmbeddings
    k: int = 20
    wanted: str | int | None = None
    metric: str = "cosine"
    normalise: str = "minmax"
    coefficients: str = "gradient"
    temperature: float = 0.07


Target = SimilarityTarget | PrototypeTarget | BankTarget
