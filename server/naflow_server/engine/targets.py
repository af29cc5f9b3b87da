"""Similarity targets: limits, what is refused before anything is computed, and banks that are looked up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

import naflow_core as nf
from naflow_core.targets import faiss_index
from naflow_core.targets.aim import check_vectors
from naflow_server.engine.banks import BankInfo, Banks, Snapshot, refusals
from naflow_server.engine.banks.checks import LABEL_BYTES, UNPRINTABLE
from naflow_server.engine.types import (
    BankQuery,
    BankVersion,
    Code,
    EngineError,
    ExplainRequest,
    LabelledEmbeddings,
    Target,
)
from naflow_server.sections import LimitSettings

FIELDS: Mapping[type, str] = {
    nf.SimilarityTarget: "target.similarity_target.references",
    nf.PrototypeTarget: "target.prototype_target.supports",
    nf.BankTarget: "target.bank_target",
    BankQuery: "target.bank_target",
}
EXPLAINED = "embeddings of the explained pictures"


def check(target: Target, pictures: int, limits: LimitSettings) -> None:
    """Refuse what no model could make sense of.

    Args:
        pictures: in the request.

    Raises:
        EngineError: INVALID_ARGUMENT; names the field, and the row where one is at fault.
    """
    field = FIELDS.get(type(target), "")
    if isinstance(target, nf.SimilarityTarget):
        count = _check_references(target.references, target.metric, field, limits)
        if target.paired and count != pictures:
            _refuse(field, f"{count} references do not pair with {pictures} pictures", "give one for each")
    elif isinstance(target, nf.PrototypeTarget):
        count = _check_references(target.supports, target.metric, field, limits)
        _check_labels(target.labels, count, "target.prototype_target.labels")
        _check_wanted(target.wanted, target.labels, "target.prototype_target.wanted")
        if target.contrast and len(set(target.labels)) < 2:
            _refuse("target.prototype_target.contrast", "all supports are of one way", "give another way")
    elif isinstance(target, BankQuery):
        if target.k > limits.references:
            _refuse(f"{field}.neighbours", f"{target.k} are over the limit of {limits.references}")
        if isinstance(target.bank, LabelledEmbeddings):
            inside = f"{field}.embeddings"
            own = target.bank
            count = _check_references(own.embeddings, target.metric, f"{inside}.embeddings", limits)
            _check_labels(own.labels, count, f"{inside}.labels")
            _check_wanted(target.wanted, own.labels, f"{field}.wanted")


def failed_field(request: ExplainRequest | None) -> tuple[str, str]:
    """Which fields are at fault where a target, or its metric, does not fit the model."""
    kind = type(request.target) if request is not None else nf.ClassTarget
    if kind not in FIELDS:
        return "target", "method"
    branch = ".".join(FIELDS[kind].split(".")[:2])
    return FIELDS[kind], f"{branch}.comparison.metric"


def with_embeddings(target: Any, model: nf.Model, named: Any, output: str | None) -> Any:
    """The target with references that came as pictures as embeddings.

    They go through the model one by one: what comes out does not depend on which others come along, and any
    number of them takes one compiled program.

    Args:
        named: gives a mapping from input names its final names.

    Raises:
        TargetError: the model does not take these pictures.
    """
    place = {nf.SimilarityTarget: "references", nf.PrototypeTarget: "supports"}.get(type(target))
    given = getattr(target, place) if place is not None else None
    if place is None or not isinstance(given, dict):
        return target
    try:
        embeddings = model.embed(named(given), output=output, batch_size=1)
    except nf.InputError as error:
        raise nf.TargetError(f"{place}: {error.message}", hint=error.hint) from error
    return dataclasses.replace(target, **{place: embeddings})


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A bank that was looked up.

    Attributes:
        target: for the core.
        version: which content that is; None for a bank that came with the request.
        positions: of its rows in the server's bank, where those without a label are left out; else None.
    """

    target: nf.BankTarget
    version: BankVersion | None
    positions: np.ndarray | None


class Lookup:
    """The server's banks as the core takes them, for one event loop. Those used last are kept in memory.

    Args:
        most: bytes of embeddings to keep.
        search: what finds the nearest in them, for the metrics that it knows.
    """

    def __init__(self, banks: Banks, most: int, search: str = "jax") -> None:
        self._banks, self._most, self._search = banks, most, search
        self._kept: OrderedDict[BankVersion, tuple[nf.Bank, np.ndarray | None]] = OrderedDict()

    def check(self, target: Target) -> None:
        """Refuse a bank that is not there, or cannot answer; never waits.

        Raises:
            EngineError: NOT_FOUND, or FAILED_PRECONDITION for a bank that is damaged or has no labels.
        """
        if isinstance(target, BankQuery) and isinstance(target.bank, str):
            self._usable(target.bank)

    async def find(self, query: BankQuery, sha256: str) -> Found:
        """The bank of a request for the model with this digest.

        Raises:
            EngineError: as `check`; also a bank of another model, or a label that is not in it.
        """
        if isinstance(query.bank, LabelledEmbeddings):
            own = query.bank
            if own.model_sha256 and own.model_sha256 != sha256:
                field = "embeddings.model_sha256"
                raise _other_model("the bank of the request", own.model_sha256, sha256, field)
            bank = nf.Bank(own.embeddings, own.labels, sha256, source="of the request")
            return Found(_target(query, bank), None, None)
        info = self._usable(query.bank)
        if info.model_sha256 != sha256:
            raise _other_model(f"bank {query.bank!r}", info.model_sha256, sha256, "bank_name")
        version = BankVersion(info.id, info.version)
        found = self._known(version)
        if found is None:
            try:
                snapshot = await self._banks.snapshot(query.bank, info.version)
            except EngineError as error:
                raise _renamed(error) from error
            if snapshot.id != info.id:
                raise _renamed(refusals.unknown(query.bank))
            found = await asyncio.to_thread(_labelled, snapshot, query.bank)
            self._keep(version, found)
        bank, rows = found
        _check_wanted(query.wanted, bank.labels, "target.bank_target.wanted")
        return Found(_target(query, bank, self._search), version, rows)

    def _usable(self, name: str) -> BankInfo:
        try:
            info = self._banks.get(name)
            if info.reason:
                raise refusals.damaged(name, info.reason)
        except EngineError as error:
            raise _renamed(error) from error
        if not info.labelled:
            said = "has no embeddings" if not info.count else "has no labels: nothing can vote"
            raise EngineError(
                Code.FAILED_PRECONDITION,
                f"bank {name!r} {said}",
                hint="append embeddings with labels",
                field="target.bank_target.bank_name",
                reason="bank_empty",
            )
        return info

    def _known(self, version: BankVersion) -> tuple[nf.Bank, np.ndarray | None] | None:
        if version in self._kept:
            self._kept.move_to_end(version)
        return self._kept.get(version)

    def _keep(self, version: BankVersion, found: tuple[nf.Bank, np.ndarray | None]) -> None:
        for other in [key for key in self._kept if key.id == version.id]:
            del self._kept[other]  # an older content, which nobody asks for any more
        self._kept[version] = found
        while sum(bank.embeddings.nbytes for bank, _ in self._kept.values()) > self._most:
            self._kept.popitem(last=False)


def _labelled(snapshot: Snapshot, name: str) -> tuple[nf.Bank, np.ndarray | None]:
    """What can vote, and its positions where that is not everything. Takes its time for a large bank."""
    rows: np.ndarray | None = None
    embeddings, labels = snapshot.embeddings, snapshot.labels
    if not all(labels):
        rows = np.flatnonzero([bool(label) for label in labels])
        embeddings, labels = embeddings[rows], tuple(label for label in labels if label)
    return nf.Bank(embeddings, labels, snapshot.model_sha256, source=name), rows


def _target(query: BankQuery, bank: nf.Bank, search: str = "jax") -> nf.BankTarget:
    how = (query.metric, query.normalise, query.coefficients, query.temperature)
    return nf.BankTarget(
        bank, query.k, query.wanted, *how, search=search if query.metric in faiss_index.METRICS else "jax"
    )


def _check_references(given: Any, metric: str, field: str, limits: LimitSettings) -> int:
    """How many there are."""
    if isinstance(given, dict):
        return _check_pictures(given, f"{field}.pictures.inputs", limits)
    inside = field if field.endswith(".embeddings") else f"{field}.embeddings"
    if len(given) > limits.references:
        said = f"{len(given)} embeddings are over the limit of {limits.references}"
        _refuse(inside, said, "use a bank that the server keeps")
    if given.nbytes > limits.reference_bytes:
        _refuse(inside, f"{given.nbytes} bytes are over the limit of {limits.reference_bytes}")
    try:
        check_vectors(given, nf.metrics.REGISTRY.find(metric), inside)
    except nf.TargetError as error:
        raise EngineError(
            Code.INVALID_ARGUMENT, error.message, hint=error.hint, field=inside, reason=error.code
        ) from error
    return len(given)


def _check_pictures(inputs: Mapping[str, np.ndarray], field: str, limits: LimitSettings) -> int:
    counts = {len(value) if value.ndim else 0 for value in inputs.values()}
    if len(counts) != 1:
        _refuse(field, "the inputs have different numbers of pictures")
    count = counts.pop()
    if not 1 <= count <= limits.pictures:
        _refuse(field, f"{count} pictures", f"from 1 to {limits.pictures}; send embeddings instead")
    total = sum(value.nbytes for value in inputs.values())
    if total > limits.reference_bytes:
        _refuse(field, f"{total} bytes are over the limit of {limits.reference_bytes}")
    return count


def _check_labels(labels: Sequence[str | int], count: int, field: str) -> None:
    if len(labels) != count:
        _refuse(field, f"{len(labels)} labels do not fit {count} embeddings", "give one for each")
    for row, label in enumerate(map(str, labels)):
        size = len(label.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= LABEL_BYTES or UNPRINTABLE.search(label):
            _refuse(f"{field}[{row}]", f"is not 1 to {LABEL_BYTES} bytes without control characters")


def _check_wanted(wanted: str | int | None, labels: Sequence[str | int], field: str) -> None:
    """Here, where labels of any length and number cost nothing: the core looks for similar ones."""
    if wanted is not None and wanted not in labels:
        shown = str(wanted)
        shown = shown if len(shown) <= 64 else f"{shown[:64]}..."
        _refuse(field, f"{shown!r} is none of the labels", "leave it empty, or give a label that is there")


def _refuse(field: str, message: str, hint: str = "") -> NoReturn:
    raise EngineError(
        Code.INVALID_ARGUMENT, f"{field}: {message}", hint=hint, field=field, reason=nf.TargetError.code
    )


def _other_model(what: str, bank: str, model: str, field: str) -> EngineError:
    return EngineError(
        Code.FAILED_PRECONDITION,
        f"{what} is of another model: its sha256 begins with {bank[:8]}, this model's with {model[:8]}",
        hint="use a bank that was made with this model",
        field=f"target.bank_target.{field}",
        reason="bank_model_differs",
    )


def _renamed(error: EngineError) -> EngineError:
    """What is refused of a bank, with the field of a request that explains."""
    field = "target.bank_target.bank_name" if error.code is not Code.PERMISSION_DENIED else None
    return EngineError(
        error.code,
        error.message,
        hint=error.hint,
        field=field,
        retry_after=error.retry_after,
        reason=error.reason,
    )
