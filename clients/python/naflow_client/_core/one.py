"""One explanation as a caller asks for it: from arguments to a request."""

from __future__ import annotations

from naflow_client._core import requests
from naflow_client._core.targets import Aim
from naflow_client._core.wire import Request
from naflow_client.inputs import Input, Inputs, Recipe, from_arrays, from_pictures, holds_pictures
from naflow_client.models import ModelReport
from naflow_client.options import ExplainOptions


class One:
    """The arguments of `explain`.

    Attributes:
        needs_report: whether the model has to be asked what it takes.

    Raises:
        RequestError: one of them is impossible.
    """

    def __init__(self, model: str, x: Input, preprocess: Recipe, options: ExplainOptions) -> None:
        requests.method(options)
        requests.layers(options.layers)
        self._model, self._x, self._preprocess, self._options = model, x, preprocess, options
        self._aim = Aim(options.target, preprocess)
        self.needs_report = holds_pictures(x) or self._aim.needs_report

    def request(self, report: ModelReport | None) -> tuple[Request, Inputs]:
        """What is sent, and what the maps are drawn over; `report` where it is needed.

        Raises:
            ClientError: the input or a reference cannot be read, or cannot be sent.
        """
        return build(self._model, self._x, self._preprocess, self._options, self._aim, report)


def build(
    model: str, x: Input, preprocess: Recipe, options: ExplainOptions, aim: Aim, report: ModelReport | None
) -> tuple[Request, Inputs]:
    """The request for one input of a call.

    Raises:
        ClientError: as `One.request`.
    """
    if holds_pictures(x):
        assert report is not None, "what the model takes is known where there are pictures"
        inputs = from_pictures(x, preprocess, report)
    else:
        inputs = from_arrays(x, options.explained_input)
    message = requests.explain_request(model, options)
    made = aim.made(report)
    if made is not None:
        message.target.CopyFrom(made[0])
        inputs = inputs.compared_with(made[1])
    return Request.of(message, inputs.arrays), inputs
