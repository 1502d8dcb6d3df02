"""Integers to network inputs. `ABSENT` (-1), what stands before the first position, becomes zeros.

Both codes are defined (and differentiable) between the integers too, so that `jax.jacobian` of a network with
respect to its data shows who sees whom; at an integer they are exact.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def check_images(x: Array, channels: int) -> None:
    """Raises `ValueError` unless `x` has the shape `(batch, height, width, channels)`."""
    if x.ndim != 4 or x.shape[-1] != channels:
        raise ValueError(f"images of shape (batch, height, width, {channels}) are wanted, got {x.shape}")


def one_hot(x: Array, levels: int, dtype: DTypeLike = jnp.float32) -> Array:
    """One-hot codes of integers `0..levels-1`, interpolated linearly between them. `[...] -> [..., levels]`."""
    distance = jnp.abs(
        x[..., None].astype(jnp.float32) - jnp.arange(levels, dtype=jnp.float32).reshape((1,) * x.ndim + (-1,))
    )
    return jnp.maximum(1 - distance, 0).astype(dtype)


def scale(x: Array, levels: int, dtype: DTypeLike = jnp.float32) -> Array:
    """The channels of each pixel scaled to [-1, 1], and one that tells a pixel (1) from padding (0).

    `[..., channels] -> [..., channels + 1]`.
    """
    present = (x >= 0).astype(jnp.float32)
    value = (x.astype(jnp.float32) * (2 / (levels - 1)) - 1) * present
    return jnp.concatenate([value, present[..., :1]], -1).astype(dtype)
