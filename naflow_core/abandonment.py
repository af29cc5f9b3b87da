"""The retained set R_k: which neurons take part in the decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = Any

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
    contribution = _contribution(activation, coefficients)
    return (contribution >= _least(contribution, mass)) & (contribution > 0)


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
    return _ramp(_contribution(activation, coefficients), mass)


def balanced_contribution_mass(activation: Array, coefficients: Array, mass: Array | float) -> Array:
    """`soft_contribution_mass` of the contributions that speak for the target, and apart from them of those
    that speak against it: `mass` of either side takes part, so that abandonment does not shift their balance.

    Args:
        activation, coefficients, mass: as there.

    Returns:
        float32 in [0, 1], shape of the input.
    """
    return _either_side(_ramp, activation, coefficients, mass)


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
    return _either_side(_proportion, activation, coefficients, mass)


SHARES = {
    "soft-mass": soft_contribution_mass,
    "balanced-mass": balanced_contribution_mass,
    "graded-mass": graded_contribution_mass,
}


def _either_side(
    shares: Callable[[Array, Array | float], Array],
    activation: Array,
    coefficients: Array,
    mass: Array | float,
) -> Array:
    """Shares of what speaks for the target, and apart from them of what speaks against it."""
    contribution = _signed_contribution(activation, coefficients)
    return shares(jnp.maximum(contribution, 0), mass) + shares(jnp.maximum(-contribution, 0), mass)


def _ramp(contribution: Array, mass: Array | float) -> Array:
    """Shares from contributions >= 0."""
    above = _over_least(contribution, mass)
    ramp = jnp.log(jnp.maximum(above, 1 / EDGE)) / jnp.log(EDGE)
    return jnp.where(above > 1 / EDGE, jnp.clip((ramp + 1) / 2, 0, 1), 0)


def _proportion(contribution: Array, mass: Array | float) -> Array:
    """Shares from contributions >= 0."""
    above = _over_least(contribution, mass)
    return jnp.where(above >= FAINTEST, jnp.minimum(above, 1), 0)


def _over_least(contribution: Array, mass: Array | float) -> Array:
    """Contributions >= 0 in units of the least one in the set."""
    least = _least(contribution, mass)
    return jnp.where(contribution > 0, contribution / jnp.where(least > 0, least, 1), 0)


def _contribution(activation: Array, coefficients: Array) -> Array:
    return jnp.abs(_signed_contribution(activation, coefficients))


def _signed_contribution(activation: Array, coefficients: Array) -> Array:
    return (_in_range(activation) * _in_range(coefficients)).astype(jnp.float32)


def _least(contribution: Array, mass: Array | float) -> Array:
    """The least contribution in the set, [N, 1, ...].

    Found by bisection over the bit patterns of non-negative floats (which are ordered as the floats are): 31
    sums, exact, and far cheaper than sorting a feature map.
    """
    flat = contribution.reshape(contribution.shape[0], -1)
    wanted = mass * jnp.sum(flat, axis=1, keepdims=True)
    bits = jax.lax.bitcast_convert_type(flat, jnp.int32)

    def halve(_i: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # the mass at or above `low` is enough, at or above `high` it is not
        middle = low + (high - low) // 2
        enough = jnp.sum(jnp.where(bits >= middle, flat, 0), axis=1, keepdims=True) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low = jnp.zeros_like(wanted, jnp.int32)
    high = jnp.max(bits, axis=1, keepdims=True) + 1
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    least = jax.lax.bitcast_convert_type(low, jnp.float32)
    return least.reshape(-1, *[1] * (contribution.ndim - 1))


def _in_range(values: Array) -> Array:
    """Each picture over a power of two near its largest value: no digit changes, and products stay finite."""
    largest = jnp.max(jnp.abs(values), axis=tuple(range(1, values.ndim)), keepdims=True)
    _, exponent = jnp.frexp(largest)
    return jnp.ldexp(values, -jnp.where(jnp.isfinite(largest) & (largest > 0), exponent, 0))
