"""What a request wants explained, to the engine's types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import naflow_core as nf
from naflow.v1 import method_pb2 as me
from naflow.v1 import similarity_pb2 as sim
from naflow_server.convert.tables import COEFFICIENTS, NORMALISATIONS, refuse
from naflow_server.convert.tensors import array
from naflow_server.engine import types
from naflow_server.engine.targets import FIELDS

TEMPERATURE = 0.07
NEIGHBOURS = 20


def target(message: me.Target) -> types.Target:
    """What is explained. Values are checked by the engine, which knows the limits.

    Raises:
        EngineError: INVALID_ARGUMENT; names the field.
    """
    match message.WhichOneof("kind"):
        case "similarity_target":
            return _similarity(message.similarity_target)
        case "prototype_target":
            return _prototypes(message.prototype_target)
        case "bank_target":
            return _bank(message.bank_target)
        case _:
            return _class(message.class_target)


def _class(wanted: me.ClassTarget) -> nf.ClassTarget:
    match wanted.WhichOneof("wanted"):
        case "class_index":
            return nf.ClassTarget(wanted.class_index)
        case "class_name":
            if not wanted.labels:
                refuse("target.class_target.labels", "a class name needs the names of all classes")
            return nf.ClassTarget(wanted.class_name, nf.Labels(tuple(wanted.labels)))
        case _:
            return nf.ClassTarget()


def _similarity(message: sim.SimilarityTarget) -> nf.SimilarityTarget:
    return nf.SimilarityTarget(
        _references(message.references, FIELDS[nf.SimilarityTarget]),
        paired=message.paired,
        **_comparison(message.comparison, "target.similarity_target"),
    )


def _prototypes(message: sim.PrototypeTarget) -> nf.PrototypeTarget:
    return nf.PrototypeTarget(
        _references(message.supports, FIELDS[nf.PrototypeTarget]),
        tuple(message.labels),
        wanted=message.wanted or None,
        contrast=message.contrast,
        **_comparison(message.comparison, "target.prototype_target"),
    )


def _bank(message: sim.BankTarget) -> types.BankQuery:
    field = "target.bank_target"
    bank: str | types.LabelledEmbeddings
    match message.WhichOneof("bank"):
        case "bank_name":
            bank = message.bank_name
        case "embeddings":
            own = message.embeddings
            embeddings = _embeddings(own.embeddings, f"{field}.embeddings.embeddings")
            bank = types.LabelledEmbeddings(embeddings, tuple(own.labels), own.model_sha256.lower())
        case _:
            refuse(field, "names no bank", "give bank_name or embeddings")
    temperature = message.temperature if message.HasField("temperature") else TEMPERATURE
    if not 0 < temperature < float("inf"):
        refuse(f"{field}.temperature", f"{temperature} must be greater than 0, and finite")
    return types.BankQuery(
        bank,
        k=message.neighbours or NEIGHBOURS,
        wanted=message.wanted or None,
        temperature=temperature,
        **_comparison(message.comparison, field),
    )


def _references(message: sim.References, field: str) -> np.ndarray | dict[str, np.ndarray]:
    """Embeddings, or pictures by input name."""
    kind = message.WhichOneof("kind")
    if kind is None:
        refuse(field, "is not set", "give embeddings or pictures")
    if kind == "embeddings":
        return _embeddings(message.embeddings, f"{field}.embeddings")
    field, inputs = f"{field}.pictures.inputs", message.pictures.inputs
    if not inputs:
        refuse(field, "no tensor was given")
    return {name: array(value, f"{field}[{name!r}]") for name, value in inputs.items()}


def _embeddings(tensor: Any, field: str) -> np.ndarray:
    values = array(tensor, field)
    if values.dtype != np.float32:
        refuse(f"{field}.dtype", f"is {values.dtype.name}, embeddings are float32")
    if values.ndim < 2:
        refuse(f"{field}.shape", f"{list(values.shape)} is not [M, C] or [M, C, ...]")
    return values


def _comparison(message: sim.Comparison, field: str) -> dict[str, Any]:
    """The arguments that all similarity targets share."""
    field = f"{field}.comparison"
    metric = message.metric or "cosine"
    if metric not in nf.metrics.REGISTRY.names():
        known = ", ".join(nf.metrics.REGISTRY.names())
        refuse(f"{field}.metric", f"{metric[:64]!r} does not exist", f"there is {known}")
    return {
        "metric": metric,
        "coefficients": _choice(COEFFICIENTS, message.coefficients, f"{field}.coefficients"),
        "normalise": _choice(NORMALISATIONS, message.normalisation, f"{field}.normalisation"),
    }


def _choice(names: Mapping[Any, str], value: int, field: str) -> str:
    if value not in names:
        refuse(field, f"{value} is not a known value")
    return names[value]
