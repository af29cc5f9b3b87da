"""Whole answers of an engine, ready-made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import naflow_core as nf
from naflow_server.engine import types
from support.grpc_server import diagnostics

SCORES = np.array([[0.25, 0.75]], np.float32)
FAILURE = types.LayerFailure(2, "t2", types.Code.INTERNAL, "not finite", "numerical")


def flow(index: int, side: int) -> types.LayerFlow:
    """A layer with a square map."""
    values = np.random.default_rng(index).random((1, side, side), np.float32)
    return types.LayerFlow(nf.Flow(index, f"t{index}", values, diagnostics(1)))


def answer(sides: Sequence[int]) -> list[types.Event]:
    """A whole answer, with a map of each side, in the order of the stream."""
    numbered = [*zip(reversed(range(len(sides))), sides, strict=True)]
    flows: list[types.Event] = [flow(index, side) for index, side in numbered]
    layers = [types.LayerInfo(index, f"t{index}", (1, side, side)) for index, side in numbered]
    prediction = nf.Prediction("y", SCORES, SCORES, "", np.array([1]), SCORES[:, 1])
    header = types.Header("tiny", "1", "0" * 64, prediction, tuple(reversed(layers)))
    return [header, *flows, types.Summary(len(sides), 0, types.Seconds(0.0, 0.0, 0.0, 0.0), 0, 1)]
