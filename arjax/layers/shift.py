"""What makes a network autoregressive: one shift at its entry. And orders other than that of an axis."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

ABSENT = -1
"""What stands before the first position of integer data."""


def entry_shift(x: Array, axis: int, levels: int | None = 2) -> Array:
    """What is known before each slice of `x` along `axis`: the slice before it, `ABSENT` before the first.

    The one shift of an autoregressive network, where its input enters; every layer after it sees the present.
    Integers of any dtype become int32. Real numbers, for which `levels` is None, have NaN before the first.
    """
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = jnp.asarray(x, jnp.int32)
    return shift(x, axis, ABSENT if levels is not None else jnp.nan)


def shift(x: Array, axis: int, value: float = 0) -> Array:
    """Each slice of `x` along `axis` one place later, `value` in the first place, the last slice gone."""
    padding = [(int(i == axis), 0, 0) for i in range(x.ndim)]
    padded = lax.pad(x, jnp.asarray(value, x.dtype), padding)
    return lax.slice_in_dim(padded, 0, x.shape[axis], axis=axis)


def neighbours(x: Array, table: np.ndarray) -> Array:
    """`x`, `Float[b, t, c]`, at the positions that `table` names for each one. `Float[b, t, k * c]`.

    `table[t, k] <= t` is a position of the sequence, or its length n for none, where zeros stand. Shape `(n, k)`;
    a column names no position twice.
    """
    return jnp.concatenate([_rearranged(x, column) for column in table.T], -1)


def _rearranged(x: Array, places: np.ndarray) -> Array:
    """`x[:, places]`, zeros where a place is out of range; no place stands there twice."""
    present = places < len(places)
    distances = np.unique((np.arange(len(places)) - places)[present])
    if len(distances) > 1:
        return x.at[:, places].get(mode="fill", fill_value=0, unique_indices=True)
    by = int(distances.sum())
    shifted = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (by, 0, 0), (0, 0, 0)])[:, : len(places)]
    return jnp.where(present[None, :, None], shifted, 0)
