"""Recurrence over a sequence."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from arjax.layers.incremental import is_incremental


class Recurrent(nn.Module):
    """One of Flax's recurrent cells, scanned over a sequence; it starts from zeros.

    An incremental pass takes the carry from the cache and leaves it there, whatever the length of its slice.
    Truncated back-propagation through time is just that: incremental passes over one window after the other.

    Attributes:
        cell: the class of the cell, such as `nn.OptimizedLSTMCell` or `nn.GRUCell`.
        features: number of output channels, and of the carry.
        dtype: dtype of the computation and the carry; parameters are float32.
    """

    cell: Any
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `Float[b, t, in]` to `Float[b, t, features]`."""
        cell = self.cell(self.features, dtype=self.dtype)

        def zeros() -> Any:
            carry = cell.initialize_carry(jax.random.key(0), (x.shape[0], x.shape[2]))
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, self.dtype), carry)

        scan = nn.RNN(cell, return_carry=True)
        if not is_incremental(self):
            return scan(x, initial_carry=zeros())[1]
        memory = self.variable("cache", "carry", zeros)
        memory.value, y = scan(x, initial_carry=memory.value)
        return y
