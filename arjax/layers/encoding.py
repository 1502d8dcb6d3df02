"""Data to network inputs. `ABSENT` (-1), what stands before the first position, becomes zeros.

What is neither a level nor absent becomes NaN: nothing that depends on it looks like a result. Real numbers, for
which `levels` is None, enter as they are, and NaN stands before the first.

All codes are defined (and differentiable) between the integers too, so that `jax.jacobian` of a network with
respect to its data shows who sees whom; at an integer they are exact.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from arjax.layers.shift import ABSENT


def check_images(x: Array, channels: int) -> None:
    """Raises `ValueError` unless `x` has the shape `(batch, height, width, channels)`."""
    if x.ndim != 4 or x.shape[-1] != channels:
        raise ValueError(f"images of shape (batch, height, width, {channels}) are wanted, got {x.shape}")


def check_sequences(x: Array) -> None:
    """Raises `ValueError` unless `x` has the shape `(batch, length)`."""
    if x.ndim != 2:
        raise ValueError(f"sequences of shape (batch, length) are wanted, got {x.shape}")


def one_hot(x: Array, levels: int, dtype: DTypeLike = jnp.float32) -> Array:
    """One-hot codes of integers `0..levels-1`, interpolated linearly between them. `[...] -> [..., levels]`."""
    distance = jnp.abs(
        x[..., None].astype(jnp.float32) - jnp.arange(levels, dtype=jnp.float32).reshape((1,) * x.ndim + (-1,))
    )
    return _of_levels(jnp.maximum(1 - distance, 0), x[..., None], levels).astype(dtype)


def scale(x: Array, levels: int | None, dtype: DTypeLike = jnp.float32) -> Array:
    """The channels of each pixel scaled to [-1, 1], and one that tells a pixel (1) from padding (0).

    `[..., channels] -> [..., channels + 1]`. Real numbers are not scaled.
    """
    if levels is None:
        present = ~jnp.isnan(x)
        return jnp.concatenate([jnp.where(present, x, 0), present[..., :1].astype(x.dtype)], -1).astype(dtype)
    present = (x >= 0).astype(jnp.float32)
    value = _of_levels((x.astype(jnp.float32) * (2 / (levels - 1)) - 1) * present, x, levels)
    return jnp.concatenate([value, present[..., :1]], -1).astype(dtype)


class Embedding(nn.Module):
    """A vector for each of the integers `0..levels-1`, a row of a table, looked up; affine for real numbers."""

    levels: int | None
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[...] -> [..., features]`."""
        if self.levels is None:
            return nn.Dense(self.features, dtype=self.dtype)(scale(x[..., None], None, self.dtype))
        init = nn.initializers.normal(1.0)
        table = self.param("embedding", init, (self.levels, self.features), jnp.float32).astype(self.dtype)

        levels = self.levels

        def rows(x: Array) -> Array:
            index = jnp.where(x < 0, levels, x).astype(jnp.int32)
            return jnp.take(table, index, axis=0, mode="fill", fill_value=0)

        if jnp.issubdtype(x.dtype, jnp.integer):
            return _of_levels(rows(x), x[..., None], levels)
        part = (x - jnp.floor(x))[..., None].astype(self.dtype)
        return rows(jnp.floor(x)) * (1 - part) + rows(jnp.floor(x) + 1) * part


def coordinates(x: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Where each position of the sequences `x` lies in an event of `shape` that they are flattened from.

    Position encoding for what is generated next. `[b, t] -> [1, t, len(shape)]`, each in [-1, 1].
    """
    index = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), -1)
    table = 2 * index / np.maximum(np.array(shape) - 1, 1) - 1
    return jnp.asarray(np.resize(table, (x.shape[1], len(shape))), dtype)[None]


def concat_channels(h: Array, other: Array) -> Array:
    """The channels of `h` and after them those of `other`, the same for every example."""
    return jnp.concatenate([h, jnp.broadcast_to(other, (*h.shape[:-1], other.shape[-1]))], -1)


def _of_levels(code: Array, x: Array, levels: int) -> Array:
    """`code`, NaN where `x` is neither a level (nor between two) nor `ABSENT`."""
    x = x.astype(jnp.float32)
    return jnp.where((x >= ABSENT) & (x < levels), code, jnp.nan)
