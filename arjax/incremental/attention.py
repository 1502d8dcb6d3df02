"""The step of causal attention: a query and the keys that it reaches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from arjax.incremental.level import Loop, NoRule
from arjax.incremental.memories import KVCache, Ring, Window
from arjax.incremental.values import Node, Tracked

Sees = Callable[[Any, Any], Any]
"""`sees(keys, queries)`: who sees whom, by positions `Int[n]` and `Int[t]`: a mask of shape `(n, t)`."""


def attention_step(level: Any, ins: list[Any], sees: Sees, attend: Callable[..., Array]) -> list[Tracked]:
    """Attention of `Float[b, g, t, k]` to `Float[b, t, k]` and `Float[b, t, v]`, positions on axes 2, 1 and 1.

    A step reads as many keys as the pattern reaches at most, and no more than go back as far as it does.

    Args:
        level: along the positions.
        ins: what it knows of queries, keys and values.
        sees: the pattern, known at trace time.
        attend: `attend(queries, parts)`, the attention itself; a part is keys, values and a mask.
    """
    places = [getattr(a, "axis", None) for a in ins]
    if not isinstance(level, Loop) or level.width > 1 or places != [2, 1, 1]:
        raise NoRule("attention along another axis, or in a network with strides")
    ins = [level.delayed(a, max(b.lag for b in (*ins, Tracked([], None, 0, (), None))) - a.lag) for a in ins]
    q, k, v = ins
    if q.lag:
        raise NoRule("attention that lags behind")
    length = k.shape[1]
    with jax.ensure_compile_time_eval():
        everyone = jnp.arange(length, dtype=jnp.int32)
        seen = np.asarray(sees(everyone, everyone)).T  # (queries, keys)
    if np.triu(seen, 1).any():
        raise NoRule("attention to positions to come")
    level.bounded = True
    itself, earlier = seen.diagonal(), np.tril(seen, -1)
    most, span = int(earlier.sum(1).max(initial=0)), _span(earlier)
    slots = min(max(span, 1), length)
    if level.block is not None:
        node = _of_block(level, q, k, v, slots, sees, attend)
    elif 2 * most < slots:
        node = _of_rows(level, q, k, v, itself, earlier, most, span, attend)
    else:
        node = _of_all(level, q, k, v, slots, sees, attend)
    return [replace(q, pieces=[node], shape=(*q.shape[:3], v.shape[2]), whole=None)]


def _span(earlier: np.ndarray) -> int:
    """How far back a query sees."""
    first = np.where(earlier.any(1), earlier.argmax(1), len(earlier))
    return int(np.maximum(np.arange(len(earlier)) - first, 0).max(initial=0))


def _of_all(level: Loop, q: Tracked, k: Tracked, v: Tracked, slots: int, sees: Sees, attend: Any) -> Node:
    """With all that is remembered, keys as a product reads them, and its own."""
    b, _, features = k.shape
    keys = KVCache(level, k, 2, (b, features, slots), 1, lambda x: jnp.swapaxes(x, 1, 2))
    values = KVCache(level, v, 1, (b, slots, v.shape[2]), 1, lambda x: x)
    numbers = np.arange(slots, dtype=np.int32)

    def step(t: Array, q: Array, keys: Array, key: Array, values: Array, value: Array) -> Array:
        positions = t - 1 - (t - 1 - numbers) % slots
        mask = sees(positions, t[None]).T & (positions >= 0)[None]
        own = sees(t[None], t[None]).T
        return attend(q, [(jnp.swapaxes(keys, 1, 2), values, mask), (key, value, own)])

    return Node(step, [level.clock, q.pieces[0], keys.node, k.pieces[0], values.node, v.pieces[0]])


def _of_block(level: Loop, q: Tracked, k: Tracked, v: Tracked, slots: int, sees: Sees, attend: Any) -> Node:
    """Of a block, with the keys before it that it reaches, and its own."""
    keys, values = (level.memory(Window, a).read_run(-slots) for a in (k, v))

    def masked(t: Array) -> tuple[Array, Array]:
        before, here = t - slots + jnp.arange(slots, dtype=jnp.int32), level.spread(t, 0)
        return sees(before, here).T & (before >= 0)[None], sees(here, here).T

    def step(masks: Any, q: Array, keys: Array, key: Array, values: Array, value: Array) -> Array:
        return attend(q, [(keys, values, masks[0]), (key, value, masks[1])])

    masks = Node(masked, [level.clock])
    return Node(step, [masks, q.pieces[0], keys, k.pieces[0], values, v.pieces[0]])


def _of_rows(
    level: Loop,
    q: Tracked,
    k: Tracked,
    v: Tracked,
    itself: np.ndarray,
    earlier: np.ndarray,
    most: int,
    span: int,
    attend: Any,
) -> Node:
    """With the rows that the pattern names, and its own."""
    order = np.argsort(~earlier, axis=1, kind="stable")[:, :most]
    table = np.where(np.take_along_axis(earlier, order, 1), order, -1).astype(np.int32)
    keys, values = (level.memory(Ring, a).read_rows(table, span) for a in (k, v))

    def step(t: Array, q: Array, keys: Array, key: Array, values: Array, value: Array) -> Array:
        mask, own = jnp.asarray(table)[t][None] >= 0, jnp.asarray(itself)[t][None, None]
        return attend(q, [(keys, values, mask), (key, value, own)])

    return Node(step, [level.clock, q.pieces[0], keys, k.pieces[0], values, v.pieces[0]])
