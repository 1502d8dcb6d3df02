"""Gated PixelCNN, van den Oord et al. (2016b), "Conditional image generation with PixelCNN decoders".

Two stacks (section 2.3, figure 2): the vertical one reads the rows above, the horizontal one the current row up
to the pixel and, through a 1x1 convolution, the vertical stack; together they have no blind spot. Units are
gated (equation 2) and may depend on a class (equation 4).

Deviations: the image is shifted once at the entry of each stack, so no convolution is masked; a channel tells
pixels from padding; the first layer has a larger kernel.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from arjax import distributions
from arjax.layers import CausalConv, entry_shift, scale


def gate(x: Array) -> Array:
    """Equation 2: `tanh(x_f) * sigmoid(x_g)`, where `x` holds both halves on its last axis."""
    f, g = jnp.split(x, 2, axis=-1)
    return jnp.tanh(f) * nn.sigmoid(g)


class GatedLayer(nn.Module):
    """One layer of both stacks, figure 2. `kernel_size` n is the paper's: n x n vertical, 1 x n horizontal."""

    features: int
    kernel_size: int
    residual: bool
    dropout: float
    dtype: DTypeLike

    def setup(self):
        """Creates the layers."""
        n, past = self.kernel_size, self.kernel_size // 2 + 1
        p, dtype = self.features, self.dtype
        self.vertical_conv = CausalConv(2 * p, (past, n), axis=1, dtype=dtype)
        self.link = nn.Dense(2 * p, dtype=dtype)
        self.horizontal_conv = CausalConv(2 * p, (1, past), axis=2, use_bias=False, dtype=dtype)
        self.out = nn.Dense(p, dtype=dtype)
        self.dropping = nn.Dropout(self.dropout)

    def vertical(self, v: Array, bias: Array) -> tuple[Array, Array]:
        """The vertical stack's next features, and what the horizontal stack takes from it, before its gate."""
        vertical_bias, horizontal_bias = jnp.split(bias, 2, axis=-1)
        v = self.vertical_conv(v)
        return gate(v + vertical_bias), self.link(v) + horizontal_bias

    def horizontal(self, h: Array, link: Array, train: bool) -> Array:
        """The horizontal stack's next features."""
        out = self.out(self.dropping(gate(self.horizontal_conv(h) + link), deterministic=not train))
        return h + out if self.residual else out


class GatedPixelCNN(nn.Module):
    """Gated PixelCNN for one-channel images `Int[b, h, w, 1]`.

    Attributes:
        output: the distribution of a pixel.
        features: channels p of each stack.
        num_layers: gated layers, the first one included.
        kernel_size: n of every layer but the first.
        first_kernel_size: n of the first layer.
        head_features: channels of the two 1x1 convolutions before the output.
        num_classes: number of classes of `cond`, or None for an unconditional model.
        dropout: rate of dropout of the horizontal stack's gated units, in training.
        dtype: dtype of the computation; parameters are float32.
    """

    output: Any = distributions.Bernoulli()
    features: int = 64
    num_layers: int = 8
    kernel_size: int = 3
    first_kernel_size: int = 7
    head_features: int = 128
    num_classes: int | None = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the layers."""
        sizes = [self.first_kernel_size] + [self.kernel_size] * (self.num_layers - 1)
        self.layers = [
            GatedLayer(self.features, size, i > 0, self.dropout, self.dtype) for i, size in enumerate(sizes)
        ]
        if self.num_classes is not None:
            self.embedding = nn.Embed(self.num_classes, self.num_layers * 4 * self.features, dtype=self.dtype)
        self.hidden = nn.Dense(self.head_features, dtype=self.dtype)
        self.params_of_pixel = nn.Dense(self.output.num_params, dtype=self.dtype)

    def __call__(self, x: Array, cond: Array | None = None, *, train: bool = False) -> Array:
        """Images `Int[b, h, w, 1]` and labels `Int[b]` to parameters `Float[b, h, w, 1, num_params]`."""
        if x.ndim != 4 or x.shape[-1] != 1:
            raise ValueError(f"images of shape (batch, height, width, 1) are wanted, got {x.shape}")
        return self.horizontal(x, self.vertical(x, self.condition(cond)), train=train)

    def condition(self, cond: Array | None) -> list[Array]:
        """The biases of each layer's units, equation 4. `Int[b] -> [Float[b or 1, 1, 1, 4p]]`."""
        if self.num_classes is None:
            if cond is not None:
                raise ValueError("this model has num_classes=None and takes no cond")
            return [jnp.zeros((1, 1, 1, 4 * self.features), self.dtype)] * self.num_layers
        if cond is None:
            raise ValueError(f"cond is missing: labels 0..{self.num_classes - 1} of shape (batch,) are wanted")
        biases = self.embedding(cond).reshape(cond.shape[0], 1, 1, -1)
        return jnp.split(biases, self.num_layers, axis=-1)

    def vertical(self, rows: Array, context: list[Array]) -> list[Array]:
        """What each horizontal layer takes from the rows above. `Int[b, h, w, 1] -> [Float[b, h, w, 2p]]`."""
        v = scale(entry_shift(self, rows, axis=1), self.output.levels, self.dtype)
        links = []
        for layer, bias in zip(self.layers, context, strict=True):
            v, link = layer.vertical(v, bias)
            links.append(link)
        return links

    def horizontal(self, pixels: Array, links: list[Array], *, train: bool = False) -> Array:
        """Parameters of each pixel from those on its left and the vertical stack."""
        h = scale(entry_shift(self, pixels, axis=2), self.output.levels, self.dtype)
        for layer, link in zip(self.layers, links, strict=True):
            h = layer.horizontal(h, link, train)
        params = self.params_of_pixel(nn.relu(self.hidden(nn.relu(h)))).astype(jnp.float32)
        return params[..., None, :]
