"""Autoregressive transformer over texts, and over images in any order.

Blocks of masked self-attention and dense layers (Vaswani et al., 2017, arXiv 1706.03762) with the normalisation
first (Radford et al., 2019), dense or in the sparse patterns of Child et al. (2019), arXiv 1904.10509, whose
scale of the residual outputs and whose sums of embeddings along the axes of an image it has. A position of an
image is a channel of a pixel (Child et al.; Chen et al., 2020, iGPT), or a whole pixel under a mixture (Parmar et
al., 2018, arXiv 1802.05751, section 3.3).

In an order other than raster a network has to be told not only where the value it reads lies but also which one
comes next (as in sigma-GPT, Pannatier et al., 2024, arXiv 2404.09562): both are embedded, or keys are rotated
by the place of what is read and queries by the place of what comes next (RoFormer, Su et al., 2021, arXiv
2104.09864, an equal share of the channels for each axis). So one set of weights serves any order.

Deviations: of a sparse pattern's two kinds of keys every head sees the union; positions are not embedded by their
place in a sparse block; a condition is added to what enters.
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from arjax import distributions, orderings
from arjax.layers import Attention, Dense, Embedding, condition, entry_shift, scale


class Block(nn.Module):
    """Attention and two dense layers, each added to what it is given.

    Attributes:
        size: positions of an event.
        pattern: of the attention.
        num_heads: heads of the attention.
        num_key_heads: heads of its keys and values, 0 for as many.
        init_scale: variance of the outputs of both, relative to their inputs'.
        dropout: rate of dropout of both, in training.
        dtype: dtype of the computation.
    """

    size: int
    pattern: Any
    num_heads: int
    num_key_heads: int
    init_scale: float
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, h: Array, rotations: tuple[Array, Array] | None, train: bool) -> Array:
        """`Float[b, t, d]`, likewise; `rotations` of queries and keys, `Float[t, 2, d / heads / 2]`."""
        d, init = h.shape[-1], nn.initializers.variance_scaling(self.init_scale, "fan_in", "truncated_normal")
        dropping = nn.Dropout(self.dropout, deterministic=not train)
        key_heads = self.num_key_heads or self.num_heads
        shared = d // self.num_heads * key_heads
        qkv = nn.Dense(d + 2 * shared, dtype=self.dtype)(nn.LayerNorm()(h.astype(jnp.float32)))
        q, k, v = jnp.split(qkv, [d, d + shared], axis=-1)
        if rotations is not None:
            q, k = _rotated(q, rotations[0], self.num_heads), _rotated(k, rotations[1], key_heads)
        y = Attention(self.size, self.pattern, self.num_heads, key_heads)(q, k, v)
        h = h + dropping(nn.Dense(d, kernel_init=init, dtype=self.dtype)(y))
        y = nn.gelu(nn.Dense(4 * d, dtype=self.dtype)(nn.LayerNorm()(h.astype(jnp.float32))))
        return h + dropping(nn.Dense(d, kernel_init=init, dtype=self.dtype)(y))


class Transformer(nn.Module):
    """Transformer over events of any shape, `Int[b, *event]`.

    The order of an order-agnostic model is that of `variables["masks"] = {"seed": Int[]}` (0 if absent), of which
    training draws a new one from the rng stream "masks" for every batch. Whatever the model, an order may be given
    as `variables["masks"] = {"ranks": Int[n]}`.

    Attributes:
        event: shape of an event; of texts, `(length,)`, at most that many positions.
        output: the distribution of a value.
        channels: 0 where every value is a position; else the last axis of an event, the values of one position,
            under a mixture: `DiscretizedLogisticMixture`.
        features: channels of every layer, which `num_heads` divides.
        num_layers: blocks.
        num_heads: heads of every attention.
        num_key_heads: heads of its keys and values, 0 for as many; with fewer, samples cost less.
        patterns: which earlier positions are seen (see `arjax.layers.attention`), of the blocks in turn.
        ordering: rank of each position (see `arjax.orderings`), flattened; None is raster order.
        order_agnostic: whether the order depends on the seed instead.
        positions: "learned" embeddings, or "rotary" queries and keys.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None for an unconditional model.
        dropout: rate of dropout, in training.
        dtype: dtype of the computation, but for norms and softmax; parameters are float32.
    """

    event: tuple[int, ...]
    output: Any = distributions.Categorical(256)
    channels: int = 0
    features: int = 256
    num_layers: int = 6
    num_heads: int = 4
    num_key_heads: int = 0
    patterns: tuple[Any, ...] = (Dense(),)
    ordering: tuple[int, ...] | None = None
    order_agnostic: bool = False
    positions: Literal["learned", "rotary"] = "learned"
    conditioning: Any = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the layers. Raises `ValueError` if the settings do not fit each other."""
        self._check_settings()
        d, small = self.features, nn.initializers.normal(0.02)
        values = nn.Dense(d, dtype=self.dtype) if self.channels else Embedding(self.output.levels, d, self.dtype)
        self.embedding: nn.Module = values
        if self.positions == "learned":
            even = nn.initializers.normal(
                1 / math.sqrt(2 * len(self.places))
            )  # a sum as large as a value's vector
            self.place_embeddings = self.param("places", even, (2, sum(self.places), d), jnp.float32)
        if self.conditioning is not None:
            self.projection = nn.Dense(
                d, use_bias=False, kernel_init=nn.initializers.normal(0.05), dtype=self.dtype
            )
        self.blocks = [
            Block(
                self.size,
                self.patterns[i % len(self.patterns)],
                self.num_heads,
                self.num_key_heads,
                1 / (2 * self.num_layers),
                self.dropout,
                self.dtype,
            )
            for i in range(self.num_layers)
        ]
        self.dropping = nn.Dropout(self.dropout)
        self.norm = nn.LayerNorm()
        joint = self.output.num_joint_params(self.channels) if self.channels else self.output.num_params
        self.head = nn.Dense(joint, kernel_init=small, dtype=self.dtype)

    def _check_settings(self) -> None:
        if self.features % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide {self.features} features")
        if self.num_key_heads and self.num_heads % self.num_key_heads:
            raise ValueError(f"{self.num_key_heads} heads of keys do not divide {self.num_heads} heads")
        if self.positions not in ("learned", "rotary"):
            raise ValueError(f"positions are 'learned' or 'rotary', got {self.positions!r}")
        if self.positions == "rotary" and self.features // self.num_heads < 2 * len(self.places):
            raise ValueError(
                f"heads of {2 * len(self.places)} channels or more are wanted for rotary positions of "
                f"{len(self.places)} axes, got {self.features // self.num_heads}"
            )
        if self.channels and self.event[-1:] != (self.channels,):
            raise ValueError(f"{self.channels} channels are the last axis of an event, got {self.event}")
        if self.channels and not hasattr(self.output, "of_channels"):
            raise ValueError(f"a mixture over all channels of a pixel is wanted, got {self.output}")
        if self.ordering is not None and self.order_agnostic:
            raise ValueError("an order-agnostic model has no ordering")

    @property
    def places(self) -> tuple[int, ...]:
        """The shape of the positions of an event."""
        return self.event[:-1] if self.channels else self.event

    @property
    def size(self) -> int:
        """Number of positions."""
        return math.prod(self.places)

    def __call__(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """Data `Int[b, *event]` to parameters `Float[b, *event, num_params]`.

        Texts may be shorter than an event.
        """
        ranks = self._order(train)
        shorter = len(self.event) == 1 and ranks is None and x.ndim == 2 and x.shape[1] <= self.size
        if x.shape[1:] != self.event and not shorter:
            raise ValueError(f"events of shape {self.event} are wanted, got {x.shape[1:]}")
        values = x.reshape(x.shape[0], -1, *self.event[len(self.places) :])
        if ranks is None:
            params = self.in_order(values, cond, train=train)
        else:
            values = jnp.take(values, orderings.inverse(ranks), axis=1)
            params = jnp.take(self.in_order(values, cond, ranks, train=train), ranks, axis=1)
        return params.reshape(*x.shape, -1)

    def condition(self, cond: Any, ranks: Array | None = None) -> Array | None:
        """What is added at each position's entry, in the order of generation: `Float[b, t or 1, features]`."""
        s = condition(self.conditioning, cond, axes=len(self.places))
        if s is None:
            return None
        s = self.projection(s).reshape(s.shape[0], -1, self.features)
        ranks = self._order(train=False) if ranks is None else ranks
        if s.shape[1] == 1 or ranks is None:
            return s
        if s.shape[1] != self.size:
            raise ValueError(f"cond: features of the event's {self.places} places are wanted, got {s.shape[1]}")
        return jnp.take(s, orderings.inverse(ranks), axis=1)

    def in_order(self, x: Array, cond: Any = None, ranks: Array | None = None, *, train: bool = False) -> Array:
        """Parameters of the positions `Int[b, t]`, `Int[b, t, channels]` of pixels, in the order of generation.

        `Float[b, t, num_params]`; of pixels `Float[b, t, channels, num_params]`.
        """
        ranks = self._order(train=False) if ranks is None else ranks
        context = self.condition(cond, ranks)
        length = x.shape[1]
        before = entry_shift(x, 1, self.output.levels)
        if self.channels:
            before = scale(before, self.output.levels, self.dtype)
        h = self.embedding(before)
        rotations = None
        if self.positions == "learned":
            h = h + self._embedded(ranks)[None, :length]
        else:
            angles = self._angles(ranks)
            rotations = angles[1 : length + 1], angles[:length]
        if context is not None:
            h = h + context
        h = self.dropping(h, deterministic=not train)
        for block in self.blocks:
            h = block(h, rotations, train)
        params = self.head(self.norm(h.astype(jnp.float32))).astype(jnp.float32)
        return self.output.of_channels(params, x) if self.channels else params

    def ranks(self) -> Array:
        """The step at which each value of an event is generated. Shape `(n,)`."""
        ranks = self._order(train=False)
        ranks = jnp.arange(self.size, dtype=jnp.int32) if ranks is None else ranks
        return orderings.colours(ranks, self.channels).ravel() if self.channels else ranks

    def _order(self, train: bool) -> Array | None:
        """The rank of each position, None in raster order."""
        if self.has_variable("masks", "ranks"):
            given = jnp.asarray(self.get_variable("masks", "ranks")).ravel()
            if given.shape != (self.size,):
                raise ValueError(f"ranks of {self.size} positions are wanted, got {given.shape}")
            return given
        if self.order_agnostic:
            if train and self.has_rng("masks"):
                return orderings.random(self.make_rng("masks"), (self.size,))
            seed = self.get_variable("masks", "seed", jnp.int32(0))
            return orderings.random(jax.random.key(seed), (self.size,))
        return (
            None if self.ordering is None else jnp.asarray(orderings.check(self.ordering, (self.size,)), jnp.int32)
        )

    def _axes(self, ranks: Array | None) -> Array:
        """The index along each axis of the positions in the order of generation, `Int[n, axes]`."""
        index = jnp.asarray(np.stack(np.unravel_index(np.arange(self.size), self.places), -1), jnp.int32)
        return index if ranks is None else jnp.take(index, orderings.inverse(ranks), axis=0)

    def _embedded(self, ranks: Array | None) -> Array:
        """The sum of embeddings of what is read and of what comes next, along all axes: `Float[n, features]`."""
        first = np.cumsum((0, *self.places[:-1]))
        rows = self._axes(ranks) + jnp.asarray(first, jnp.int32)[None]
        read, following = self.place_embeddings.astype(self.dtype)
        read, following = (jnp.take(table, rows, axis=0).sum(1) for table in (read, following))
        return following + jnp.pad(read[:-1], ((1, 0), (0, 0)))

    def _angles(self, ranks: Array | None) -> Array:
        """Cosines and sines of what is read at each step; in the row after it, of what comes next.

        `Float[n + 1, 2, channels of a head / 2]`; channels that the axes do not share evenly are not rotated.
        """
        pairs = self.features // self.num_heads // 2
        share = pairs // len(self.places)
        frequencies = 10_000.0 ** (-np.arange(share) / share)
        angles = (
            self._axes(ranks)[..., None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)[None, None]
        )
        angles = angles.reshape(self.size, -1)
        angles = jnp.pad(angles, ((1, 0), (0, pairs - angles.shape[1])))
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1).astype(self.dtype)


def _rotated(x: Array, angles: Array, num_heads: int) -> Array:
    """Pairs of channels of every head rotated by `angles`, cosines and sines `Float[t, 2, pairs]`."""
    cosines, sines = (angles[None, :, i, None] for i in range(2))
    heads = x.reshape(*x.shape[:2], num_heads, -1)
    pairs = angles.shape[-1]
    first, second, rest = heads[..., :pairs], heads[..., pairs : 2 * pairs], heads[..., 2 * pairs :]
    turned = [first * cosines - second * sines, first * sines + second * cosines, rest]
    return jnp.concatenate(turned, -1).reshape(x.shape)
