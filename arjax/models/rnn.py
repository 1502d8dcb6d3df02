"""Recurrent models of sequences: characters, bytes, pixels one after the other.

A stack of LSTM (Hochreiter and Schmidhuber, 1997) or GRU (Cho et al., 2014) layers that reads what came before and
predicts what comes next; Graves (2013), arXiv 1308.0850, for text. Over the pixels of an image it is told where
the next one lies: else it has to count columns to know the pixel above.

Deviations: the first position is predicted from a network at rest, not drawn from a fixed distribution.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from arjax import distributions
from arjax.layers import (
    Embedding,
    Recurrent,
    check_length,
    check_sequences,
    concat_channels,
    condition,
    coordinates,
    entry_shift,
)


class RNN(nn.Module):
    """A recurrent model of sequences `Int[b, t]`.

    Attributes:
        output: the distribution of a position.
        features: units of every layer, and length of the embedding.
        num_layers: recurrent layers.
        cell: one of Flax's cells: `nn.OptimizedLSTMCell`, `nn.GRUCell`.
        positions: shape of the event that the sequences are flattened from, to tell the network where the next
            position lies in it; None for no position encoding.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None for an unconditional model.
        dropout: rate of dropout of the input of every layer but the first, in training.
        dtype: dtype of the computation; parameters are float32.
    """

    output: Any = distributions.Categorical(256)
    features: int = 256
    num_layers: int = 2
    cell: Any = nn.OptimizedLSTMCell
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
        self.layers = [Recurrent(self.cell, self.features, self.dtype) for _ in range(self.num_layers)]
        if self.conditioning is not None:
            init = nn.initializers.normal(0.05)
            self.projections = [
                nn.Dense(self.features, use_bias=False, kernel_init=init, dtype=self.dtype) for _ in self.layers
            ]
        self.dropping = nn.Dropout(self.dropout)
        self.head = nn.Dense(self.output.num_params, dtype=self.dtype)

    def __call__(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Sequences `Int[b, t]` to parameters `Float[b, t, num_params]`."""
        check_sequences(x)
        context = self.condition(cond)
        check_length(context, x)
        before = entry_shift(x, 1, self.output.levels)
        if self.has_variable("before", "x"):
            before = before.at[:, :1].set(self.get_variable("before", "x"))
        h = self.embedding(before)
        for i, (layer, bias) in enumerate(zip(self.layers, context, strict=True)):
            if i:
                h = self.dropping(h, deterministic=not train)
            if bias is not None:
                h = h + bias
            if i == 0 and self.positions is not None:
                h = concat_channels(h, coordinates(x, self.positions, self.dtype))
            h = layer(h)
        return self.head(self.dropping(h, deterministic=not train)).astype(jnp.float32)

    def condition(self, cond: Any) -> list[Array | None]:
        """A bias of every layer's input: `Float[b, t or 1, features]`."""
        s = condition(self.conditioning, cond, axes=1)
        return [None] * self.num_layers if s is None else [projection(s) for projection in self.projections]
