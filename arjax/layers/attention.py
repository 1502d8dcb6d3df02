"""Self-attention in the order of generation, and which earlier positions it reaches.

Patterns are dense, or sparse after Child et al. (2019), "Generating long sequences with sparse transformers",
arXiv 1904.10509, section 4, with one head for the union of what they give to two. Positions are counted in the
order of generation, so that all hold for any ordering.
"""

import dataclasses
import itertools
import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from arjax import masks
from arjax.incremental.attention import attention_step
from arjax.incremental.custom import custom

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


class Attention(nn.Module):
    """Every position attends to those before it in the order of generation, in which all that it is given is.

    The parallel pass goes through the queries in chunks, each with the keys that it may reach, and computes
    their scores again for the gradient, so that memory grows with the length, not with its square. A sampler's
    step reads the keys that its pattern reaches (`arjax.incremental.attention`).

    Attributes:
        size: positions of an event.
        pattern: which of the earlier positions are seen: `Dense`, `Local`, `Strided` or `Fixed`.
        num_heads: heads, which divide the channels of the queries.
        num_key_heads: heads of keys and values, each for an equal share of `num_heads`: what a sampler's step
            has to read shrinks with them (Shazeer, 2019, arXiv 1911.02150); 0 for as many as `num_heads`.
        strict: whether a position does not see itself. The first one, which then sees nothing, gets zeros.
    """

    size: int
    pattern: Any = Dense()
    num_heads: int = 1
    num_key_heads: int = 0
    strict: bool = False

    @nn.compact
    def __call__(self, queries: Array, keys: Array, values: Array) -> Array:
        """`Float[b, t, heads * k]`, `[b, t, key_heads * k]` and `[b, t, key_heads * v]` to `[b, t, heads * v]`.

        Raises:
            ValueError: there are more positions than an event has, or heads that do not divide the channels.
        """
        batch, length = queries.shape[:2]
        if length > self.size:
            raise ValueError(f"an event has {self.size} positions, got {length}")
        key_heads = self.num_key_heads or self.num_heads
        group = self.num_heads // key_heads
        if self.num_heads % key_heads or queries.shape[2] % self.num_heads or values.shape[2] % key_heads:
            raise ValueError(
                f"{self.num_heads} heads, {key_heads} of keys, do not divide each other or the channels "
                f"{queries.shape[2]} of queries, {values.shape[2]} of values"
            )
        q, k, v = (_split(x, key_heads) for x in (queries, keys, values))
        q = jnp.moveaxis(q.reshape(*q.shape[:2], group, -1), 2, 1)
        y = causal_attention(q, k, v, pattern=self.pattern, strict=self.strict)
        return jnp.moveaxis(y.reshape(batch, self.num_heads, length, -1), 1, 2).reshape(batch, length, -1)


def _in_chunks(q: Array, k: Array, v: Array, *, pattern: Any, strict: bool) -> Array:
    """Attention of all positions, `Float[b, g, t, k]`, `[b, t, k]` and `[b, t, v]` to `[b, g, t, v]`."""

    def attend_from(q: Array, k: Array, v: Array, start: int, first: int) -> Array:
        positions = first + jnp.arange(k.shape[1], dtype=jnp.int32)
        queries = start + jnp.arange(q.shape[2], dtype=jnp.int32)
        return attend(q, [(k, v, pattern.sees(positions, queries, strict=strict).T)])

    chunks = _chunks(q.shape[2])
    if len(chunks) > 1:
        attend_from = jax.checkpoint(attend_from, static_argnums=(3, 4))
    attended = []
    for start, end in chunks:
        first = pattern.earliest(start)
        attended.append(attend_from(q[:, :, start:end], k[:, first:end], v[:, first:end], start, first))
    return jnp.concatenate(attended, 2)


def _one_step(level: Any, ins: list[Any], *, pattern: Any, strict: bool) -> Any:
    """The rule of `causal_attention`: a query and the keys that it reaches."""
    return attention_step(level, ins, partial(pattern.sees, strict=strict), attend)


causal_attention = custom(_in_chunks, _one_step)


def attend(queries: Array, parts: list[tuple[Array, Array, Array]]) -> Array:
    """Softmax of scaled products over the keys of all `parts`, computed in float32. `Float[b, g, t, v]`.

    Queries are `Float[b, g, t, k]`; a part is keys `Float[b, n, k]`, values `Float[b, n, v]` and who sees whom, a
    mask `(t, n)`. A query that sees nothing gets zeros.
    """
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    queries = queries * math.sqrt(1 / queries.shape[-1])
    mask = jnp.concatenate([mask for _, _, mask in parts], -1)[None, None]
    scores = jnp.concatenate([product("bgtk,bnk->bgtn", queries, keys) for keys, _, _ in parts], -1)
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min / 2)
    weights = jnp.where(mask, jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))), 0)
    total = weights.sum(-1, keepdims=True)
    total = jnp.where(total > 0, total, 1)  # not `maximum(total, 1)`, which halves the gradient where one is seen
    ends = list(itertools.accumulate(values.shape[1] for _, values, _ in parts))[:-1]
    y = sum(
        product("bgtn,bnv->bgtv", weight.astype(values.dtype), values)
        for weight, (_, values, _) in zip(jnp.split(weights, ends, axis=-1), parts, strict=True)
    )
    return (y / total).astype(queries.dtype)


def _check_stride(stride: int) -> None:
    if stride < 2:
        raise ValueError(f"a stride of 2 or more is wanted, got {stride}")


def _split(x: Array, heads: int) -> Array:
    """`[b, t, c] -> [b * heads, t, c / heads]`: what batched matrix products want."""
    batch, length, _ = x.shape
    return jnp.moveaxis(x.reshape(batch, length, heads, -1), 2, 1).reshape(batch * heads, length, -1)


def _chunks(length: int) -> list[tuple[int, int]]:
    """Starts and ends of about equal parts of at most `CHUNK` positions."""
    size = -(-length // max(-(-length // CHUNK), 1))
    return [(start, min(start + size, length)) for start in range(0, length, size)]
