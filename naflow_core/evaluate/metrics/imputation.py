"""Removed pixels interpolated from what is left, for ROAD."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = Any

SWEEPS = 12
COARSEST = 4


def imputed(planes: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Fill removed pixels so that each is the weighted mean of its eight neighbours.

    Direct neighbours weigh 1/6 and diagonal ones 1/12 (Rong et al., 2022); at the border, those that exist
    share the weight. The linear system is solved from coarse to fine, with a dozen sweeps at each size: what
    is left of the error is far below the noise that ROAD adds. A picture without any pixel left is filled
    with the mean of what it was.

    Args:
        planes: [C, H, W], the picture.
        gone: bool [N, H, W], the removed pixels.

    Returns float32 [N, C, H, W]; pixels that are not removed are as they were.
    """
    found = _imputed(jnp.asarray(planes, jnp.float32), jnp.asarray(gone))
    return np.asarray(found)


@jax.jit
def _imputed(planes: Array, gone: Array) -> Array:
    known = (~gone)[:, None].astype(planes.dtype)
    means = planes.mean(axis=(1, 2))[None, :, None, None]
    blank = jnp.where(known.any(axis=(2, 3), keepdims=True), 0.0, means)
    return _filled(planes[None] * known + blank * (1 - known), known)


def _filled(values: Array, known: Array) -> Array:
    """`values` holds 0 (or a constant) where `known` is 0."""
    start = values
    if min(values.shape[-2:]) > COARSEST:
        weight = _halved(known)
        seen = weight > 0
        coarse = jnp.where(seen, _halved(values * known) / jnp.where(seen, weight, 1), _halved(values))
        rough = _filled(coarse, seen.astype(values.dtype))
        start = jnp.where(known > 0, values, _doubled(rough, *values.shape[-2:]))
    count = _neighbours(jnp.ones((1, 1, *values.shape[-2:]), values.dtype))
    share = 1 / jnp.maximum(count, 1)

    def sweep(_: int, x: Array) -> Array:
        return jnp.where(known > 0, values, _neighbours(x) * share)

    return lax.fori_loop(0, SWEEPS, sweep, start)


def _neighbours(x: Array) -> Array:
    """Sum over the neighbours, direct ones twice; nothing beyond the border."""
    wide = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows = wide[..., :-2, :] + 2 * wide[..., 1:-1, :] + wide[..., 2:, :]
    return rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:] - 4 * x


def _halved(x: Array) -> Array:
    """Means of 2 x 2 cells; an odd last row or column is repeated."""
    height, width = x.shape[-2:]
    padded = jnp.pad(x, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return padded.reshape(*x.shape[:2], (height + 1) // 2, 2, (width + 1) // 2, 2).mean(axis=(3, 5))


def _doubled(x: Array, height: int, width: int) -> Array:
    return x.repeat(2, axis=-2).repeat(2, axis=-1)[..., :height, :width]
