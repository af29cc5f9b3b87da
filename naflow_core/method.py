"""The options of the method, the presets that settle them together, and names for the tolerance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from naflow_core.errors import OptionError

Inverse = Literal["least-squares", "activation"]
Rows = Literal["retained", "active", "all"]
Anchor = Literal["origin", "activation", "signed", "relative"]
Weighting = Literal["scaled", "plain"]
Evidence = Literal["positive", "net"]
Rule = Literal["zero-gradient", "mass", "soft-mass", "balanced-mass", "graded-mass", "mass-each"]


@dataclass(frozen=True, slots=True)
class Abandonment:
    """Which neurons are retained: all with a non-zero coefficient, or the smallest set that carries a mass.

    Attributes:
        rule: "zero-gradient" (the paper's); "mass": the set is chosen wherever neurons are mixed (at the
            input of a convolution, pooling or composite), and one-to-one layers in between keep it;
            "soft-mass": the same with a soft edge, where neurons take part in proportion, so that weights
            that differ in their last digits give nearly the same maps; "balanced-mass": a soft set of the
            neurons that speak for the target and one of those that speak against it; "graded-mass": two such
            sets, outside of which neurons take part in proportion to what they contribute; "mass-each": the
            set is chosen anew at every tensor, so that each Relu, normalisation or transpose abandons some
            more and the maps depend on how the network was exported.
        mass: share in (0, 1] of the summed |activation x coefficient| that the retained set carries (each of
            the two sets of its own sum, where there are two).
    """

    rule: Rule
    mass: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise OptionError(
                f"abandonment rule {self.rule!r} does not exist",
                hint=f"one of {', '.join(get_args(Rule))}",
            )
        if not (math.isfinite(self.mass) and 0.0 < self.mass <= 1.0):
            raise OptionError(f"abandonment mass {self.mass} is out of range", hint="0 < mass <= 1")

    @classmethod
    def parse(cls, text: str) -> Abandonment:
        """From "zero-gradient", or another rule and its mass as in "graded-mass:0.9".

        Raises:
            OptionError: anything else.
        """
        rule, _, value = text.partition(":")
        if text == "zero-gradient":
            return cls("zero-gradient")
        try:
            if rule in get_args(Rule) and rule != "zero-gradient":
                return cls(rule, float(value))  # type: ignore[arg-type]  # it is one of them
        except ValueError:
            pass
        raise OptionError(
            f"--abandon {text!r} is not understood",
            hint="use zero-gradient, mass:RHO or graded-mass:RHO, e.g. graded-mass:0.9",
        )

    def __str__(self) -> str:
        return self.rule if self.rule == "zero-gradient" else f"{self.rule}:{self.mass!r}"


@dataclass(frozen=True, slots=True)
class Method:
    """Every choice that the method leaves open. The defaults are the preset "default".

    Attributes:
        inverse: "least-squares", or "activation" (the published code's behaviour).
        rows: which equations a least-squares step keeps.
        weighting: what an equation counts. "scaled": as much as one unit of its neuron becomes behind the
            constant scales that follow, as if a normalisation were folded into the layer before it; "plain":
            all the same.
        abandon: which neurons are retained.
        feasible: keep the preimage in the range of the op that produced it.
        anchor: least-squares solution of minimum norm ("origin") or nearest to the forward activation
            ("activation"; "signed": only for tensors without a lower bound), or smallest in units of that
            activation ("relative": every neuron takes part in proportion to what it was, with its sign).
        evidence: how the channels of a place make its flow. "positive": each channel's B x G counts where it
            is above zero; "net": they are added with their signs first, so that evidence against the target
            takes off from the evidence for it, and what is left above zero counts.
        damping: Tikhonov parameter of each solve, relative to the layer's own gain (scale-free).
        tolerance: relative residual of the normal equations at which a solve stops.
        max_iterations: cap for each solve.
        map_change: a solve also stops once its residual is at most ten times the tolerance and every cell of
            the layer's map, scaled to 0..1, moved by less than this in an iteration; 0: only by the residual.
    """

    inverse: Inverse = "least-squares"
    rows: Rows = "active"
    weighting: Weighting = "scaled"
    abandon: Abandonment = Abandonment("graded-mass", 0.9)
    feasible: bool = True
    anchor: Anchor = "activation"
    evidence: Evidence = "net"
    damping: float = 0.3
    tolerance: float = 1e-3
    max_iterations: int = 200
    map_change: float = 0.0

    def __post_init__(self) -> None:
        names = (
            ("inverse", Inverse), ("rows", Rows), ("weighting", Weighting), ("anchor", Anchor),
            ("evidence", Evidence),
        )  # fmt: skip
        for name, allowed in names:
            value = getattr(self, name)
            if value not in get_args(allowed):
                raise OptionError(
                    f"{name} {value!r} does not exist", hint=f"one of {', '.join(get_args(allowed))}"
                )
        if not isinstance(self.feasible, bool):
            raise OptionError(f"feasible {self.feasible!r} must be true or false")
        if not (_finite(self.damping) and self.damping >= 0):
            raise OptionError(f"damping {self.damping} must be a number >= 0")
        if not (_finite(self.tolerance) and 0 < self.tolerance < 1):
            raise OptionError(f"tolerance {self.tolerance} must lie between 0 and 1", hint="default 1e-3")
        if not (_finite(self.max_iterations) and 1 <= self.max_iterations <= 100_000):
            raise OptionError(f"max_iterations {self.max_iterations} must lie between 1 and 100000")

        if not (_finite(self.map_change) and 0 <= self.map_change < 1):
            raise OptionError(f"map_change {self.map_change} must be at least 0 and less than 1")

    @classmethod
    def preset(cls, name: str, *, quality: str | None = None, **changes: Any) -> Method:
        """A named set of options, with single options changed on request (None leaves one as it is).

        Args:
            name: one of `PRESETS`.
            quality: one of `QUALITIES`: a name for the tolerance; None leaves it to the preset.
            changes: fields of `Method`.

        Raises:
            OptionError: no such preset or quality, an impossible value, or a quality beside a tolerance.
        """
        if name not in PRESETS:
            raise OptionError(f"preset {name!r} does not exist", hint=f"one of {', '.join(PRESETS)}")
        given = {key: value for key, value in changes.items() if value is not None}
        if quality is None:
            return dataclasses.replace(PRESETS[name], **given)
        if quality not in QUALITIES:
            raise OptionError(f"quality {quality!r} does not exist", hint=f"one of {', '.join(QUALITIES)}")
        if "tolerance" in given:
            raise OptionError(
                "quality and tolerance exclude each other: a quality is a name for a tolerance",
                hint="leave one out",
            )
        return dataclasses.replace(PRESETS[name], **{**QUALITIES[quality], **given})

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Method:
        """Inverse of `to_dict`. What was written before there was a weighting was computed with "scaled", and
        before there was a choice of evidence with "positive"; nothing watched the map.

        Raises:
            OptionError: an unknown or missing option.
        """
        options = {"weighting": "scaled", "evidence": "positive", "map_change": 0.0, **options}
        known = {f.name for f in dataclasses.fields(cls)}
        if set(options) != known:
            wrong = ", ".join(sorted(set(options) ^ known))
            raise OptionError(
                f"method options do not match: {wrong}", hint=f"expected {', '.join(sorted(known))}"
            )
        return cls(**{**options, "abandon": Abandonment.parse(options["abandon"])})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for manifests."""
        return {
            f.name: str(value) if f.name == "abandon" else value
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) is not None
        }


def _finite(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return math.isfinite(value)  # type: ignore[arg-type]  # what is no number is answered too
    except (TypeError, OverflowError):
        return False


PRESETS: dict[str, Method] = {
    "default": Method(),
    "net": Method(inverse="activation"),
    "positive": Method(abandon=Abandonment("soft-mass", 0.9), anchor="origin", evidence="positive"),
    "paper": Method(
        rows="retained",
        weighting="plain",
        abandon=Abandonment("zero-gradient"),
        feasible=False,
        anchor="origin",
        evidence="positive",
        damping=0.0,
    ),
    "published-code": Method(
        inverse="activation",
        rows="retained",
        weighting="plain",
        abandon=Abandonment("zero-gradient"),
        feasible=False,
        anchor="origin",
        evidence="positive",
        damping=0.0,
    ),
}

# "standard" is what every preset has
QUALITIES: dict[str, dict[str, Any]] = {
    "draft": {"tolerance": 1e-2},
    "standard": {"tolerance": 1e-3},
    "exact": {"tolerance": 1e-6, "max_iterations": 2000},
}
