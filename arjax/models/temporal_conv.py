"""Masked temporal convolution: a plain stack of causal convolutions over a sequence.

The chain rule with weights shared over time, as in the generic network of Bai, Kolter and Koltun (2018),
arXiv 1803.01271; a text, or an image flattened row by row. Flattened, an image hides from a convolution which of
the earlier pixels is the one above: a position encoding tells.

Deviations: pre-activation residual layers of one convolution each, no weight normalisation.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from arjax import distributions
from arjax.layers import (
    CausalConv,
    Embedding,
    check_length,
    check_sequences,
    concat_channels,
    condition,
    coordinates,
    entry_shift,
)


class TemporalConv(nn.Module):
    """Residual causal convolutions over sequences `Int[b, t]`.

    Attributes:
        output: the distribution of a position.
        features: channels of every layer.
        dilations: of the layers, one after the other; all 1 for a stack without dilation.
        kernel_size: taps of every convolution.
        positions: shape of the event that the sequences are flattened from, such as `(28, 28)`, to tell the
            network where the next position lies in it; None for no position encoding.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None for an unconditional model.
        dropout: rate of dropout of the input of every convolution, in training.
        dtype: dtype of the computation; parameters are float32.
    """

    output: Any = distributions.Categorical(256)
    features: int = 64
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 1, 2, 4, 8, 16)
    kernel_size: int = 3
    positions: tuple[int, ...] | None = None
    conditioning: Any = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @property
    def size(self) -> int | None:
        """Positions that a sequence may have: those of the event that it is flattened from, else any number."""
        return None if self.positions is None else math.prod(self.positions)

    def setup(self):
        """Creates the layers."""
        self.embedding = Embedding(self.output.levels, self.features, self.dtype)
        self.first = nn.Dense(self.features, dtype=self.dtype)
        self.convs = [
            CausalConv(self.features, (self.kernel_size,), dilation=d, dtype=self.dtype) for d in self.dilations
        ]
        if self.conditioning is not None:
            init = nn.initializers.normal(0.05)
            self.projections = [
                nn.Dense(self.features, use_bias=False, kernel_init=init, dtype=self.dtype) for _ in self.dilations
            ]
        self.dropping = nn.Dropout(self.dropout)
        self.head = nn.Dense(self.output.num_params, dtype=self.dtype)

    def __call__(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Sequences `Int[b, t]` to parameters `Float[b, t, num_params]`."""
        check_sequences(x)
        context = self.condition(cond)
        check_length(context, x)
        h = self.embedding(entry_shift(x, 1, self.output.levels))
        if self.positions is not None:
            h = concat_channels(h, coordinates(x, self.positions, self.dtype))
        h = self.first(h)
        for conv, bias in zip(self.convs, context, strict=True):
            y = conv(self.dropping(nn.relu(h), deterministic=not train))
            h = h + (y if bias is None else y + bias)
        return self.head(nn.relu(h)).astype(jnp.float32)

    def condition(self, cond: Any) -> list[Array | None]:
        """A bias of every convolution: `Float[b, t or 1, features]`."""
        s = condition(self.conditioning, cond, axes=1)
        return [None] * len(self.dilations) if s is None else [projection(s) for projection in self.projections]
