"""Recurrence over a sequence."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


class Recurrent(nn.Module):
    """One of Flax's recurrent cells, scanned over a sequence; it starts from zeros.

    Where the collection `cache` is mutable, the carry is taken from it and left there: truncated back-propagation
    through time goes from window to window so.

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
        if self.is_initializing() or not self.is_mutable_collection("cache"):
            return scan(x, initial_carry=zeros())[1]
        memory = self.variable("cache", "carry", zeros)
        memory.value, y = scan(x, initial_carry=memory.value)
        return y
