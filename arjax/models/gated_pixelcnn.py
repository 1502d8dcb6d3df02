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

    @nn.compact
    def __call__(self, v: Array, h: Array, bias: Array, present: Array | None, train: bool) -> tuple[Array, Array]:
        """The next features of both stacks, `Float[b, h, w, p]`; `present` is added before the horizontal gate."""
        n, past = self.kernel_size, self.kernel_size // 2 + 1
        p, dtype = self.features, self.dtype
        mask = None if self.first else masks.connect(self.colours, np.tile(self.colours, 2), strict=False)
        vertical_bias, horizontal_bias = jnp.split(bias, 2, axis=-1)
        v = CausalConv(2 * p, (past, n), axis=1, dtype=dtype, name="vertical_conv")(v)
        link = MaskedDense(2 * p, 2 * p, dtype=dtype, name="link")(v) + horizontal_bias
        if present is not None:
            link = link + present
        conv = CausalConv(
            2 * p, (1, past), 2, use_bias=False, present_mask=mask, dtype=dtype, name="horizontal_conv"
        )
        gated = nn.Dropout(self.dropout)(gate(conv(h) + link), deterministic=not train)
        out = MaskedDense(p, p, dtype=dtype, name="out")(
            gated, masks.connect(self.colours, self.colours, strict=False)
        )
        return gate(v + vertical_bias), out if self.first else h + out


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
        biases = self.condition(cond)
        check_size(biases, x)
        v, h = (scale(entry_shift(x, axis), self.output.levels, self.dtype) for axis in (1, 2))
        present = self.channels_before(x) if self.channels > 1 else None
        for i, (layer, bias) in enumerate(zip(self.layers, biases, strict=True)):
            v, h = layer(v, h, bias, None if i else present, train)
        return self.head(h)

    def condition(self, cond: Any) -> list[Array]:
        """The biases of each layer's units, equations 4 and 5: `[Float[b or 1, h or 1, w or 1, 4p]]`."""
        s = condition(self.conditioning, cond)
        if s is None:
            return [jnp.zeros((1, 1, 1, 4 * self.features), self.dtype)] * self.num_layers
        return jnp.split(self.projection(s), self.num_layers, axis=-1)

    def channels_before(self, x: Array) -> Array:
        """What the first units of each colour see of the present pixel: the colours before their own."""
        units = np.tile(masks.colours(self.features, self.channels), 2)
        mask = masks.connect(np.arange(self.channels), units, strict=True)
        return self.present(scale(x, self.output.levels, self.dtype)[..., :-1], mask)

    def head(self, h: Array) -> Array:
        """Parameters of each channel from the horizontal stack."""
        widths = self.features, self.head_features, self.channels * self.output.num_params
        before, hidden, after = (masks.colours(width, self.channels) for width in widths)
        h = nn.relu(self.hidden(nn.relu(h), masks.connect(before, hidden, strict=False)))
        params = self.params_of_pixel(h, masks.connect(hidden, after, strict=False)).astype(jnp.float32)
        return params.reshape(*h.shape[:-1], self.channels, self.output.num_params)
