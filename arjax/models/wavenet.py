"""WaveNet, van den Oord et al. (2016), "WaveNet: a generative model for raw audio", arXiv 1609.03499.

Causal convolutions whose dilation doubles from layer to layer (section 2.1), gated units (equation 2), residual
and skip connections (section 2.4, figure 4), global and local conditioning (equations 3 and 4) by whatever
`conditioning` is. With `Categorical(256)` over mu-law values it is the paper's (section 2.2); with
`DiscretizedLogisticMixture(10, 65536)` and the entry "scalar" it models 16-bit audio as Parallel WaveNet's teacher
does (van den Oord et al., 2017, arXiv 1711.10433). Sampling as in Fast WaveNet (Paine et al., 2016,
arXiv 1611.09482): every activation is computed once.

Deviations: the 1 x 1 convolutions to the skip channels are one product over the units of all layers, which is
their sum; the last layer has no residual output, which nothing would read.
"""

from typing import Any, Literal

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
    condition,
    entry_shift,
    one_hot,
    scale,
)

DILATIONS = tuple(2**i for i in range(10))
"""1, 2, 4, ..., 512: one cycle of the paper."""


def receptive_field(dilations: tuple[int, ...], kernel_size: int = 2, entry_kernel_size: int = 1) -> int:
    """How many positions before it a conditional sees."""
    return 1 + (entry_kernel_size - 1) + (kernel_size - 1) * sum(dilations)


class WaveNet(nn.Module):
    """WaveNet for sequences `Int[b, t]`.

    Attributes:
        output: the distribution of a position.
        dilations: of the layers, one after the other.
        kernel_size: taps of every dilated convolution.
        features: residual channels.
        gate_features: gated units of a layer.
        skip_features: skip channels, and of the layer between them and the output.
        entry: how a value enters: by an "embedding", as a "one_hot" code or as a "scalar" in [-1, 1].
        entry_kernel_size: taps of the causal convolution at the entry; an embedding with 1 has none.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None for an unconditional model.
        dropout: rate of dropout of the input of every dilated convolution, in training.
        dtype: dtype of the computation; parameters are float32.
    """

    output: Any = distributions.Categorical(256)
    dilations: tuple[int, ...] = 3 * DILATIONS
    kernel_size: int = 2
    features: int = 64
    gate_features: int = 64
    skip_features: int = 256
    entry: Literal["embedding", "one_hot", "scalar"] = "embedding"
    entry_kernel_size: int = 1
    conditioning: Any = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @property
    def receptive_field(self) -> int:
        """How many positions before it a conditional sees."""
        return receptive_field(self.dilations, self.kernel_size, self.entry_kernel_size)

    def setup(self):
        """Creates the layers. Raises `ValueError` for an unknown entry."""
        if self.entry not in ("embedding", "one_hot", "scalar"):
            raise ValueError(f"entry is 'embedding', 'one_hot' or 'scalar', got {self.entry!r}")
        if self.entry == "one_hot" and self.output.levels is None:
            raise ValueError(f"real numbers have no one-hot code: entry='scalar' is wanted for {self.output}")
        dtype = self.dtype
        if self.entry == "embedding":
            self.embedding = Embedding(self.output.levels, self.features, dtype)
        if self.entry != "embedding" or self.entry_kernel_size > 1:
            self.first = CausalConv(self.features, (self.entry_kernel_size,), dtype=dtype)
        self.convs = [
            CausalConv(2 * self.gate_features, (self.kernel_size,), dilation=d, dtype=dtype)
            for d in self.dilations
        ]
        self.residuals = [nn.Dense(self.features, dtype=dtype) for _ in self.dilations[1:]]
        if self.conditioning is not None:
            init = nn.initializers.normal(0.05)
            self.projections = [
                nn.Dense(2 * self.gate_features, use_bias=False, kernel_init=init, dtype=dtype)
                for _ in self.dilations
            ]
        self.skip = nn.Dense(self.skip_features, dtype=dtype)
        self.hidden = nn.Dense(self.skip_features, dtype=dtype)
        self.head = nn.Dense(self.output.num_params, dtype=dtype)
        self.dropping = nn.Dropout(self.dropout)

    def __call__(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Sequences `Int[b, t]` to parameters `Float[b, t, num_params]`."""
        check_sequences(x)
        context = self.condition(cond)
        check_length(context, x)
        h = self._enter(entry_shift(x, 1, self.output.levels))
        units = []
        for i, (conv, bias) in enumerate(zip(self.convs, context, strict=True)):
            y = conv(self.dropping(h, deterministic=not train))
            f, g = jnp.split(y if bias is None else y + bias, 2, axis=-1)
            units.append(jnp.tanh(f) * nn.sigmoid(g))
            if i < len(self.residuals):
                h = h + self.residuals[i](units[-1])
        s = self.hidden(nn.relu(self.skip(jnp.concatenate(units, -1))))
        return self.head(nn.relu(s)).astype(jnp.float32)

    def condition(self, cond: Any) -> list[Array | None]:
        """What every layer's units get of `cond`, equations 3 and 4: `Float[b, t or 1, 2 gate_features]`."""
        s = condition(self.conditioning, cond, axes=1)
        return [None] * len(self.dilations) if s is None else [projection(s) for projection in self.projections]

    def _enter(self, x: Array) -> Array:
        levels = self.output.levels
        if self.entry == "embedding":
            h = self.embedding(x)
            return self.first(h) if self.entry_kernel_size > 1 else h
        code = (
            one_hot(x, levels, self.dtype) if self.entry == "one_hot" else scale(x[..., None], levels, self.dtype)
        )
        return self.first(code)
