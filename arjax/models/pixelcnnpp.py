"""PixelCNN++, Salimans, Karpathy, Chen and Kingma (2017), arXiv 1701.05517.

What the paper leaves open is as in the authors' code. Two streams of gated residual blocks (sections 2.2 to 2.5):
one reads the rows above with 2 x 3 kernels, the other the rows above and the pixels on the left with 2 x 2
kernels. Both are halved in size twice and enlarged again, with short-cuts between blocks of the same size. The
network sees whole pixels; the colours of a pixel are coupled by the output distribution alone (section 2.2,
`DiscretizedLogisticMixture.of_channels`). Weights are normalised, with data-dependent initialisation: the batch
given to `init` matters.

Deviations: the image is shifted once at the entry of each stream instead of after the first convolutions; where a
block takes features of two others, each has a weight-normalised 1 x 1 convolution of its own; the head's outputs
start at a tenth of unit scale; mixture parameters are laid out as `of_channels` has them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from arjax import distributions, parts
from arjax.layers import check_images, check_size, condition, entry_shift, scale
from arjax.layers.conv import causal_conv
from arjax.layers.dense import dense
from arjax.layers.strided import grow_pixels, grow_rows, raster_conv, shrink_pixels, shrink_rows

Biases = tuple[list[Array], list[Array]]
"""For each block of the first and of the second stream."""


def concat_elu(x: Array) -> Array:
    """`elu([x, -x])`, twice the channels."""
    return nn.elu(jnp.concatenate([x, -x], -1))


def rows_conv(x: Array, kernel: Array) -> Array:
    """Sees the rows above and the present one."""
    return causal_conv(x, kernel, axis=1)


class WeightNorm(nn.Module):
    """`operation` with the kernel `scale * v / |v|` and a bias, Salimans and Kingma (2016).

    At initialisation `scale` and `bias` are such that each output has mean 0 and standard deviation `init_scale`
    over the batch.

    Attributes:
        operation: `(x, kernel)` to features.
        features: number of output channels.
        kernel_size: shape of the kernel before its input and output channels.
        init_scale: standard deviation of the first outputs.
        dtype: dtype of the computation; parameters are float32.
    """

    operation: Callable[..., Array]
    features: int
    kernel_size: tuple[int, ...] = ()
    init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `Float[b, *places, in]` to `Float[b, *places', features]`."""
        v = self.param(
            "v", nn.initializers.normal(0.05), (*self.kernel_size, x.shape[-1], self.features), jnp.float32
        )
        axes = tuple(range(v.ndim - 1))
        unit = v * lax.rsqrt(jnp.sum(v**2, axes, keepdims=True))
        if self.is_initializing():
            y = self.operation(x.astype(jnp.float32), unit)
            axes = tuple(range(y.ndim - 1))
            mean = y.mean(axes, keepdims=True)
            scale = self.init_scale * lax.rsqrt(y.var(axes, keepdims=True) + 1e-10)
            self.param("scale", lambda _: scale.ravel())
            self.param("bias", lambda _: (-mean * scale).ravel())
            return ((y - mean) * scale).astype(self.dtype)
        scale, bias = (
            self.param(name, nn.initializers.zeros, (self.features,), jnp.float32) for name in ("scale", "bias")
        )
        kernel = (unit * jnp.broadcast_to(scale, v.shape)).astype(self.dtype)
        y = self.operation(x.astype(self.dtype), kernel)
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class Block(nn.Module):
    """A gated residual block (section 2.5 and figure 2 of the paper).

    Attributes:
        operation: the convolution of the stream.
        kernel_size: of that convolution.
        features: channels in and out.
        short_cut: whether it takes features of an earlier block.
        dropout: rate of dropout between its convolutions, in training.
        dtype: dtype of the computation.
    """

    operation: Callable[..., Array]
    kernel_size: tuple[int, int]
    features: int
    short_cut: bool
    dropout: float
    dtype: DTypeLike

    def setup(self):
        """Creates the layers."""
        conv = partial(WeightNorm, self.operation, kernel_size=self.kernel_size, dtype=self.dtype)
        self.first = conv(self.features)
        self.second = conv(2 * self.features, init_scale=0.1)
        if self.short_cut:
            self.earlier = WeightNorm(dense, self.features, dtype=self.dtype)
        self.dropping = nn.Dropout(self.dropout)

    def __call__(
        self, x: Array, bias: Array, train: bool, *, link: Array | None = None, earlier: Array | None = None
    ):
        """`x` and what the gates add to it; `link` and `earlier` are added after the first convolution."""
        y = self.first(concat_elu(x))
        if link is not None:
            y = y + link
        if earlier is not None:
            y = y + self.earlier(concat_elu(earlier))
        y = self.dropping(concat_elu(y), deterministic=not (train or self.is_initializing()))
        a, b = jnp.split(self.second(y) + bias, 2, axis=-1)
        return x + a * nn.sigmoid(b)


class Level(nn.Module):
    """The blocks of both streams at one size, and between the way down and the way up the level of half that size.

    Attributes:
        depth: levels below this one.
        features: channels of both streams.
        num_blocks: blocks of a stream on the way down, and at the coarsest level up; elsewhere one more up.
        dropout: rate of dropout, in training.
        dtype: dtype of the computation.
    """

    depth: int
    features: int
    num_blocks: int
    dropout: float
    dtype: DTypeLike

    def setup(self):
        """Creates the layers."""
        n, downs, ups = self.features, self.num_blocks, self.num_blocks + (self.depth > 0)
        norm = partial(WeightNorm, features=n, dtype=self.dtype)
        block = partial(Block, features=n, dropout=self.dropout, dtype=self.dtype)
        rows = partial(block, rows_conv, (2, 3))
        pixels = partial(block, raster_conv, (2, 2))
        self.rows_down = [rows(short_cut=False) for _ in range(downs)]
        self.rows_up = [rows(short_cut=True) for _ in range(ups)]
        self.pixels_down = [pixels(short_cut=False) for _ in range(downs)]
        self.pixels_up = [pixels(short_cut=True) for _ in range(ups)]
        self.links = [norm(dense) for _ in range(downs + ups)]
        if self.depth:
            self.shrink_rows = norm(shrink_rows, kernel_size=(2, 3))
            self.grow_rows = norm(grow_rows, kernel_size=(2, 3))
            self.shrink_pixels = norm(shrink_pixels, kernel_size=(2, 2))
            self.grow_pixels = norm(grow_pixels, kernel_size=(2, 2))
            self.coarse = Level(self.depth - 1, n, self.num_blocks, self.dropout, self.dtype)

    def __call__(self, u: Array, h: Array, biases: list[Biases], train: bool) -> tuple[Array, Array]:
        """The next features of both streams, `Float[b, h, w, features]` each, at the same size."""
        of_rows, of_pixels = (iter(part) for part in biases[0])
        links = iter(self.links)
        stored_rows, stored = [u], [h]

        def pair(rows: Block, pixels: Block, earlier: tuple[Array | None, Array | None] = (None, None)) -> None:
            nonlocal u, h
            u = rows(u, next(of_rows), train, earlier=earlier[0])
            h = pixels(h, next(of_pixels), train, link=next(links)(concat_elu(u)), earlier=earlier[1])

        for rows, pixels in zip(self.rows_down, self.pixels_down, strict=True):
            pair(rows, pixels)
            stored_rows.append(u)
            stored.append(h)
        if self.depth:
            u, h = self.coarse(self.shrink_rows(u), self.shrink_pixels(h), biases[1:], train)
            u, h = self.grow_rows(u), self.grow_pixels(h)
        else:
            stored_rows.pop()
            stored.pop()
        for rows, pixels in zip(self.rows_up, self.pixels_up, strict=True):
            pair(rows, pixels, (stored_rows.pop(), stored.pop()))
        return u, h


class PixelCNNPP(nn.Module):
    """PixelCNN++ for images `Int[b, h, w, channels]`, of a size that `period` divides.

    Attributes:
        output: the mixture; of one channel of a pixel given those before it.
        channels: channels of the image.
        features: channels of both streams.
        num_blocks: gated residual blocks on the way down at each size, as on the way up at the smallest.
        num_levels: sizes, each half the one before.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None; a map enters the smaller sizes as
            means of blocks.
        dropout: rate of dropout within each block, in training.
        dtype: dtype of the computation; parameters are float32.
    """

    output: distributions.DiscretizedLogisticMixture = distributions.DiscretizedLogisticMixture()
    channels: int = 3
    features: int = 160
    num_blocks: int = 5
    num_levels: int = 3
    conditioning: Any = None
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the layers."""
        norm = partial(WeightNorm, features=self.features, dtype=self.dtype)
        self.first_rows = norm(rows_conv, kernel_size=(2, 3))
        self.first_above = norm(rows_conv, kernel_size=(1, 3))
        self.first_left = norm(raster_conv, kernel_size=(2, 1))
        self.level = Level(self.num_levels - 1, self.features, self.num_blocks, self.dropout, self.dtype)
        if self.conditioning is not None:
            width = 4 * self.features * sum(self._num_pairs())
            init = nn.initializers.normal(0.05)
            self.projection = nn.Dense(width, use_bias=False, kernel_init=init, dtype=self.dtype)
        joint = self.output.num_joint_params(self.channels)
        self.head = WeightNorm(dense, joint, init_scale=0.1, dtype=self.dtype)

    @property
    def period(self) -> int:
        """Rows and columns after which all layers have run."""
        return 2 ** (self.num_levels - 1)

    def _num_pairs(self) -> list[int]:
        """Pairs of blocks, one of each stream, by level."""
        return [2 * self.num_blocks + (level + 1 < self.num_levels) for level in range(self.num_levels)]

    def __call__(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Images `Int[b, h, w, channels]` to parameters `Float[b, h, w, channels, 3 num_mixtures]`."""
        check_images(x, self.channels)
        if x.shape[1] % self.period or x.shape[2] % self.period:
            raise ValueError(
                f"with {self.num_levels} levels {self.period} has to divide height and width, got {x.shape}"
            )
        above, left = (scale(entry_shift(x, axis), self.output.levels, self.dtype) for axis in (1, 2))
        h = self.first_above(above) + self.first_left(left)
        _, h = self.level(self.first_rows(above), h, self.condition(cond, x), train)
        joint = self.head(nn.elu(h)).astype(jnp.float32)
        return self.output.of_channels(joint, x)

    def condition(self, cond: Any, x: Array) -> list[Biases]:
        """The biases of the blocks of both streams, by level: `Float[b or 1, h or 1, w or 1, 2 features]`."""
        pairs, width = self._num_pairs(), 2 * self.features
        s = condition(self.conditioning, cond)
        if s is None:
            absent = jnp.zeros((1, 1, 1, width), self.dtype)
            return [([absent] * count, [absent] * count) for count in pairs]
        check_size(s, x)
        biases: list[Biases] = []
        first = 0
        for level, count in enumerate(pairs):
            blocks = [s] if s.shape[1:3] == (1, 1) else parts.split(s, (2**level, 2**level))
            every = jnp.split(self.projection(sum(blocks[1:], blocks[0]) / len(blocks)), 2 * sum(pairs), axis=-1)
            biases.append((every[first : first + count], every[first + count : first + 2 * count]))
            first += 2 * count
        return biases
