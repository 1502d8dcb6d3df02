"""Subscale pixel networks, Menick and Kalchbrenner (2019), arXiv 1812.01608.

An image is cut into interleaved slices, every S-th pixel of every S-th row, which are generated one after the
other in raster order of their first pixels, each pixel by pixel. One decoder serves all slices; a network without
masks tells it of the slices before. Nothing is independent of anything before it, so only the order differs from
that of a model of the whole image; but attention is over a slice, and training needs the memory of one slice.

Size upscaling: the first slice is a small image, which may have a model of its own. Depth upscaling
(`DepthUpscaling`): the most significant bits of all values come first, the others given them.

The parts may lie in time as well: a slice of a sequence is every S-th position, and of a short video whose frames
are the channels of an image, every S-th frame (as in Weissenborn et al., 2020, arXiv 1906.02634).

Deviations: the network without masks sees the slices before on the full grid, from where the present slice lies,
and a one-hot code of its number (in the paper the slices before are padded to the same end); the decoder is any
conditional model, of which `PixelSNAIL` with a map is next to the paper's; stages are trained at once.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from arjax import distributions, parts
from arjax.decoding import Draw, Drawn, Part, Plan, undrawn
from arjax.layers import ABSENT, condition, scale
from arjax.models import stages


class Subscale(nn.Module):
    """Interleaved slices of events `Int[b, *event]`, one after the other.

    In training, with the rng stream "masks", the log-probability of an example is estimated by that of one slice,
    drawn at random, times the number of slices: without bias.

    Attributes:
        factors: of each axis of an event, how many slices share it: `(S, S, 1)` of images, `(S,)` of sequences,
            `(1, 1, S)` of videos whose frames are channels.
        decoder: the model of a slice, whose `cond` is what `context` makes, such as `arjax.layers.Map`.
        context: `arjax.layers.Context`, from what is known of the whole to the features of a slice.
        first: the model of the first slice; None for the decoder.
        conditioning: what `cond` is, see `arjax.layers.conditioning`, or None; it enters by the context. If it is
            none, `first` is unconditional, else as the decoder.
    """

    factors: tuple[int, ...]
    decoder: Any
    context: Any
    first: Any = None
    conditioning: Any = None

    def setup(self):
        """Raises `ValueError` unless there are two slices or more."""
        if self.count < 2:
            raise ValueError(f"factors of 2 slices or more are wanted, got {self.factors}")

    @property
    def output(self) -> Any:
        """The distribution of a value."""
        return self.decoder.output

    @property
    def count(self) -> int:
        """Number of slices."""
        return math.prod(self.factors)

    def log_prob(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """The log-probability of `Int[b, *event]`, in nats: `Float[b]`; in training an estimate."""
        s = self._condition(x, cond)
        if not (train and self.has_rng("masks")):
            return stages.total(self.log_probs(x, cond, train=train))
        start = int(self.first is not None)
        index = jax.random.randint(self.make_rng("masks"), (len(x),), start, self.count, jnp.int32)
        slices = jnp.stack(parts.split(x, self.factors), 1)
        own = jax.vmap(lambda slices, i: lax.dynamic_index_in_dim(slices, i, 0, keepdims=False))(slices, index)
        estimate = (self.count - start) * self._log_prob(own, x, index, s, train)
        return estimate + self._log_prob_of_first(slices[:, 0], x, s, train) if start else estimate

    def log_probs(self, x: Array, cond: Any = None, *, train: bool = False) -> dict[str, Array]:
        """The log-probability of each slice given those before it, by its number: `Float[b]` each, in nats."""
        s, start = self._condition(x, cond), int(self.first is not None)
        slices = parts.split(x, self.factors)
        index = jnp.repeat(jnp.arange(start, self.count, dtype=jnp.int32), len(x))
        # All slices at once, as a larger batch.
        x_of_each, s_of_each = jax.tree.map(lambda a: jnp.concatenate([a] * (self.count - start)), (x, s))
        each = self._log_prob(jnp.concatenate(slices[start:]), x_of_each, index, s_of_each, train)
        found = [self._log_prob_of_first(slices[0], x, s, train)] if start else []
        return {str(i): own for i, own in enumerate([*found, *each.reshape(-1, len(x))])}

    def generate(self, draw: Draw, plan: Plan, cond: Any = None) -> Drawn:
        """Slice after slice, each by the decoder's own sampler."""
        noise = plan.noise
        s, batch = self._condition(noise, cond), len(noise)
        plans = plan.map(lambda array: jnp.stack(parts.split(array, self.factors)))
        start = int(self.first is not None)
        slices = jnp.full(plans.noise.shape, ABSENT, jnp.int32)
        module, variables = self.unbind()

        def next_slice(slices: Array, step: tuple[Array, Plan]) -> tuple[Array, Drawn]:
            index, plan = step
            bound = module.bind(variables)
            x = parts.join(list(slices), self.factors)
            given = bound._given(x, jnp.full(batch, index, jnp.int32), s, False)
            drawn = draw.stage(bound.decoder, plan, given)
            return lax.dynamic_update_index_in_dim(slices, drawn.values, index, 0), drawn

        drawn = []
        if start:
            drawn.append(draw.stage(self.first, plans.at(0), self._given_to_first(noise, s, False)))
            slices = slices.at[0].set(drawn[0].values)
        steps = jnp.arange(start, self.count, dtype=jnp.int32), plans.at(slice(start, None))
        slices, others = lax.scan(next_slice, slices, steps)
        log_probs = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), others.log_probs)
        passes = jax.tree.map(lambda leaf: leaf.sum(dtype=jnp.int32), others.iterations)
        values = parts.join(list(slices), self.factors)
        return stages.chained(values, *drawn, Drawn(None, log_probs, passes))

    def _condition(self, x: Array, cond: Any) -> Array | None:
        axes = _places(x.shape[1:])
        s, places = condition(self.conditioning, cond, axes), x.shape[1 : 1 + axes]
        if s is not None and s.shape[1:-1] not in ((1,) * axes, places):
            raise ValueError(f"cond: features of the places {places} are wanted, got {s.shape[1:-1]}")
        return s

    def _log_prob(self, own: Array, x: Array, index: Array, s: Array | None, train: bool) -> Array:
        """Of the slices `own` of each example, which have the numbers `index`, given those before."""
        return stages.log_prob(self.decoder, own, self._given(x, index, s, train), train=train)

    def _log_prob_of_first(self, own: Array, x: Array, s: Array | None, train: bool) -> Array:
        return stages.log_prob(self.first, own, self._given_to_first(x, s, train), train=train)

    def _given_to_first(self, x: Array, s: Array | None, train: bool) -> Array | None:
        return None if s is None else self._given(x, jnp.zeros(len(x), jnp.int32), s, train)

    def _given(self, x: Array, index: Array, s: Array | None, train: bool) -> Array:
        """What the decoder of slice `index`, `Int[b]`, is given: what the context makes of the slices before it.

        It sees what is known, and where, on the full grid, cut into cells whose first place is the slice's.
        """
        event, axes = x.shape[1:], _places(x.shape[1:])
        phases = [i % factor for i, factor in zip(np.indices(event), self.factors, strict=True)]
        order = jnp.asarray(np.ravel_multi_index(phases, self.factors), jnp.int32)[None]
        known = jnp.where(order < index.reshape(-1, *[1] * len(event)), x.astype(jnp.int32), ABSENT)
        codes = scale(known[..., None], self.output.levels)
        cells = [self._cells(codes[..., i], index, self.factors) for i in range(2)]
        if s is not None:
            everywhere = jnp.broadcast_to(s, (len(x), *event[:axes], s.shape[-1]))
            cells.append(self._cells(everywhere, index, self.factors[:axes]))
        cells = [cell.reshape(*cell.shape[: 1 + axes], -1) for cell in cells]
        number = jax.nn.one_hot(index, self.count, dtype=jnp.float32).reshape(-1, *[1] * axes, self.count)
        number = jnp.broadcast_to(number, (*cells[0].shape[:-1], self.count))
        features = self.context(jnp.concatenate([*cells, number], -1), train)
        own = tuple(slice(int(factor > 1), None) for factor in self.factors[:axes])
        return features[:, *own]

    def _cells(self, array: Array, index: Array, factors: tuple[int, ...]) -> Array:
        """An array `(b, *event, ...)` as seen from slice `index`, cut into cells whose first place is the slice's.

        Along each axis there is a cell before those, which begin where the slice does, and zeros stand beyond the
        event. `(b, *cells, ..., places of a cell)`.
        """
        firsts = np.stack(np.unravel_index(np.arange(self.count), self.factors), -1)[:, : len(factors)]
        starts = jnp.take(jnp.asarray(firsts, jnp.int32), index, axis=0)
        margins = [factor if factor > 1 else 0 for factor in factors] + [0] * (array.ndim - 1 - len(factors))

        def of_one(array: Array, start: Array) -> Array:
            padded = jnp.pad(array, [(margin, margin) for margin in margins])
            sizes = [side + margin for side, margin in zip(array.shape, margins, strict=True)]
            corner = [*start, *[jnp.int32(0)] * (array.ndim - len(factors))]
            return lax.dynamic_slice(padded, corner, sizes)

        return jnp.stack(parts.split(jax.vmap(of_one)(array, starts), factors), -1)


class DepthUpscaling(nn.Module):
    """The most significant bits of all values, then the others: integers of `2**n` levels.

    A sample is a dictionary of the data, `x`, and their most significant bits, `high`. The likelihood is exact.

    Attributes:
        high: the model of the most significant bits, of `2**k` levels.
        low: the model of the others, of `2**(n - k)` levels, whose `cond` is what `context` makes, such as
            `arjax.layers.Map`; a `Subscale` network takes it by its own `conditioning`.
        context: `arjax.layers.Context`, from the most significant bits to features of the same places.
    """

    high: Any
    low: Any
    context: Any

    @property
    def output(self) -> Any:
        """A distribution of as many levels as the data have, by which none is drawn."""
        return distributions.Categorical(self.high.output.levels * self.low.output.levels)

    @property
    def conditioning(self) -> Any:
        """What the whole is conditioned on: that of `high`."""
        return getattr(self.high, "conditioning", None)

    @property
    def view(self) -> parts.HighBits:
        """The most significant bits. Raises `ValueError` unless both levels are powers of 2."""
        return parts.HighBits(self.high.output.levels.bit_length() - 1, self.output.levels)

    def parts(self, shape: tuple[int, ...]) -> dict[str, Part]:
        """The parts of a sample by name, `x` being the data of `shape`."""
        return {"high": Part(shape, self.high.output.levels), "x": Part(shape, self.output.levels)}

    def log_prob(self, x: Array, cond: Any = None, *, train: bool = False) -> Array:
        """The log-probability of `Int[b, *event]`, in nats: `Float[b]`."""
        return stages.total(self.log_probs(x, cond, train=train))

    def log_probs(self, x: Array, cond: Any = None, *, train: bool = False) -> dict[str, Array]:
        """That of the most significant bits, `high`, and of the others given them, `low`: `Float[b]` each."""
        high, low = parts.split_bits(x, self.view.levels, self.view.bits)
        return {
            "high": stages.log_prob(self.high, high, cond, train=train),
            "low": stages.log_prob(self.low, low, self._given(high, cond, train), train=train),
        }

    def generate(self, draw: Draw, plan: Plan, cond: Any = None) -> Drawn:
        """The most significant bits, then the others; `plan` is of `high` and of `x`."""
        plan = stages.completed(plan, [self.view])
        levels, bits = self.view.levels, self.view.bits
        first, second = (Plan(*(None if tree is None else tree[name] for tree in plan)) for name in ("high", "x"))
        if second.values is not None:
            second = second._replace(values=parts.split_bits(second.values, levels, bits)[1])
        high = draw.stage(self.high, first, cond)
        low = draw.stage(self.low, second, self._given(high.values, cond, train=False))
        drawn = (high.values >= 0) & (low.values >= 0)
        x = jnp.where(drawn, parts.join_bits(high.values, low.values, levels, bits), undrawn(levels))
        return stages.chained({"high": high.values, "x": x}, high, low)

    def check_plan(self, plan: Plan) -> None:
        """Raises `ValueError` where evidence on the most significant bits contradicts that on the data."""
        stages.check_views(plan, [self.view])

    def _given(self, high: Array, cond: Any, train: bool) -> Array:
        """The `cond` of the second stage."""
        axes = _places(high.shape[1:])
        codes = scale(high[..., None], self.high.output.levels)
        return self.context(stages.with_cond(codes.reshape(*high.shape[: 1 + axes], -1), self.high, cond), train)


def _places(event: tuple[int, ...]) -> int:
    """How many axes of an event are of places: all but the channels, which events of 3 axes and more have."""
    return len(event) - (len(event) > 2)
