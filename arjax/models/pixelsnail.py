"""PixelSNAIL, Chen, Mishra, Rohaninejad and Abbeel (2017), arXiv 1712.09763.

Residual blocks of small causal convolutions for what is near, attention to all earlier pixels for what is far
(section 2, figure 2). What the paper leaves open is as in the authors' code, of which this is the single stream
with 16 channels for keys and queries: 2 x 2 convolutions with weight normalisation, gated residual blocks with
ELU, the coordinates of a pixel beside its features wherever attention looks.

The pixels are handled in the order of generation, so that a position of the sequence is a pixel and any order will
do: a convolution has those of its taps that come before a pixel (locally masked convolutions, Jain, Abbeel and
Pathak, 2020, arXiv 2006.12486). In raster, zigzag and column order these are all.

Deviations: the image is shifted once at the entry, and what attention looks at is the pixel before and its
features, so that instead of an attention which is zero at the first pixel there is a key of nothing; a condition
is a bias of every gate; the head's outputs start at a tenth of unit scale.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from arjax import distributions, orderings
from arjax.layers import Attention, check_images, concat_channels, condition, entry_shift, neighbours, scale, shift
from arjax.models.pixelcnnpp import WeightNorm, dense

AROUND = ((-1, -1), (-1, 0), (0, -1), (0, 0))
"""Rows and columns from a pixel to the taps of a 2 x 2 convolution."""
ABOVE_AND_LEFT = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
"""Those of the first layer, which must not see the pixel itself."""


def conv(x: Array, kernel: Array, table: np.ndarray) -> Array:
    """A convolution over the pixels that `table` names for each one; kernel `(taps, in, out)`."""
    return neighbours(x, table) @ kernel.reshape(-1, kernel.shape[-1])


class Residual(nn.Module):
    """A gated residual block.

    Attributes:
        operation: `(x, kernel)` to features: a convolution, or `dense`.
        features: channels in and out.
        kernel_size: shape of the operation's kernel before its input and output channels.
        dropout: rate of dropout between its two operations, in training.
        dtype: dtype of the computation.
    """

    operation: Callable[..., Array]
    features: int
    kernel_size: tuple[int, ...] = ()
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool, *, bias: Array | None = None, aside: Array | None = None) -> Array:
        """`Float[b, t, features]` to the same; `aside` enters after the first operation, `bias` at the gate."""
        norm = partial(WeightNorm, dtype=self.dtype)
        y = norm(self.operation, self.features, self.kernel_size)(nn.elu(x))
        if aside is not None:
            y = y + norm(dense, self.features)(nn.elu(aside))
        y = nn.Dropout(self.dropout)(nn.elu(y), deterministic=not (train or self.is_initializing()))
        y = norm(self.operation, 2 * self.features, self.kernel_size, init_scale=0.1)(y)
        a, b = jnp.split(y if bias is None else y + bias, 2, axis=-1)
        return x + a * nn.sigmoid(b)


class AttentionBlock(nn.Module):
    """Attention to all earlier pixels, and how it enters the features.

    Attributes:
        size: pixels of an image.
        key_features: channels of keys and queries.
        value_features: channels of values.
        dropout: rate of dropout, in training.
        dtype: dtype of the computation.
    """

    size: int
    key_features: int
    value_features: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, h: Array, pixels: Array, places: tuple[Array, Array], train: bool) -> Array:
        """`Float[b, t, features]`, likewise; `pixels` and `places` are those before, `places` also the present."""
        norm = partial(WeightNorm, dense, dtype=self.dtype)
        block = partial(Residual, dense, dropout=self.dropout, dtype=self.dtype)
        before, present = places
        content = concat_channels(jnp.concatenate([pixels, shift(h, axis=1)], -1), before)
        content = block(content.shape[-1])(content, train)
        keys, values = jnp.split(
            norm(self.key_features + self.value_features)(content), [self.key_features], axis=-1
        )
        queries = concat_channels(h, present)
        queries = norm(self.key_features)(block(queries.shape[-1])(queries, train))
        attended = Attention(self.size)(queries, keys, values)
        return block(h.shape[-1])(h, train, aside=attended)


class PixelSNAIL(nn.Module):
    """PixelSNAIL for images `Int[b, *event]`.

    Attributes:
        event: height, width and channels of an image.
        output: the mixture; of one channel of a pixel given those before it.
        features: channels of every block.
        num_blocks: attention blocks, each after some residual blocks.
        num_residual: residual blocks before every attention block.
        key_features: channels of keys and queries.
        value_features: channels of values.
        ordering: rank of each pixel (see `arjax.orderings`), flattened; None is raster order.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None.
        dropout: rate of dropout within each block, in training.
        dtype: dtype of the computation; parameters are float32.
    """

    event: tuple[int, int, int]
    output: Any = distributions.DiscretizedLogisticMixture()
    features: int = 256
    num_blocks: int = 12
    num_residual: int = 4
    key_features: int = 16
    value_features: int = 128
    ordering: tuple[int, ...] | None = None
    conditioning: Any = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the layers. Raises `ValueError` if the settings do not fit each other."""
        if not hasattr(self.output, "of_channels"):
            raise ValueError(f"a mixture over all channels of a pixel is wanted, got {self.output}")
        norm = partial(WeightNorm, dtype=self.dtype)
        ranks = self._pixel_ranks().reshape(self.event[:2])
        operation = partial(conv, table=orderings.neighbours(ranks, AROUND))
        before = orderings.neighbours(ranks, ABOVE_AND_LEFT)  # of what comes one step later than it was generated
        self.first = norm(
            partial(conv, table=np.where(before < self.size, before + 1, before)), self.features, (4,)
        )
        self.residuals = [
            [
                Residual(operation, self.features, (len(AROUND),), self.dropout, self.dtype)
                for _ in range(self.num_residual)
            ]
            for _ in range(self.num_blocks)
        ]
        self.attentions = [
            AttentionBlock(self.size, self.key_features, self.value_features, self.dropout, self.dtype)
            for _ in range(self.num_blocks)
        ]
        if self.conditioning is not None:
            width = 2 * self.features * self.num_blocks * self.num_residual
            init = nn.initializers.normal(0.05)
            self.projection = nn.Dense(width, use_bias=False, kernel_init=init, dtype=self.dtype)
        self.head = norm(dense, self.output.num_joint_params(self.channels), init_scale=0.1)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.event[2]

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.event[0] * self.event[1]

    def __call__(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Images `Int[b, h, w, channels]` to parameters `Float[b, h, w, channels, 3 num_mixtures]`."""
        check_images(x, self.channels)
        if x.shape[1:] != self.event:
            raise ValueError(f"events of shape {self.event} are wanted, got {x.shape[1:]}")
        ranks = self._pixel_ranks()
        pixels = x.reshape(x.shape[0], self.size, self.channels)[:, orderings.inverse(ranks)]
        params = self.in_order(pixels, cond, train=train)
        return params[:, ranks].reshape(*x.shape, -1)

    def condition(self, cond: Any) -> Sequence[Array | None]:
        """A bias of every residual block's gates, in the order of generation: `Float[b, t or 1, 2 features]`."""
        count = self.num_blocks * self.num_residual
        s = condition(self.conditioning, cond)
        if s is None:
            return [None] * count
        flat = s.reshape(s.shape[0], -1, s.shape[-1])
        if s.shape[1:3] != (1, 1):
            if s.shape[1:3] != self.event[:2]:
                raise ValueError(f"cond: a map of the image's size {self.event[:2]} is wanted, got {s.shape[1:3]}")
            flat = jnp.take(flat, orderings.inverse(self._pixel_ranks()), axis=1)
        return [*jnp.split(self.projection(flat), count, axis=-1)]

    def in_order(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Parameters of pixels in the order of generation, `Int[b, t, channels]`.

        `Float[b, t, channels, 3 num_mixtures]`.
        """
        pixels = scale(entry_shift(x, axis=1), self.output.levels, self.dtype)
        places = self._places()
        h, biases = self.first(pixels), iter(self.condition(cond))
        for residuals, attention in zip(self.residuals, self.attentions, strict=True):
            for block in residuals:
                h = block(h, train, bias=next(biases))
            h = attention(h, pixels, places, train)
        joint = self.head(nn.elu(h)).astype(jnp.float32)
        return self.output.of_channels(joint, x)

    def ranks(self) -> Array:
        """The step at which each value of an image is generated. Shape `(n,)`."""
        return jnp.asarray(orderings.colours(self._pixel_ranks(), self.channels).ravel(), jnp.int32)

    def _pixel_ranks(self) -> np.ndarray:
        return np.arange(self.size) if self.ordering is None else orderings.check(self.ordering, (self.size,))

    def _places(self) -> tuple[Array, Array]:
        """Where the pixel before each lies, zeros before the first, and where it lies: two `Float[1, t, 2]`."""
        height, width, _ = self.event
        order = orderings.inverse(self._pixel_ranks())
        table = np.stack([order // width / height - 0.5, order % width / width - 0.5], -1)
        places = jnp.asarray(np.pad(table, ((1, 0), (0, 0))), self.dtype)[None]
        return places[:, :-1], places[:, 1:]
