"""Orders of generation as rank arrays: `ranks[position]` is the step at which a position is generated.

A rank array has the shape of the event and holds each of `0..n-1` once; `inverse` turns it into the list of
positions in the order of generation. Every function but `random` returns numpy, so masks built from it are
compile-time constants.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


def raster(shape: tuple[int, ...]) -> np.ndarray:
    """Row by row, left to right; the order of a sequence or of a flattened array. Ranks of shape `shape`."""
    return np.arange(math.prod(shape)).reshape(shape)


def column(shape: tuple[int, int]) -> np.ndarray:
    """Column by column, top to bottom. Ranks of shape `(height, width)`."""
    return raster(shape[::-1]).T


def serpentine(shape: tuple[int, int]) -> np.ndarray:
    """Row by row, alternately left to right and right to left. Ranks of shape `(height, width)`."""
    ranks = raster(shape)
    ranks[1::2] = ranks[1::2, ::-1]
    return ranks


def zigzag(shape: tuple[int, int]) -> np.ndarray:
    """Diagonal by diagonal from the top left corner, each from its top right end. Ranks `(height, width)`."""
    rows, columns = np.indices(shape)
    return _ranks_of(rows + columns, rows)


def centre_out(shape: tuple[int, int]) -> np.ndarray:
    """From the centre outwards, by distance, those at the same one in raster order. Ranks `(height, width)`."""
    rows, columns = (2 * index - size + 1 for index, size in zip(np.indices(shape), shape, strict=True))
    return _ranks_of(rows**2 + columns**2)


def subscale(shape: tuple[int, int], factor: int) -> np.ndarray:
    """Interleaved slices of every `factor`-th row and column, slice after slice (Menick and Kalchbrenner, 2018).

    Ranks of shape `(height, width)`; within a slice the order is raster. Raises `ValueError` if `factor` does
    not divide both sides.
    """
    if factor < 1 or any(side % factor for side in shape):
        raise ValueError(f"subscale: factor {factor} does not divide an image of {shape[0]}x{shape[1]}")
    rows, columns = np.indices(shape)
    return _ranks_of(rows % factor, columns % factor, rows, columns)


def random(key: Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """A uniformly random order, as a traceable function of a PRNG key. Ranks of shape `shape`."""
    return jax.random.permutation(key, jnp.arange(math.prod(shape), dtype=jnp.int32)).reshape(shape)


def colours(ranks, channels: int):
    """Pixel by pixel in the order of `ranks`, channel by channel within. Ranks of shape `(*shape, channels)`."""
    return ranks[..., None] * channels + np.arange(channels, dtype=ranks.dtype).reshape((1,) * ranks.ndim + (-1,))


def known_first(known: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The positions where the boolean `known` holds, then all others, both in the order of `ranks`.

    A completion in this order sees all its evidence. Ranks of the shape of `ranks`.
    """
    return _ranks_of(~np.asarray(known), np.asarray(ranks))


def neighbours(ranks: np.ndarray, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """The steps at which the pixels at `offsets` (rows, columns) from each one are generated, if not after it.

    By the step at which the pixel itself is generated: `[t, k] <= t`, or n where that pixel comes later or lies
    outside of the image. `ranks` are `(height, width)`. Shape `(n, len(offsets))`.
    """
    n = ranks.size
    rows, columns = (index.ravel()[inverse(ranks)] for index in np.indices(ranks.shape))
    table = np.full((n, len(offsets)), n)
    for k, (down, right) in enumerate(offsets):
        r, c = rows + down, columns + right
        inside = (r >= 0) & (r < ranks.shape[0]) & (c >= 0) & (c < ranks.shape[1])
        table[inside, k] = ranks[r[inside], c[inside]]
    return np.where(table <= np.arange(n)[:, None], table, n)


def inverse(ranks):
    """Flat positions in the order of generation: `inverse(ranks)[t]` is generated at step `t`. Shape `(n,)`."""
    return ranks.ravel().argsort()


def check(ranks, event: tuple[int, ...]) -> np.ndarray:
    """`ranks` as a numpy array of shape `event`; `ValueError` unless it holds each of `0..n-1` once."""
    size = math.prod(event)
    array = np.asarray(ranks)
    if array.size != size or not np.array_equal(np.sort(array.ravel()), np.arange(size)):
        raise ValueError(f"an ordering of {event} holds each of 0..{size - 1} once, got {array.tolist()}")
    return array.reshape(event)


def _ranks_of(*keys: np.ndarray) -> np.ndarray:
    """Ranks of positions sorted by the first key, ties by the second, and so on."""
    order = np.lexsort([key.ravel() for key in reversed(keys)])
    ranks = np.empty(order.size, dtype=int)
    ranks[order] = np.arange(order.size)
    return ranks.reshape(keys[0].shape)
