"""Self-attention in the order of generation, and which earlier positions it reaches.

Patterns are dense, or sparse after Child et al. (2019), "Generating long sequences with sparse transformers",
arXiv 1904.10509, section 4, with one head for the union of what they give to two. Positions are counted in the
order of generation, so that all hold for any ordering.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from arjax import masks
from arjax.layers.incremental import Part, is_incremental, recall

CHUNK = 256
"""Queries at most whose scores are in memory at once."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """All earlier positions. The other patterns have its methods."""

    def sees(self, keys: Any, queries: Any, *, strict: bool) -> Any:
        """Who sees whom, by positions `Int[n]` and `Int[t]`: a mask of shape `(n, t)`."""
        return masks.attention(keys, queries, strict=strict)

    def earliest(self, query: int) -> int:
        """A position before which none is seen from `query` on."""
        return 0

    def slots(self, size: int) -> int:
        """Positions of an event of `size` that have to be remembered."""
        return size

    def together(self, position: Array, size: int) -> Array | None:
        """Positions `Int[n]` that a block of queries from `position` on reads; None for all remembered."""
        return None

    def apart(self, queries: Array, size: int) -> Array | None:
        """Positions `Int[t, n]` that each of a block's `queries` reads besides; None for none."""
        return None


@dataclasses.dataclass(frozen=True)
class Local(Dense):
    """The `window` latest positions, the present one included. A step costs O(window)."""

    window: int

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"a window of 1 or more is wanted, got {self.window}")

    def sees(self, keys: Any, queries: Any, *, strict: bool) -> Any:
        """As `Dense.sees`."""
        return masks.local_attention(keys, self.window, queries, strict=strict)

    def earliest(self, query: int) -> int:
        """As `Dense.earliest`."""
        return max(query - self.window + 1, 0)

    def slots(self, size: int) -> int:
        """As `Dense.slots`."""
        return min(self.window, size)


@dataclasses.dataclass(frozen=True)
class Strided(Dense):
    """The `stride` latest positions, and back from the present one every `stride`-th.

    For images in raster order with the width as stride: the row so far, and the column above. A step costs
    O(stride + size / stride), least with a stride of about the square root of the size.
    """

    stride: int

    def __post_init__(self) -> None:
        _check_stride(self.stride)

    def sees(self, keys: Any, queries: Any, *, strict: bool) -> Any:
        """As `Dense.sees`."""
        near = masks.local_attention(keys, self.stride, queries, strict=strict)
        return near | masks.strided_attention(keys, self.stride, queries, strict=strict)

    def together(self, position: Array, size: int) -> Array | None:
        """The latest positions."""
        return position - self.stride + jnp.arange(1, self.stride)

    def apart(self, queries: Array, size: int) -> Array | None:
        """Those at multiples of the stride, but for what `together` reads."""
        if size <= self.stride:
            return None
        places = queries[:, None] - self.stride * jnp.arange(1, -(-size // self.stride))[None]
        return jnp.where(places <= queries[0] - self.stride, places, -1)


@dataclasses.dataclass(frozen=True)
class Fixed(Dense):
    """The present block of `stride` positions, and the last `summaries` of every block before it.

    A step costs O(stride + summaries * size / stride).
    """

    stride: int
    summaries: int = 1

    def __post_init__(self) -> None:
        _check_stride(self.stride)
        if not 1 <= self.summaries <= self.stride:
            raise ValueError(f"summaries of 1 to the stride {self.stride} are wanted, got {self.summaries}")

    def sees(self, keys: Any, queries: Any, *, strict: bool) -> Any:
        """As `Dense.sees`."""
        return masks.fixed_attention(keys, self.stride, self.summaries, queries, strict=strict)

    def together(self, position: Array, size: int) -> Array | None:
        """The latest positions, and the summaries before them."""
        latest = position - self.stride + jnp.arange(1, self.stride)
        ends = self.stride * jnp.arange(1, -(-size // self.stride))
        summaries = (ends[:, None] - jnp.arange(1, self.summaries + 1)[None]).ravel()
        return jnp.concatenate([latest, jnp.where(summaries <= position - self.stride, summaries, -1)])


class Attention(nn.Module):
    """Every position attends to those before it in the order of generation, in which all that it is given is.

    The parallel pass goes through the queries in chunks, each with the keys that it may reach, and computes
    their scores again for the gradient, so that memory grows with the length, not with its square.

    Attributes:
        size: positions of an event.
        pattern: which of the earlier positions are seen: `Dense`, `Local`, `Strided` or `Fixed`.
        num_heads: heads, which divide the channels of queries, keys and values.
        strict: whether a position does not see itself. The first one, which then sees nothing, gets zeros.
    """

    size: int
    pattern: Any = Dense()
    num_heads: int = 1
    strict: bool = False

    @nn.compact
    def __call__(self, queries: Array, keys: Array, values: Array) -> Array:
        """`Float[b, t, k]`, `Float[b, t, k]` and `Float[b, t, v]` to `Float[b, t, v]`.

        Raises:
            ValueError: there are more positions than an event has.
        """
        batch, length = queries.shape[:2]
        if length > self.size:
            raise ValueError(f"an event has {self.size} positions, got {length}")
        q, k, v = map(self._split, (queries, keys, values))
        if is_incremental(self):
            positions, parts = recall(
                self,
                k,
                v,
                self.pattern.slots(self.size),
                lambda position: self.pattern.together(position, self.size),
                lambda queries: self.pattern.apart(queries, self.size),
            )
            y = attend(q, [(part.keys, part.values, self._mask(part, positions)) for part in parts])
        else:
            y = self._parallel(q, k, v)
        return jnp.moveaxis(y.reshape(batch, self.num_heads, length, -1), 1, 2).reshape(batch, length, -1)

    def _split(self, x: Array) -> Array:
        """`[b, t, c] -> [b * heads, t, c / heads]`: what batched matrix products want."""
        batch, length, _ = x.shape
        x = x.reshape(batch, length, self.num_heads, -1)
        return jnp.moveaxis(x, 2, 1).reshape(batch * self.num_heads, length, -1)

    def _mask(self, part: Part, queries: Array) -> Array:
        if part.positions.ndim == 2:  # read for each query, so seen if it is there
            return part.positions >= 0
        seen = self.pattern.sees(part.positions, queries, strict=self.strict).T
        return seen & (part.positions >= 0)[None]

    def _parallel(self, q: Array, k: Array, v: Array) -> Array:
        length = q.shape[1]
        count = max(-(-length // CHUNK), 1)
        chunk = max(-(-length // count), 1)

        def attend_from(q: Array, k: Array, v: Array, start: int, first: int) -> Array:
            positions, queries = first + jnp.arange(k.shape[1]), start + jnp.arange(q.shape[1])
            return attend(q, [(k, v, self.pattern.sees(positions, queries, strict=self.strict).T)])

        if count > 1:
            attend_from = jax.checkpoint(attend_from, static_argnums=(3, 4))
        chunks = []
        for start in range(0, length, chunk):
            end, first = min(start + chunk, length), self.pattern.earliest(start)
            chunks.append(attend_from(q[:, start:end], k[:, first:end], v[:, first:end], start, first))
        return jnp.concatenate(chunks, 1)


def attend(queries: Array, parts: list[tuple[Array, Array, Array]]) -> Array:
    """Softmax of scaled products over the keys of all `parts`: keys, values, and who sees whom, a mask `(t, n)`.

    Keys and values are `Float[b, n, ...]`, or `Float[b, t, n, ...]` where each query has its own. A query that
    sees nothing gets zeros.
    """

    def product(equation: str, x: Array, y: Array) -> Array:
        own = equation.replace("bn", "btn") if y.ndim == 4 else equation
        return jnp.einsum(own, x, y, preferred_element_type=jnp.float32)

    queries = queries * math.sqrt(1 / queries.shape[-1])
    lowest = jnp.finfo(jnp.float32).min / 2
    scores = [jnp.where(mask[None], product("btk,bnk->btn", queries, keys), lowest) for keys, _, mask in parts]
    maxima = jnp.concatenate([score.max(-1, keepdims=True) for score in scores], -1)
    largest = jax.lax.stop_gradient(maxima.max(-1, keepdims=True))
    weights = [
        jnp.where(mask[None], jnp.exp(score - largest), 0)
        for score, (_, _, mask) in zip(scores, parts, strict=True)
    ]
    total = sum(weight.sum(-1, keepdims=True) for weight in weights)
    y = sum(
        product("btn,bnv->btv", weight.astype(values.dtype), values)
        for weight, (_, values, _) in zip(weights, parts, strict=True)
    )
    total = jnp.where(total > 0, total, 1)  # not `maximum(total, 1)`, which halves the gradient where one is seen
    return (y / total).astype(queries.dtype)


def _check_stride(stride: int) -> None:
    if stride < 2:
        raise ValueError(f"a stride of 2 or more is wanted, got {stride}")
