"""The retained set R_k: which neurons take part in the decision."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from naflow_core.units import power_of_two_above

Array = Any

DIGITS, WIDTH = 3, 11
"""The digits that a float32's 31 bits without its sign are taken apart into, and the bits of each."""
VALUES = 1 << WIDTH
EDGE = 2.0
"""How far, as a factor to either side, the edge of the soft set reaches."""
FAINTEST = 1 / 64
"""The least share of a neuron that is not abandoned, where shares are graded."""


def zero_gradient(coefficients: Array) -> Array:
    """Neurons whose importance coefficient is not zero (the paper's rule). Boolean, shape of the input."""
    return coefficients != 0


def contribution_mass(activation: Array, coefficients: Array, mass: Array | float) -> Array:
    """The smallest set, per picture, whose |t * G| sums to `mass` of the total.

    Neurons with equal contributions are kept or abandoned together, so the result does not depend on their
    order.

    Args:
        activation, coefficients: [N, ...].
        mass: in (0, 1].

    Returns:
        boolean, shape of the input; where every contribution is zero nothing is retained.
    """
    contribution = jnp.abs(_signed_contribution(activation, coefficients))
    return (contribution >= _least(contribution, mass, 1)) & (contribution > 0)


def soft_contribution_mass(activation: Array, coefficients: Array, mass: Array | float) -> Array:
    """How far each neuron takes part: 1 in the set of `contribution_mass` and 0 outside of it, but for a ramp
    over the contributions within a factor `EDGE` of its least one, in proportion to their logarithm.

    A network whose weights differ in the last digits has nearly the same shares, while sets differ in the
    neurons at their edge.

    Args:
        activation, coefficients, mass: as there.

    Returns:
        float32 in [0, 1], shape of the input.
    """
    return _ramp(_over_least(activation, coefficients, mass, 1))


def balanced_contribution_mass(activation: Array, coefficients: Array, mass: Array | float) -> Array:
    """`soft_contribution_mass` of the contributions that speak for the target, and apart from them of those
    that speak against it: `mass` of either side takes part, so that abandonment does not shift their balance.

    Args:
        activation, coefficients, mass: as there.

    Returns:
        float32 in [0, 1], shape of the input.
    """
    return _ramp(_over_least(activation, coefficients, mass, 2))


def graded_contribution_mass(activation: Array, coefficients: Array, mass: Array | float) -> Array:
    """How far each neuron takes part: 1 in the set of `contribution_mass`, which is chosen for either side as
    in `balanced_contribution_mass`, and outside of it in proportion to its contribution, down to `FAINTEST`
    of what the least in the set contributes; what contributes less is abandoned.

    Weak neurons fade rather than vanish: the order of places among them is kept, and what is kept depends
    less on which neurons happen to be strong.

    Args:
        activation, coefficients, mass: as there.

    Returns:
        float32 in [0, 1], shape of the input.
    """
    above = _over_least(activation, coefficients, mass, 2)
    return jnp.where(above >= FAINTEST, jnp.minimum(above, 1), 0)


SHARES = {
    "soft-mass": soft_contribution_mass,
    "balanced-mass": balanced_contribution_mass,
    "graded-mass": graded_contribution_mass,
}


def _ramp(above: Array) -> Array:
    """Shares of the soft set from contributions in units of the least one in it."""
    ramp = jnp.log(jnp.maximum(above, 1 / EDGE)) / jnp.log(EDGE)
    return jnp.where(above > 1 / EDGE, jnp.clip((ramp + 1) / 2, 0, 1), 0)


def _over_least(activation: Array, coefficients: Array, mass: Array | float, sides: int) -> Array:
    """The size of each contribution in units of the least one in the set.

    Args:
        sides: 2 where there is a set of the contributions above 0 and another of those below.
    """
    contribution = _signed_contribution(activation, coefficients)
    least = _least(contribution, mass, sides)
    return jnp.abs(contribution) / jnp.where(least > 0, least, 1)


def _signed_contribution(activation: Array, coefficients: Array) -> Array:
    return (_in_range(activation) * _in_range(coefficients)).astype(jnp.float32)


def _least(contribution: Array, mass: Array | float, sides: int) -> Array:
    """The size of the least contribution in the set, that of each neuron's own side where there are two.

    Shape [N, 1, ...], or that of `contribution`; 0 where every contribution is.
    """
    flat = contribution.reshape(contribution.shape[0], -1)
    size, side = jnp.abs(flat), jnp.where(flat < 0, sides - 1, 0)
    search = by_digits if jax.default_backend() == "cpu" else by_halving
    least = search(sides, size, side, jnp.asarray(mass))
    if sides == 1:
        return least.reshape(-1, *[1] * (contribution.ndim - 1))
    either = least.reshape(-1, 2, *[1] * (contribution.ndim - 1))
    return jnp.where(contribution < 0, either[:, 1], either[:, 0])


# Both searches look for the largest bit pattern that leaves enough mass at or above it: those of non-negative
# floats are ordered as the floats are. Both are exact but for the rounding of sums, and far cheaper than
# sorting a feature map.


def by_digits(sides: int, size: Array, side: Array, mass: Array) -> Array:
    """Digit by digit, from the mass of each digit's neurons: three passes, each of a scatter that adds one
    neuron after another. On a CPU that takes a fraction of the time of `by_halving`.

    Args:
        size, side: [N, neurons]: contributions >= 0, and the number of the set that each belongs to.

    Returns:
        [N, sides], the least contribution of each set; 0 where all are.
    """
    bits, picture = jax.lax.bitcast_convert_type(size, jnp.int32), jnp.arange(len(size))[:, None]

    def choose(turn: Array, before: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        found, wanted, _ = before  # leading digits; of the mass, what is still to be found
        parts = bits >> ((DIGITS - 1 - turn) * WIDTH)
        leading = found if sides == 1 else jnp.where(side > 0, found[:, 1:], found[:, :1])
        candidates = jnp.where(parts >> WIDTH == leading, size, 0)
        place = ((picture * sides + side) << WIDTH) + (parts & (VALUES - 1))
        masses = jnp.zeros(len(size) * sides * VALUES, size.dtype)
        # one number for each place: XLA is slow with more
        masses = masses.at[place.reshape(-1)].add(candidates.reshape(-1), mode="promise_in_bounds")
        masses = masses.reshape(len(size), sides, VALUES)
        at_least = jnp.cumsum(masses[..., ::-1], axis=2)[..., ::-1]
        all_of_it = at_least[..., :1]
        # what rounding adds is not there
        wanted = jnp.where(turn == 0, mass * all_of_it, jnp.minimum(wanted, all_of_it))
        chosen = jnp.sum(at_least >= wanted, axis=2, dtype=jnp.int32) - 1
        chosen = jnp.maximum(chosen, 0)  # nan has no place
        beyond = jnp.pad(at_least[..., 1:], ((0, 0), (0, 0), (0, 1)))
        wanted = wanted - jnp.take_along_axis(beyond, chosen[..., None], axis=2)
        return (found << WIDTH) + chosen, wanted, all_of_it[..., 0]

    nothing = jnp.zeros((len(size), sides), size.dtype)
    # a loop, as the compiler takes as long for each turn as for all the rest of a layer
    start = jnp.zeros(nothing.shape, jnp.int32), nothing[..., None], nothing
    found, _, total = jax.lax.fori_loop(0, DIGITS, choose, start)
    return _as_floats(found, total)


def by_halving(sides: int, size: Array, side: Array, mass: Array) -> Array:
    """By bisection: 31 sums, which parallel machines are good at. Arguments and result as for `by_digits`."""
    own = size[:, None]
    if sides > 1:
        own = jnp.where(side[:, None] == jnp.arange(sides)[:, None], own, 0)  # [N, sides, neurons]
    bits, total = jax.lax.bitcast_convert_type(own, jnp.int32), jnp.sum(own, axis=2)
    wanted = mass * total

    def halve(_i: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # the mass at or above `low` is enough, at or above `high` it is not
        middle = low + (high - low) // 2
        enough = jnp.sum(jnp.where(bits >= middle[..., None], own, 0), axis=2) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, high = jnp.zeros(wanted.shape, jnp.int32), jnp.max(bits, axis=2) + 1
    return _as_floats(jax.lax.fori_loop(0, 31, halve, (low, high))[0], total)


def _as_floats(bits: Array, total: Array) -> Array:
    return jnp.where(total > 0, jax.lax.bitcast_convert_type(bits, jnp.float32), 0)


def _in_range(values: Array) -> Array:
    """Each picture over a power of two near its largest value: no digit changes, and products stay finite."""
    largest = jnp.max(jnp.abs(values), axis=tuple(range(1, values.ndim)), keepdims=True)
    known = jnp.isfinite(largest) & (largest > 0)
    return values * jnp.where(known, 1 / power_of_two_above(largest), 1).astype(values.dtype)
