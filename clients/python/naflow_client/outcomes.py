"""What goes into and comes out of an explanation of many inputs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from naflow_client.answers import Flow, Header, LayerFailure, Progress, Summary
from naflow_client.errors import ClientError, RequestError
from naflow_client.inputs import Input
from naflow_client.results import Result


@dataclass(frozen=True, slots=True, eq=False)
class Keyed:
    """An input under a name of the caller's; without one, its key is its position, from 0."""

    key: Hashable
    x: Input


Many = Iterable[Input | Keyed] | Mapping[Hashable, Input]
AsyncMany = Many | AsyncIterable[Input | Keyed]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """How one of many inputs ended: with a result or with an error, never both.

    Attributes:
        index: its position among the inputs, from 0.
        key: its name, or its position.
        result: all its flows.
        error: why there is none.
    """

    index: int
    key: Hashable
    result: Result | None
    error: ClientError | None

    def get(self) -> Result:
        """The result.

        Raises:
            ClientError: the input failed.
        """
        if self.result is None:
            assert self.error is not None, "an outcome is a result or an error"
            raise self.error
        return self.result


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Something that came for one of many inputs; the last is a Summary or an error.

    Attributes:
        index: position of the input, from 0.
        key: its name, or its position.
        item: as from the events of a single explanation, the header included.
    """

    index: int
    key: Hashable
    item: Header | Flow | LayerFailure | Progress | Summary | ClientError

    @property
    def last(self) -> bool:
        """Whether nothing more comes for this input."""
        return isinstance(self.item, Summary | ClientError)


def check_many(inputs: Any, kinds: Sequence[str] = ("__iter__",)) -> None:
    """Refuse what is one input, or its name. `kinds`: methods of which one makes an iterable.

    Raises:
        RequestError: it is no iterable of inputs.
    """
    single = isinstance(inputs, str | bytes | os.PathLike | np.ndarray | Image.Image)
    if single or not any(hasattr(inputs, kind) for kind in kinds):
        raise RequestError(
            f"explain_many takes several inputs, not one {type(inputs).__name__}",
            "give a list, a generator, or a mapping from names to inputs",
            field="inputs",
        )


def items(inputs: Any) -> Iterator[Any]:
    """The inputs one by one."""
    if isinstance(inputs, Mapping):
        return (Keyed(key, x) for key, x in inputs.items())
    return iter(inputs)
