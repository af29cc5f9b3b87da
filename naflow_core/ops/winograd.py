"""Dense two-dimensional convolutions of stride 1 in fewer multiplications.

Winograd's minimal filtering (Winograd, "Arithmetic Complexity of Computations", 1980; for networks Lavin and
Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016): the input is cut into overlapping tiles
of 6x6, a linear transform of tiles and kernels turns the convolution into one matrix product for each of the
36 places of a tile, and another transform gives the outputs, 4x4 of a tile for a kernel of 3x3 and 2x2 for
one of 5x5. That takes a quarter of the multiplications for 3x3 and a good third for 5x5. What it costs is
digits: in float32 errors are several times those of the plain sum, and what would be 0 need not be.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

HIGHEST = lax.Precision.HIGHEST
TILE = 6
KERNELS = (3, 5)
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Besides infinity. With 2 and -2, as in Lavin and Gray, errors are larger (compare Barabasz et al., "Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020)."""


class Transforms(NamedTuple):
    """The matrices for one axis: outputs = result @ ((kernel @ weights) * (tile @ inputs)).

    Attributes:
        tile: [6, 6].
        kernel: [6, k].
        result: [7 - k, 6].
    """

    tile: np.ndarray
    kernel: np.ndarray
    result: np.ndarray


@functools.cache
def transforms(size: int) -> Transforms:
    """For kernels of so many cells.

    The product of two polynomials is found from its values at the points and its leading coefficient (Toom
    and Cook); a filter is that product transposed.
    """
    outputs = TILE + 1 - size
    tile, kernel, result = np.zeros((TILE, TILE)), np.zeros((TILE, size)), np.zeros((outputs, TILE))
    for row, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        tile[row, : TILE - 1] = np.poly(others)[::-1]
        kernel[row] = point ** np.arange(size) / np.prod(np.subtract(point, others))
        result[:, row] = point ** np.arange(outputs)
    tile[-1] = np.poly(_POINTS)[::-1]
    kernel[-1, -1] = result[-1, -1] = 1
    return Transforms(tile, kernel, result)


def transform_kernel(kernel: jax.Array) -> jax.Array:
    """[36, I, O] for weights [k, k, I, O]."""
    size, _, *channels = kernel.shape
    one = transforms(size).kernel
    both = jnp.asarray(np.kron(one, one), kernel.dtype)
    return jnp.matmul(both, kernel.reshape(size * size, -1), precision=HIGHEST).reshape(-1, *channels)


def convolve(
    x: jax.Array, transformed: jax.Array, size: int, low: Sequence[int], output: Sequence[int]
) -> jax.Array:
    """Convolution of stride 1, channels-last.

    Args:
        x: [N, H, W, I].
        transformed: by `transform_kernel`.
        size: of the kernel, one of `KERNELS`.
        low: cells of padding before either axis, below 0 to leave cells out.
        output: size of either axis of the result; what windows see beyond the input is 0.
    """
    matrices, step = transforms(size), TILE + 1 - size
    tiles = [-(-cells // step) for cells in output]
    edges = [(before, step * count + size - 1 - before - cells, 0)
             for count, cells, before in zip(tiles, x.shape[1:3], low, strict=True)]  # fmt: skip
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    rows = [_every(step, tiles[0], padded, 1, place) for place in range(TILE)]
    by_rows = _combined(matrices.tile, rows, 0)  # row, N, tiles, columns, I
    columns = [_every(step, tiles[1], by_rows, 3, place) for place in range(TILE)]
    places = _combined(matrices.tile, columns, 1)  # row, column, N, tiles, tiles, I
    seen = places.reshape(TILE * TILE, -1, x.shape[-1])
    made = lax.dot_general(seen, transformed, (((2,), (1,)), ((0,), (0,))), precision=HIGHEST)
    made = made.reshape(*places.shape[:5], -1)  # row, column, N, tiles, tiles, O
    made = _combined(matrices.result, list(made), 3)  # column, N, tiles, row, tiles, O
    made = _combined(matrices.result, list(made), 4)  # N, tiles, row, tiles, column, O
    made = made.reshape(x.shape[0], step * tiles[0], step * tiles[1], -1)
    return made[:, : output[0], : output[1]]


def _every(step: int, count: int, values: jax.Array, axis: int, first: int) -> jax.Array:
    """Every `step`-th slice, `count` of them."""
    return lax.slice_in_dim(values, first, first + step * (count - 1) + 1, step, axis)


def _combined(matrix: np.ndarray, parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """The sums of parts that the matrix's rows say, on a new axis. Most of its entries are 0 or 1."""

    def weighted(row: np.ndarray) -> Any:
        terms = [part if factor == 1 else part * np.asarray(factor, part.dtype)
                 for factor, part in zip(row, parts, strict=True) if factor]  # fmt: skip
        return functools.reduce(jnp.add, terms)

    return jnp.stack([weighted(row) for row in matrix], axis)
