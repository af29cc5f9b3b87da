"""The table of inverse rules.

A rule inverts one node: `rule(y, site)` takes the back-propagated feature map at the node's output and
returns it at the input that lies on the spine. Everything else the rule may need (forward values, attributes,
the other inputs) is in `site`. A node without a fitting rule is inverted by least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from naflow_core.inverse.guard import bounded, divide
from naflow_core.model.program import Instruction, Known, thawed

Array = Any
RuleClass = Literal["exact", "least_squares", "mask", "passthrough"]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a rule is applied: one node, seen from the one input that is solved for.

    Attributes:
        instruction: operator and attributes.
        inputs: all inputs of the node at their forward value (None where absent). While planning only their
            shapes are known (`jax.ShapeDtypeStruct`); when the rule runs they are arrays.
        position: which input is solved for.
        y0: the node's forward output.
        retained: boolean, shape of `y0`: the neurons of the output that are retained (when the rule runs).
        whole: for a rule of several nodes, all of them as a function of the input.
    """

    instruction: Instruction
    inputs: tuple[Any, ...]
    position: int
    y0: Any
    retained: Any = None
    whole: Callable[[Array], Array] | None = None

    @property
    def x0(self) -> Any:
        """Forward value of the input that is solved for."""
        return self.inputs[self.position]

    @property
    def attributes(self) -> dict[str, Any]:
        """The node's ONNX attributes as given (defaults not filled in)."""
        return thawed(self.instruction.attributes)

    def forward(self, x: Array) -> Array:
        """The node (or nodes) as a function of the one input, the others held at their forward value."""
        if self.whole is not None:
            return self.whole(x)
        inputs = [x if i == self.position else value for i, value in enumerate(self.inputs)]
        return self.instruction(inputs)[0]

    def transpose(self, y: Array) -> Array:
        """Transposed Jacobian at the forward value, applied to `y`."""
        _, pull = jax.vjp(self.forward, self.x0)
        return pull(y)[0]

    def slope(self) -> Array:
        """Derivative of a pointwise node, element by element."""
        return jax.jvp(self.forward, (self.x0,), (jnp.ones_like(self.x0),))[1]


Applies = Callable[[Site], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """A named inverse. `function` is None for least squares, which the cascade runs itself.

    `mixes` tells that an output neuron depends on several input neurons: such a node begins a new block.
    `coupled` tells that neurons only share statistics (a mean, a norm): no new block, but a gradient through
    it is nowhere zero. `held` are the operators that the rule, where it is one of several nodes, keeps at
    their forward value.
    """

    name: str
    kind: RuleClass
    function: Callable[[Array, Site], Array] | None
    applies: Applies
    mixes: bool = False
    coupled: bool = False
    held: frozenset[str] = frozenset()

    @property
    def unconditional(self) -> bool:
        """Whether it is right for every node of its operators."""
        return self.applies is always

    @property
    def one_to_one(self) -> bool:
        """Whether each retained output neuron belongs to one input neuron: retained sets carry over."""
        return not (self.mixes or self.coupled)

    def invert(self, y: Array, site: Site) -> Array:
        """The preimage of `y` by this rule, kept where float32 can go on computing with it."""
        assert self.function is not None
        return bounded(self.function(bounded(y), site))


def always(_site: Site) -> bool:
    """For every node."""
    return True


LEAST_SQUARES = Rule("least-squares", "least_squares", None, always, mixes=True)


class RuleRegistry:
    """Inverse rules by (domain, op_type); the most recently registered fitting rule wins."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], list[Rule]] = {}

    def register(
        self,
        *op_types: str,
        kind: RuleClass = "exact",
        domain: str = "",
        name: str | None = None,
        applies: Applies = always,
        mixes: bool = False,
        coupled: bool = False,
    ) -> Callable[[Callable[[Array, Site], Array]], Callable[[Array, Site], Array]]:
        """Decorator: add an inverse rule for one or more operators.

        Args:
            kind: "exact", "mask" (identity; abandonment does the work) or "passthrough".
            name: shown in reports and manifests; default: the function's name with hyphens.
            applies: tells, from attributes and shapes, whether the rule is right for a node.
            mixes: an output neuron depends on several input neurons, as in pooling.
            coupled: output neurons depend on each other's inputs through statistics only, as in
                LayerNormalization.

        Raises:
            ValueError: the operator already has a rule of that name.
        """

        def add(function: Callable[[Array, Site], Array]) -> Callable[[Array, Site], Array]:
            shown = name or function.__name__.replace("_", "-")
            rule = Rule(shown, kind, function, applies, mixes, coupled)
            for op_type in op_types:
                rules = self._rules.setdefault((domain, op_type), [])
                if any(known.name == rule.name for known in rules):
                    raise ValueError(
                        f"{domain or 'ai.onnx'}:{op_type} already has an inverse rule {rule.name!r}"
                    )
                rules.insert(0, rule)
            return function

        return add

    def unregister(self, op_type: str, name: str, *, domain: str = "") -> None:
        """Take one rule out again."""
        rules = self._rules[(domain, op_type)]
        rules[:] = [rule for rule in rules if rule.name != name]

    def find(self, site: Site) -> Rule:
        """The rule for one node; least squares where none fits."""
        operator = site.instruction.operator
        for rule in self._rules.get((operator.domain, operator.op_type), ()):
            if rule.applies(site):
                return rule
        return LEAST_SQUARES

    def rules(self, op_type: str, *, domain: str = "") -> tuple[Rule, ...]:
        """What is registered for an operator, asked in this order."""
        return tuple(self._rules.get((domain, op_type), ()))

    def names(self) -> Iterable[tuple[str, str, tuple[str, ...]]]:
        """(domain, op_type, rule names) of everything registered, sorted."""
        for (domain, op_type), rules in sorted(self._rules.items()):
            yield domain, op_type, tuple(rule.name for rule in rules)


REGISTRY = RuleRegistry()
register = REGISTRY.register


def frozen_gate(y: Array, site: Site) -> Array:
    """Invert `y = x * gate(x)` with the gate held at its forward value y0 / x0."""
    return y * divide(site.x0, site.y0)


FROZEN_GATE = Rule("frozen-gate", "exact", frozen_gate, always)
register("HardSigmoid", "HardSwish", "Swish", "Mish", "Gelu")(frozen_gate)
register("Gelu", "FastGelu", "QuickGelu", domain="com.microsoft")(frozen_gate)
register("LRN", coupled=True)(frozen_gate)


def known_input(site: Site, position: int) -> np.ndarray | None:
    """A static input of the node (known at planning time), or None."""
    sources = site.instruction.sources
    source = sources[position] if position < len(sources) else None
    return source.value if isinstance(source, Known) else None
