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

from arjax import distributions
from arjax.layers import check_images, condition, entry_shift, once, scale
from arjax.layers.conv import causal_conv
from arjax.layers.strided import (
    Phase,
    coarser,
    grow_pixels,
    grow_rows,
    raster_conv,
    runs,
    shrink_pixels,
    shrink_rows,
)

Links = dict[str, Any]
"""`blocks`: what each block of the second stream takes from the first, and its bias; `coarse`: those below."""
Biases = tuple[list[Array], list[Array]]
"""For each block of the first and of the second stream."""


def concat_elu(x: Array) -> Array:
    """`elu([x, -x])`, twice the channels."""
    return nn.elu(jnp.concatenate([x, -x], -1))


def dense(module: nn.Module, x: Array, kernel: Array) -> Array:
    """A 1 x 1 convolution."""
    return x @ kernel


def _rows_conv(module: nn.Module, x: Array, kernel: Array) -> Array:
    return causal_conv(module, x, kernel, axis=1)


class WeightNorm(nn.Module):
    """`operation` with the kernel `scale * v / |v|` and a bias, Salimans and Kingma (2016).

    At initialisation `scale` and `bias` are such that each output has mean 0 and standard deviation `init_scale`
    over the batch.

    Attributes:
        operation: `(module, x, kernel, *phases)` to features.
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
    def __call__(self, x: Array, *phases: Phase) -> Array:
        """Maps `Float[b, *places, in]` to `Float[b, *places', features]`."""
        v = self.param(
            "v", nn.initializers.normal(0.05), (*self.kernel_size, x.shape[-1], self.features), jnp.float32
        )
        axes = tuple(range(v.ndim - 1))
        unit = v * lax.rsqrt(jnp.sum(v**2, axes, keepdims=True))
        if self.is_initializing():
            y = self.operation(self, x.astype(jnp.float32), unit, *phases)
            axes = tuple(range(y.ndim - 1))
            mean = y.mean(axes, keepdims=True)
            scale = self.init_scale * lax.rsqrt(y.var(axes, keepdims=True) + 1e-10)
            self.param("scale", lambda _: scale.ravel())
            self.param("bias", lambda _: (-mean * scale).ravel())
            return ((y - mean) * scale).astype(self.dtype)
        scale, bias = (
            self.param(name, nn.initializers.zeros, (self.features,), jnp.float32) for name in ("scale", "bias")
        )
        kernel = once(self, "kernel", lambda: (unit * jnp.broadcast_to(scale, v.shape)).astype(self.dtype))
        y = self.operation(self, x.astype(self.dtype), kernel, *phases)
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
        rows = partial(block, _rows_conv, (2, 3))
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

    def rows(self, u: Array, context: list[Biases], phase: Phase, train: bool) -> tuple[Array, Links]:
        """The stream that reads the rows above, and what the other one takes from each of its blocks."""
        biases_of_rows, biases_of_pixels = context[0]
        biases = iter(biases_of_rows)
        outputs, stored, links_below = [], [u], None
        for block in self.rows_down:
            u = block(u, next(biases), train)
            outputs.append(u)
            stored.append(u)
        if self.depth:
            coarse = self.shrink_rows(u)
            if runs(phase):
                coarse, links_below = self.coarse.rows(coarse, context[1:], coarser(phase), train)
            u = self.grow_rows(coarse, phase)
        else:
            stored.pop()
        for block in self.rows_up:
            u = block(u, next(biases), train, earlier=stored.pop())
            outputs.append(u)
        links = [link(concat_elu(u)) for link, u in zip(self.links, outputs, strict=True)]
        return u, {"blocks": list(zip(links, biases_of_pixels, strict=True)), "coarse": links_below}

    def pixels(self, h: Array, links: Links, row: Phase, column: Phase, train: bool) -> Array:
        """The stream that also reads the pixels on the left."""
        blocks = iter(links["blocks"])
        stored = [h]
        for block in self.pixels_down:
            link, bias = next(blocks)
            h = block(h, bias, train, link=link)
            stored.append(h)
        if self.depth:
            coarse = self.shrink_pixels(h, row)
            if runs(row, column):
                coarse = self.coarse.pixels(coarse, links["coarse"], coarser(row), coarser(column), train)
            h = self.grow_pixels(coarse, row, column)
        else:
            stored.pop()
        for block in self.pixels_up:
            link, bias = next(blocks)
            h = block(h, bias, train, link=link, earlier=stored.pop())
        return h


class PixelCNNPP(nn.Module):
    """PixelCNN++ for images `Int[b, h, w, channels]`, of a size that `period` divides.

    Attributes:
        output: the mixture; of one channel of a pixel given those before it.
        channels: channels of the image.
        features: channels of both streams.
        num_blocks: gated residual blocks on the way down at each size, as on the way up at the smallest.
        num_levels: sizes, each half the one before.
        conditioning: what `cond` is (classes or a vector, see `arjax.layers.conditioning`), or None.
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
        self.first_rows = norm(_rows_conv, kernel_size=(2, 3))
        self.first_above = norm(_rows_conv, kernel_size=(1, 3))
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
        links = self.vertical(x, self.condition(cond), train=train)
        return self.colours(self.horizontal(x, links, train=train), x)

    def condition(self, cond: Any) -> list[Biases]:
        """The biases of the blocks of both streams, by level."""
        pairs, width = self._num_pairs(), 2 * self.features
        s = condition(self.conditioning, cond)
        if s is None:
            biases = [jnp.zeros((1, 1, 1, width), self.dtype)] * (2 * sum(pairs))
        elif s.shape[1:3] == (1, 1):
            biases = jnp.split(self.projection(s), 2 * sum(pairs), axis=-1)
        else:
            raise ValueError(f"cond: what has no location is wanted, got a map of shape {s.shape}")
        rest = iter(biases)
        return [([next(rest) for _ in range(count)], [next(rest) for _ in range(count)]) for count in pairs]

    def vertical(
        self, rows: Array, context: list[Biases], phase: Phase = None, *, train: bool = False
    ) -> tuple[Array, Links]:
        """What the second stream takes from the rows above."""
        x = scale(entry_shift(self, rows, axis=1), self.output.levels, self.dtype)
        _, links = self.level.rows(self.first_rows(x), context, phase, train)
        return self.first_above(x), links

    def horizontal(
        self,
        pixels: Array,
        links: tuple[Array, Links],
        phase: tuple[Phase, Phase] = (None, None),
        *,
        train: bool = False,
    ) -> Array:
        """The joint parameters of each pixel's channels: `Float[b, h, w, num_joint_params]`."""
        above, links_of_blocks = links
        x = scale(entry_shift(self, pixels, axis=2), self.output.levels, self.dtype)
        h = self.level.pixels(above + self.first_left(x), links_of_blocks, *phase, train)
        return self.head(nn.elu(h)).astype(jnp.float32)

    def colours(self, features: Array, pixels: Array) -> Array:
        """Parameters of each channel of `pixels`, which depend on the channels before it."""
        return self.output.of_channels(features, pixels)
