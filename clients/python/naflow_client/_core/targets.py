"""Similarity targets to messages, and what is known here of their references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naflow.v1 import method_pb2, similarity_pb2
from naflow_client._core.requests import choice, finite, tensor, whole
from naflow_client.answers import Header
from naflow_client.errors import RequestError, UnsupportedError
from naflow_client.inputs import Compared, Inputs, Recipe, from_arrays, from_pictures, holds_pictures
from naflow_client.models import ModelReport
from naflow_client.pictures import thumbnail
from naflow_client.targets import BankTarget, LabelledEmbeddings, PrototypeTarget, SimilarityTarget

MOST_NEIGHBOURS = (1 << 32) - 1


class Aim:
    """A target on its way to the server: the same for all inputs of a call.

    Args:
        target: as the caller gave it; None where a class is explained.
        preprocess: for references that are pictures.

    Raises:
        RequestError: it is no target, or something in it cannot be sent.
    """

    def __init__(self, target: Any, preprocess: Recipe) -> None:
        kinds = SimilarityTarget | PrototypeTarget | BankTarget | None
        if not isinstance(target, kinds):
            hint = "use SimilarityTarget, PrototypeTarget or BankTarget; a class is target_class="
            raise RequestError(f"target is a {type(target).__name__}", hint, field="target")
        self._target, self._preprocess = target, preprocess
        self._made: tuple[method_pb2.Target, Compared] | None = None
        references = _references(target)
        self.needs_report = references is not None and holds_pictures(references)
        if target is not None and not self.needs_report:
            self.made(None)  # refuse here what can be refused here

    def made(self, report: ModelReport | None) -> tuple[method_pb2.Target, Compared] | None:
        """The message, and what is known of the references; None where a class is explained.

        Args:
            report: of the model; needed for pictures.

        Raises:
            RequestError, PictureError, PreprocessingError: something does not fit, naming the field.
        """
        if self._target is not None and self._made is None:
            self._made = self._make(self._target, report)
        return self._made

    def _make(self, target: Any, report: ModelReport | None) -> tuple[method_pb2.Target, Compared]:
        if isinstance(target, BankTarget):
            return method_pb2.Target(bank_target=_bank(target)), Compared()
        references = _references(target)
        embedded = isinstance(references, np.ndarray)
        inputs = Inputs({})
        if embedded:
            message = similarity_pb2.References(embeddings=_embeddings(references, "target.references"))
            count = len(references)
        else:
            inputs = self._pictures(references, report)
            sent = {name: tensor(a, f"target.references[{name!r}]") for name, a in inputs.arrays.items()}
            message = similarity_pb2.References(pictures=similarity_pb2.Pictures(inputs=sent))
            count = len(next(iter(inputs.arrays.values())))
        small = {} if embedded else {i: thumbnail(inputs.display(i)) for i in range(count)}
        if isinstance(target, SimilarityTarget):
            names = tuple(map(str, target.names)) or tuple(
                (inputs.names[i] if i < len(inputs.names) else "") or str(i) for i in range(count)
            )
            if len(names) != count:
                raise RequestError(
                    f"{len(names)} names do not fit {count} references", "one for each", field="target.names"
                )
            own = similarity_pb2.SimilarityTarget(
                references=message, paired=target.paired, comparison=_comparison(target)
            )
            return method_pb2.Target(similarity_target=own), Compared(names, small, target.paired)
        labels = _labels(target.labels, count)
        ways = list(dict.fromkeys(labels))
        first = {number: small[labels.index(way)] for number, way in enumerate(ways) if small}
        episode = similarity_pb2.PrototypeTarget(
            supports=message,
            labels=labels,
            wanted=_wanted(target.wanted),
            contrast=target.contrast,
            comparison=_comparison(target),
        )
        return method_pb2.Target(prototype_target=episode), Compared((), first)

    def _pictures(self, references: Any, report: ModelReport | None) -> Inputs:
        if report is None:
            return from_arrays(references)
        return from_pictures(references, self._preprocess, report)


def check_answer(header: Header, inputs: Inputs) -> None:
    """Refuse the answer of a server that does not know similarity targets, and explains a class instead.

    Raises:
        UnsupportedError: that is so.
    """
    if inputs.compared is not None and header.prediction.similarity is None:
        shown = header.prediction.target.index
        raise UnsupportedError(
            f"the server does not know similarity targets, and explains class {shown}",
            "ask a newer one",
            field="target",
        )


def _references(target: Any) -> Any:
    """The references of a target that has any."""
    if isinstance(target, SimilarityTarget):
        return target.references
    return target.supports if isinstance(target, PrototypeTarget) else None


def _bank(target: BankTarget) -> similarity_pb2.BankTarget:
    message = similarity_pb2.BankTarget(
        neighbours=whole(target.k, "target.k", 1, MOST_NEIGHBOURS),
        wanted=_wanted(target.wanted),
        temperature=finite(target.temperature, "target.temperature"),
        comparison=_comparison(target),
    )
    given: Any = target.bank
    if isinstance(given, str):
        message.bank_name = given
    elif isinstance(given, LabelledEmbeddings):
        message.embeddings.embeddings.CopyFrom(_embeddings(given.embeddings, "target.bank.embeddings"))
        message.embeddings.labels.extend(_labels(given.labels, len(given.embeddings)))
        message.embeddings.model_sha256 = given.model_sha256
    else:
        hint = "give the name of a bank, or LabelledEmbeddings"
        raise RequestError(f"target.bank is a {type(given).__name__}", hint, field="target.bank")
    return message


def _embeddings(values: NDArray[Any], field: str) -> Any:
    if (
        not isinstance(values, np.ndarray)
        or values.dtype.kind not in "fiu"
        or values.ndim < 2
        or not values.size
    ):
        shown = (
            f"{values.dtype} {list(values.shape)}"
            if isinstance(values, np.ndarray)
            else type(values).__name__
        )
        raise RequestError(f"{field} is {shown}", "give numbers [M, C] or [M, C, ...]", field=field)
    return tensor(values.astype(np.float32, copy=False), field)


def _labels(labels: Sequence[str | int], count: int) -> list[str]:
    field = "target.labels"
    if isinstance(labels, str):
        raise RequestError("target.labels is a single text", "give one label for each embedding", field=field)
    found = [str(label) for label in labels]
    if len(found) != count:
        raise RequestError(f"{len(found)} labels do not fit {count} embeddings", "one for each", field=field)
    return found


def _wanted(label: str | int | None) -> str:
    if label == "":
        raise RequestError(
            "target.wanted is empty", "leave it out for the predicted one", field="target.wanted"
        )
    return "" if label is None else str(label)


def _comparison(target: SimilarityTarget | PrototypeTarget | BankTarget) -> similarity_pb2.Comparison:
    return similarity_pb2.Comparison(
        metric=target.metric,
        coefficients=choice(
            similarity_pb2.Coefficients, "COEFFICIENTS", "target.coefficients", target.coefficients
        ),
        normalisation=choice(
            similarity_pb2.Normalisation, "NORMALISATION", "target.normalise", target.normalise
        ),
    )
