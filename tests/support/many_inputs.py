"""Numbered inputs, and a scripted server's answers that tell them apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from naflow_client import Outcome
from support.explanation_server import Event, answer, maps, tagged


def inputs(count: int) -> list[np.ndarray]:
    return [np.full((1, 1, 3, 4), i, np.float32) for i in range(count)]


def value(request: Any) -> int:
    """Which of the inputs a request holds."""
    return int(np.frombuffer(request.inputs[""].data, "<f4")[0])


def sent(i: int) -> list[np.ndarray]:
    """The maps that answer input i."""
    return [m + np.float32(i) for m in maps(2)]


def whole(request: Any) -> list[Event]:
    return tagged(answer(sent(value(request))), request.request_id)


def serve_all(requests: Iterator[Any], context: Any) -> Iterator[Event]:
    for request in requests:
        yield from whole(request)


def check(outcome: Outcome) -> None:
    """The result is that of the input with the same number."""
    result = outcome.get()
    for flow, wanted in zip(result.flows, sent(outcome.index), strict=True):
        np.testing.assert_array_equal(flow.map, wanted)
    assert int(result.inputs.arrays[""].flat[0]) == outcome.index
