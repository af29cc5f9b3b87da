"""Protobuf enumerations and what they are called in the core; how a request is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from naflow.v1 import method_pb2 as me
from naflow.v1 import similarity_pb2 as sim
from naflow.v1 import tensor_pb2 as te
from naflow_server.engine.types import Code, EngineError

DTYPES: dict[te.DataType, np.dtype[Any]] = {
    te.DATA_TYPE_FLOAT: np.dtype("<f4"),
    te.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    te.DATA_TYPE_DOUBLE: np.dtype("<f8"),
    te.DATA_TYPE_INT8: np.dtype("i1"),
    te.DATA_TYPE_INT16: np.dtype("<i2"),
    te.DATA_TYPE_INT32: np.dtype("<i4"),
    te.DATA_TYPE_INT64: np.dtype("<i8"),
    te.DATA_TYPE_UINT8: np.dtype("u1"),
    te.DATA_TYPE_UINT16: np.dtype("<u2"),
    te.DATA_TYPE_UINT32: np.dtype("<u4"),
    te.DATA_TYPE_UINT64: np.dtype("<u8"),
    te.DATA_TYPE_BOOL: np.dtype("?"),
}
DTYPE_CODES = {dtype.char: value for value, dtype in DTYPES.items()}  # NumPy's names take microseconds
DTYPE_NAMES = {dtype.newbyteorder("=").name: value for value, dtype in DTYPES.items()}

LAYER_SETS = {
    me.LAYER_SET_UNSPECIFIED: "blocks",
    me.LAYER_SET_BLOCKS: "blocks",
    me.LAYER_SET_SPINE: "spine",
    me.LAYER_SET_NODES: "nodes",
}
INVERSES = {me.INVERSE_LEAST_SQUARES: "least-squares", me.INVERSE_ACTIVATION: "activation"}
ROWS = {me.ROWS_RETAINED: "retained", me.ROWS_ACTIVE: "active", me.ROWS_ALL: "all"}
ANCHORS = {
    me.ANCHOR_ORIGIN: "origin",
    me.ANCHOR_ACTIVATION: "activation",
    me.ANCHOR_SIGNED: "signed",
    me.ANCHOR_RELATIVE: "relative",
}
WEIGHTINGS = {me.WEIGHTING_SCALED: "scaled", me.WEIGHTING_PLAIN: "plain"}
EVIDENCE = {me.EVIDENCE_POSITIVE: "positive", me.EVIDENCE_NET: "net"}
ABANDONMENTS = {
    me.ABANDONMENT_RULE_ZERO_GRADIENT: "zero-gradient",
    me.ABANDONMENT_RULE_MASS: "mass",
    me.ABANDONMENT_RULE_MASS_EACH: "mass-each",
    me.ABANDONMENT_RULE_SOFT_MASS: "soft-mass",
    me.ABANDONMENT_RULE_BALANCED_MASS: "balanced-mass",
    me.ABANDONMENT_RULE_GRADED_MASS: "graded-mass",
}
COEFFICIENTS = {
    sim.COEFFICIENTS_UNSPECIFIED: "gradient",
    sim.COEFFICIENTS_GRADIENT: "gradient",
    sim.COEFFICIENTS_CONTRIBUTION: "contribution",
}
NORMALISATIONS = {
    sim.NORMALISATION_UNSPECIFIED: "minmax",
    sim.NORMALISATION_MINMAX: "minmax",
    sim.NORMALISATION_NONE: "none",
}


def key(names: Mapping[Any, str], wanted: str) -> Any:
    """The value of an enumeration that has this name; of two with the same, the one that says it."""
    return max(value for value, name in names.items() if name == wanted)


def refuse(field: str, message: str, hint: str = "") -> NoReturn:
    """Raise EngineError INVALID_ARGUMENT that blames `field`, a path in the request message."""
    raise EngineError(
        Code.INVALID_ARGUMENT, f"{field}: {message}", hint=hint, field=field, reason="field_invalid"
    )
