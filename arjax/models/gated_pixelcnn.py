"""Gated PixelCNN, van den Oord et al. (2016b), "Conditional image generation with PixelCNN decoders".

Two stacks (section 2.3, figure 2): the vertical one reads the rows above, the horizontal one the current row up
to the pixel and, through a 1x1 convolution, the vertical stack; together they have no blind spot. Units are
gated (equation 2) and may depend on a class or a vector (equation 4) or on a map (equation 5). The features of
the horizontal stack form a group for each colour, which sees the colours before its own (van den Oord et al.,
2016a, section 3.4).

Deviations: the image is shifted once at the entry of each stack, so no convolution is masked but for the colours
of the present pixel; a channel tells pixels from padding; the first layer has a larger kernel.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from arjax import distributions, masks
from arjax.layers import CausalConv, MaskedDense, check_images, check_size, condition, entry_shift, scale


def gate(x: Array) -> Array:
    """Equation 2: `tanh(x_f) * sigmoid(x_g)`, where `x` holds both halves on its last axis."""
    f, g = jnp.split(x, 2, axis=-1)
    return jnp.tanh(f) * nn.sigmoid(g)


class GatedLayer(nn.Module):
    """One layer of both stacks, figure 2. `kernel_size` n is the paper's: n x n vertical, 1 x n horizontal."""

    features: int
    kernel_size: int
    colours: np.ndarray
    first: bool
    dropout: float
    dtype: DTypeLike

    def setup(self):
        """Creates the layers; `colours` are the colours of the features, the first layer's input has none."""
        n, past = self.kernel_size, self.kernel_size // 2 + 1
        p, dtype = self.features, self.dtype
        mask = None if self.first else masks.connect(self.colours, np.tile(self.colours, 2), strict=False)
        self.vertical_conv = CausalConv(2 * p, (past, n), axis=1, dtype=dtype)
        self.link = nn.Dense(2 * p, dtype=dtype)
        self.horizontal_conv = CausalConv(2 * p, (1, past), axis=2, use_bias=False, present_mask=mask, dtype=dtype)
        self.out = MaskedDense(p, p, dtype=dtype)
        self.dropping = nn.Dropout(self.dropout)

    def vertical(self, v: Array, bias: Array) -> tuple[Array, Array]:
        """The vertical stack's next features, and what the horizontal stack takes from it, before its gate."""
        vertical_bias, horizontal_bias = jnp.split(bias, 2, axis=-1)
        v = self.vertical_conv(v)
        return gate(v + vertical_bias), self.link(v) + horizontal_bias

    def horizontal(self, h: Array, link: Array, train: bool) -> Array:
        """The horizontal stack's next features."""
        gated = self.dropping(gate(self.horizontal_conv(h) + link), deterministic=not train)
        out = self.out(gated, masks.connect(self.colours, self.colours, strict=False))
        return out if self.first else h + out


class GatedPixelCNN(nn.Module):
    """Gated PixelCNN for images `Int[b, h, w, channels]`.

    Attributes:
        output: the distribution of a channel of a pixel.
        channels: channels of the image, which divide `features` and `head_features`.
        features: channels p of each stack.
        num_layers: gated layers, the first one included.
        kernel_size: n of every layer but the first.
        first_kernel_size: n of the first layer.
        head_features: channels of the 1x1 convolution before the output.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None for an unconditional model.
        dropout: rate of dropout of the horizontal stack's gated units, in training.
        dtype: dtype of the computation; parameters are float32.
    """

    output: Any = distributions.Bernoulli()
    channels: int = 1
    features: int = 64
    num_layers: int = 8
    kernel_size: int = 3
    first_kernel_size: int = 7
    head_features: int = 128
    conditioning: Any = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the layers."""
        colours = masks.colours(self.features, self.channels)
        sizes = [self.first_kernel_size] + [self.kernel_size] * (self.num_layers - 1)
        self.layers = [
            GatedLayer(self.features, size, colours, i == 0, self.dropout, self.dtype)
            for i, size in enumerate(sizes)
        ]
        if self.channels > 1:
            self.present = MaskedDense(self.channels, 2 * self.features, use_bias=False, dtype=self.dtype)
        if self.conditioning is not None:
            width = self.num_layers * 4 * self.features
            init = nn.initializers.normal(0.05)
            self.projection = nn.Dense(width, use_bias=False, kernel_init=init, dtype=self.dtype)
        self.hidden = MaskedDense(self.features, self.head_features, dtype=self.dtype)
        self.params_of_pixel = MaskedDense(
            self.head_features, self.channels * self.output.num_params, dtype=self.dtype
        )

    def __call__(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Images `Int[b, h, w, channels]` to parameters `Float[b, h, w, channels, num_params]`."""
        check_images(x, self.channels)
        context = self.condition(cond)
        check_size(context, x)
        features = self.horizontal(x, self.vertical(x, context))
        return self.colours(features, x, train=train)

    def condition(self, cond: Any) -> list[Array]:
        """The biases of each layer's units, equations 4 and 5: `[Float[b or 1, h or 1, w or 1, 4p]]`."""
        s = condition(self.conditioning, cond)
        if s is None:
            return [jnp.zeros((1, 1, 1, 4 * self.features), self.dtype)] * self.num_layers
        return jnp.split(self.projection(s), self.num_layers, axis=-1)

    def vertical(self, rows: Array, context: list[Array]) -> list[Array]:
        """What each horizontal layer takes from the rows above: `[Float[b, h, w, 2p]]`."""
        v = scale(entry_shift(self, rows, axis=1), self.output.levels, self.dtype)
        links = []
        for layer, bias in zip(self.layers, context, strict=True):
            v, link = layer.vertical(v, bias)
            links.append(link)
        return links

    def horizontal(self, pixels: Array, links: list[Array]) -> tuple[Array, list[Array]]:
        """The pixels on the left, and the vertical stack."""
        return scale(entry_shift(self, pixels, axis=2), self.output.levels, self.dtype), links

    def colours(self, features: tuple[Array, list[Array]], pixels: Array, *, train: bool = False) -> Array:
        """Parameters of each channel of `pixels`, which see the channels before it."""
        h, links = features
        if self.channels > 1:
            present = scale(pixels, self.output.levels, self.dtype)[..., :-1]
            units = np.tile(masks.colours(self.features, self.channels), 2)
            mask = masks.connect(np.arange(self.channels), units, strict=True)
            links = [links[0] + self.present(present, mask), *links[1:]]
        for layer, link in zip(self.layers, links, strict=True):
            h = layer.horizontal(h, link, train)
        return self._head(h)

    def _head(self, h: Array) -> Array:
        widths = self.features, self.head_features, self.channels * self.output.num_params
        before, hidden, after = (masks.colours(width, self.channels) for width in widths)
        h = nn.relu(self.hidden(nn.relu(h), masks.connect(before, hidden, strict=False)))
        params = self.params_of_pixel(h, masks.connect(hidden, after, strict=False)).astype(jnp.float32)
        return params.reshape(*h.shape[:-1], self.channels, self.output.num_params)
