"""PixelCNN, van den Oord et al. (2016a), "Pixel recurrent neural networks", section 3.5 and table 1.

A 7 x 7 convolution with mask A, residual blocks with mask B (figure 5, left), two 1 x 1 layers. The features form
a group for each colour, which sees the colours before its own (section 3.4, figure 2).

The model has a blind spot: rows of masked kernels reach the upper right along a cone only, however deep the net
is. Gated PixelCNN has none.

Deviations: mask A is the entry shift together with a mask on the present pixel's colours; a channel tells pixels
from padding; `cond` is a bias of every block (the paper's model is unconditional).
"""

import itertools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from arjax import distributions, masks
from arjax.layers import (
    CausalConv,
    MaskedDense,
    RasterConv,
    check_images,
    check_size,
    condition,
    entry_shift,
    scale,
)


class ResidualBlock(nn.Module):
    """1 x 1 to h features, k x k, 1 x 1 back to 2h, each after a ReLU and with mask B (figure 5, left)."""

    features: int
    kernel_size: int
    channels: int
    dtype: DTypeLike

    def setup(self):
        """Creates the layers."""
        h, dtype = self.features, self.dtype
        self.narrow, self.wide = masks.colours(h, self.channels), masks.colours(2 * h, self.channels)
        self.reduce = MaskedDense(2 * h, h, dtype=dtype)
        mask = masks.connect(self.narrow, self.narrow, strict=False)
        self.conv = RasterConv(h, self.kernel_size, mask, dtype)
        self.expand = MaskedDense(h, 2 * h, dtype=dtype)

    def __call__(self, x: Array, bias: Array) -> Array:
        """`Float[b, h, w, 2h] -> Float[b, h, w, 2h]`."""
        y = self.reduce(nn.relu(x), masks.connect(self.wide, self.narrow, strict=False)) + bias
        y = self.conv(nn.relu(y))
        return x + self.expand(nn.relu(y), masks.connect(self.narrow, self.wide, strict=False))


class PixelCNN(nn.Module):
    """PixelCNN for images `Int[b, h, w, channels]`.

    Attributes:
        output: the distribution of a channel of a pixel.
        channels: channels of the image, which divide `features` and `head_features`.
        features: h; the residual stream has 2h features.
        num_blocks: residual blocks.
        kernel_size: of the residual blocks; odd.
        first_kernel_size: of the first convolution; odd.
        head_features: features of the two 1 x 1 layers before the output.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None for an unconditional model.
        dropout: rate of dropout before the first 1 x 1 layer, in training.
        dtype: dtype of the computation; parameters are float32.
    """

    output: Any = distributions.Bernoulli()
    channels: int = 1
    features: int = 64
    num_blocks: int = 7
    kernel_size: int = 3
    first_kernel_size: int = 7
    head_features: int = 128
    conditioning: Any = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the layers."""
        if self.first_kernel_size < 2:
            raise ValueError(f"a first_kernel_size of 2 or more is wanted, got {self.first_kernel_size}")
        h, past, dtype = self.features, self.first_kernel_size // 2, self.dtype
        self.above = CausalConv(2 * h, (past, self.first_kernel_size), dtype=dtype)
        self.left = CausalConv(2 * h, (1, past), axis=2, use_bias=False, dtype=dtype)
        if self.channels > 1:
            self.present = MaskedDense(self.channels, 2 * h, use_bias=False, dtype=dtype)
        self.blocks = [ResidualBlock(h, self.kernel_size, self.channels, dtype) for _ in range(self.num_blocks)]
        if self.conditioning is not None:
            init = nn.initializers.normal(0.05)
            self.projection = nn.Dense(self.num_blocks * h, use_bias=False, kernel_init=init, dtype=dtype)
        self.dropping = nn.Dropout(self.dropout)
        self.widths = 2 * h, self.head_features, self.head_features, self.channels * self.output.num_params
        self.head = [MaskedDense(before, after, dtype=dtype) for before, after in itertools.pairwise(self.widths)]

    def __call__(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Images `Int[b, h, w, channels]` to parameters `Float[b, h, w, channels, num_params]`."""
        check_images(x, self.channels)
        context = self.condition(cond)
        check_size(context, x)
        above, left = (scale(entry_shift(x, axis), self.output.levels, self.dtype) for axis in (1, 2))
        h = self.above(above) + self.left(left)
        if self.channels > 1:
            present = scale(x, self.output.levels, self.dtype)[..., :-1]
            groups = masks.colours(2 * self.features, self.channels)
            h = h + self.present(present, masks.connect(np.arange(self.channels), groups, strict=True))
        for block, bias in zip(self.blocks, jnp.split(context, self.num_blocks, -1), strict=True):
            h = block(h, bias)
        h = self.dropping(h, deterministic=not train)
        for layer, (before, after) in zip(self.head, itertools.pairwise(self.widths), strict=True):
            colours = masks.colours(before, self.channels), masks.colours(after, self.channels)
            h = layer(nn.relu(h), masks.connect(*colours, strict=False))
        return h.astype(jnp.float32).reshape(*h.shape[:-1], self.channels, self.output.num_params)

    def condition(self, cond: Any) -> Array:
        """The biases of all blocks: `Float[b or 1, h or 1, w or 1, num_blocks * h]`."""
        s = condition(self.conditioning, cond)
        if s is None:
            return jnp.zeros((1, 1, 1, self.num_blocks * self.features), self.dtype)
        return self.projection(s)
