"""Every exception the core raises on purpose.

Each carries what happened (`message`), where (`where`: the file, node, tensor or field) and
what to do about it (`hint`). `str(error)` is one line that a user can act on. There are no
HTTP or gRPC codes here; transports map `code` to their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NaflowError(Exception):
    """Base of all public exceptions.

    Attributes:
        code: stable machine-readable name, e.g. "model_invalid".
        message: what is wrong, naming the file, node, tensor or field.
        hint: what to do about it; may be empty.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ModelError(NaflowError):
    """The model file cannot be used: unreadable, malformed, over a limit."""

    code = "model_invalid"


@dataclass(frozen=True, slots=True)
class UnsupportedNode:
    """One node that cannot be computed or explained, and why."""

    node: str
    op_type: str
    reason: str


class UnsupportedOperatorError(ModelError):
    """The model is valid ONNX but uses something that is not implemented.

    Attributes:
        nodes: every offending node with its reason.
    """

    code = "operator_unsupported"

    def __init__(self, nodes: Sequence[UnsupportedNode], *, hint: str = "") -> None:
        self.nodes = tuple(nodes)
        first = self.nodes[0]
        more = f" (and {len(self.nodes) - 1} more)" if len(self.nodes) > 1 else ""
        super().__init__(
            f"node {first.node!r} ({first.op_type}) is not supported: {first.reason}{more}",
            hint=hint or "run `naflow inspect` for the full list; `nf.ops.register` adds an operator",
        )


class AnalysisError(NaflowError):
    """The graph holds nothing that can be explained, or a named tensor does not exist."""

    code = "not_explainable"


class InputError(NaflowError):
    """An input tensor or picture does not fit the model."""

    code = "input_invalid"


class TargetError(NaflowError):
    """The asked-for class, name or output does not exist."""

    code = "target_invalid"


class OptionError(NaflowError):
    """A method option has an impossible value."""

    code = "option_invalid"


class NumericalError(NaflowError):
    """A computation gave nan or inf; no map is returned."""

    code = "numerical"


class Refusal(NaflowError):
    """Raised inside an operator that cannot handle a node, with the reason as message.

    The program builder turns it into an `UnsupportedNode` that names the node.
    """

    code = "refused"


def not_registered(domain: str, op_type: str, opset: int, reason: str | None = None) -> str:
    """What a user is told of an operator that is not there: why, and the line that would add it."""
    where = f'domain="{domain}", ' if domain else ""
    line = f'@nf.ops.register("{op_type}", {where}since={opset})'
    unknown = f"no operator {domain or 'ai.onnx'}:{op_type} is registered"
    return f"{reason or unknown}; {line} would add it"
