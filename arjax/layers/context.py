"""What a stage of a hierarchy knows of the parts before it: a network without masks, which sees all of them."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike


class Context(nn.Module):
    """Residual blocks of convolutions, then self-attention: features of every place from features of all.

    The coordinates of a place stand beside what is given.

    Attributes:
        features: channels of the result and within.
        num_blocks: residual blocks of two convolutions each (He et al., 2016, arXiv 1603.05027, without norms).
        kernel_size: of the convolutions, along each axis; odd.
        num_heads: heads of the attention after the blocks, which divide `features`; 0 for none.
        enlarge: by how much each axis of the result is longer, by a transposed convolution at the end.
        dropout: rate of dropout within the blocks, in training.
        dtype: dtype of the computation; parameters and results are float32.
    """

    features: int = 64
    num_blocks: int = 3
    kernel_size: int = 3
    num_heads: int = 0
    enlarge: int = 1
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, h: Array, train: bool = False) -> Array:
        """`Float[b, *places, c] -> Float[b, *(places * enlarge), features]`."""
        places = h.shape[1:-1]
        conv = partial(nn.Conv, self.features, (self.kernel_size,) * len(places), dtype=self.dtype)
        dropping = nn.Dropout(self.dropout, deterministic=not train)
        where = jnp.broadcast_to(_coordinates(places)[None], (h.shape[0], *places, len(places)))
        h = conv()(jnp.concatenate([h.astype(self.dtype), where.astype(self.dtype)], -1))
        for _ in range(self.num_blocks):
            y = dropping(nn.elu(conv()(nn.elu(h))))
            h = h + conv(kernel_init=nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal"))(y)
        if self.num_heads:
            flat = nn.LayerNorm()(h.astype(jnp.float32)).reshape(h.shape[0], -1, self.features)
            attention = nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype)
            h = h + attention(flat).reshape(h.shape)
        if self.enlarge > 1:
            sides = (self.enlarge,) * len(places)
            h = nn.ConvTranspose(self.features, sides, sides, dtype=self.dtype)(nn.elu(h))
        return h.astype(jnp.float32)


def _coordinates(places: tuple[int, ...]) -> Array:
    """`Float[*places, len(places)]`, each in (-0.5, 0.5)."""
    grid = np.indices(places).astype(np.float32)
    sides = np.asarray(places, np.float32).reshape(-1, *[1] * len(places))
    return jnp.asarray(np.moveaxis((grid + 0.5) / sides - 0.5, 0, -1))
