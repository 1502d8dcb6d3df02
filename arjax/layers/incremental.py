"""The memory of layers that mix positions: the one place that knows whether a pass is parallel or incremental.

In the parallel pass a layer sees the whole event. In the incremental pass it sees the next slice (one position
or a chunk of them) and finds what came before in the `cache` collection. A pass is incremental exactly when
`cache` is mutable and the module is not initialising:

    params = model.apply(variables, x)                                                          # parallel
    params, updates = model.apply(variables | {"cache": cache}, x_t, mutable=["cache"])         # incremental

Every cache starts as zeros, which is what the parallel pass pads with.

Images proceed along two axes. The pass over pixels, with the collection `present` mutable as well, is the one
that is incremental along the columns. What such a pass needs of the rows above is computed for a whole row at
once, before the first of its pixels: see `from_above`.

Sequences proceed in blocks of `BLOCK` positions, so that the loop over the positions of a block carries no big
memory: see `from_before` and `recall`.

What depends on parameters alone, such as a masked kernel, a sampler computes before its loop: see `once`.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array, lax

ABSENT = -1
BLOCK = 16
"""Positions of a sequence that a sampler takes together, see `from_before`."""


def is_incremental(module: nn.Module, axis: int = 1) -> bool:
    """Whether `module` is being applied to the next slice along `axis` instead of to a whole event."""
    if not module.is_mutable_collection("cache") or module.is_initializing():
        return False
    return axis == 1 or module.is_mutable_collection("present")


def once(module: nn.Module, name: str, function: Callable[[], Array]) -> Array:
    """`function()`, which depends on parameters alone: kept in the collection `fixed` where a sampler has one."""
    if module.has_variable("fixed", name):
        return module.get_variable("fixed", name)
    value = function()
    if module.is_mutable_collection("fixed") and not module.is_initializing():
        module.put_variable("fixed", name, value)
    return value


def entry_shift(module: nn.Module, x: Array, axis: int) -> Array:
    """What is known before each slice of `x` along `axis`: the slice before it, `ABSENT` before the first.

    The one shift of an autoregressive network, on its integer input; every layer after it sees the present.
    The incremental pass is fed the previous slice by the sampler, so it has nothing to shift. Integers of any
    dtype become int32, which has room for `ABSENT`.
    """
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = jnp.asarray(x, jnp.int32)
    return x if is_incremental(module, axis) else _shift(x, axis, ABSENT)


def from_above(module: nn.Module, x: Array, function: Callable[[Array], Array]) -> Array:
    """`function` of the row above of `x`, `Float[b, h, w, c]`; zeros stand above the first row.

    What makes a layer of the horizontal pass see its own features in the rows above; it has to `leave_below` them.
    Before the pixels of a row, a pass over the whole of it with the mutable collection `above` applies `function`
    to the features that the row before left; all else in that pass is dead code, which the compiler drops.
    """
    if not is_incremental(module):
        return function(_shift(x, 1, 0))
    if module.is_mutable_collection("above"):
        row = module.get_variable("present", "row", jnp.zeros_like(x))
        module.put_variable("above", "row", function(row))
    return module.get_variable("above", "row")


def leave_below(module: nn.Module, x: Array) -> None:
    """Leaves `x`, features of the present pixel, to `from_above` in the next row."""
    if is_incremental(module, axis=2):
        module.put_variable("present", "row", x)


def delays(module: nn.Module, x: Array, count: int, dilation: int, axis: int) -> list[Array]:
    """`x` delayed by `(count-1) * dilation, ..., dilation, 0` positions along `axis`, zeros before the start.

    The incremental pass keeps the last `(count-1) * dilation` positions in a sliding window, which is a copy of
    all of them at every step: for what is far away in time there is `from_before`.
    """
    span = (count - 1) * dilation
    incremental = is_incremental(module, axis)
    window = remembered(module, x, span, axis) if incremental else _pad_before(x, span, axis, 0)
    starts = range(0, span + 1, dilation)
    return [lax.slice_in_dim(window, start, start + x.shape[axis], axis=axis) for start in starts]


def from_before(
    module: nn.Module, x: Array, count: int, dilation: int, function: Callable[[list[Array]], Array]
) -> Array:
    """`function` of `x`, `Float[b, t, c]`, delayed by `(count-1) * dilation, ..., dilation`; an incremental pass.

    With a dilation of `BLOCK` or more, what a block of positions needs of it is known before the first of them. So
    the past is a ring buffer that is read once before and written once after the steps of a block, in which
    a pass with the mutable collection `present` finds the values of `function` in the collection `before` and
    leaves its `x`. The cost of a step does not depend on the dilation.
    """
    if is_incremental(module, axis=2):
        module.put_variable("present", "memory", x)
        return module.get_variable("before", "memory")
    span, length = (count - 1) * dilation, x.shape[1]
    position = module.variable("cache", "position", jnp.zeros, (), jnp.int32)
    memory = _memory(module, x, -(-(span + BLOCK) // BLOCK) * BLOCK, 1)

    def past(first: int, last: int) -> Array:
        """Positions `first..last-1`, counted from the first of `x`."""
        known = jnp.take(
            memory.value,
            (position.value + jnp.arange(first, min(last, 0), dtype=jnp.int32)) % memory.value.shape[1],
            1,
        )
        return (
            known if last <= 0 else jnp.concatenate([known, lax.slice_in_dim(x, max(first, 0), last, axis=1)], 1)
        )

    y = function([past(-delay, length - delay) for delay in range(span, 0, -dilation)])
    if module.is_mutable_collection("before"):
        module.put_variable("before", "memory", y)
    memory.value, position.value = _written(memory.value, position.value, x), position.value + length
    return y


class Part(NamedTuple):
    """Positions of a sequence that attention may look at.

    Attributes:
        keys: `Float[b, n, k]`, or `Float[b, t, n, k]` where each of `t` queries has its own.
        values: `Float[b, n, v]` or `Float[b, t, n, v]`.
        positions: `Int[n]` or `Int[t, n]`, counted from the first of the sequence; negative where there is none.
    """

    keys: Array
    values: Array
    positions: Array


def recall(
    module: nn.Module,
    keys: Array,
    values: Array,
    slots: int,
    together: Callable[[Array], Array | None],
    apart: Callable[[Array], Array | None],
) -> tuple[Array, list[Part]]:
    """The numbers of the present positions, and what they may attend to; an incremental pass.

    The memory is a ring of `slots` positions or more. The steps of a block only read what it held before the first
    of them, in the collections `past` and `before`; their own keys and values are in the collection `block`,
    which a block begins with zeros, and are committed to the memory after the last.

    Args:
        module: whose memory it is.
        keys: of the present positions, `Float[b, t, k]`.
        values: likewise, `Float[b, t, v]`.
        slots: how far back the memory reaches.
        together: the positions `Int[n]` that a block which begins at a position reads; None for all of the memory.
        apart: the positions `Int[t, n]` that each of a block's positions `Int[t]` reads besides; None for none.
            In both, those that are negative or not before the block are absent.
    """
    new = {"keys": keys, "values": values}
    if is_incremental(module, axis=2):
        first: Array = module.get_variable("past", "first")
        number = module.get_variable("block", "number", jnp.int32(0))
        own: dict[str, Array] = {}
        for name, x in new.items():
            empty = jnp.zeros((x.shape[0], BLOCK, x.shape[2]), x.dtype)
            own[name] = lax.dynamic_update_slice_in_dim(module.get_variable("block", name, empty), x, number, 1)
            module.put_variable("block", name, own[name])
            module.put_variable("present", name, x)
        module.put_variable("block", "number", number + 1)
        parts = [_found(module, "past")]
        if module.has_variable("before", "keys"):
            besides = _found(module, "before")
            parts.append(besides._replace(positions=besides.positions[0]))
        parts.append(Part(own["keys"], own["values"], first + jnp.arange(BLOCK, dtype=jnp.int32)))
        return first + number[None], parts
    slots = max(-(-slots // BLOCK), 2) * BLOCK
    position = module.variable("cache", "position", jnp.zeros, (), jnp.int32)
    memory = {
        name: module.variable("cache", name, jnp.zeros, (x.shape[0], slots, x.shape[2]), x.dtype)
        for name, x in new.items()
    }
    held = {name: variable.value for name, variable in memory.items()}
    newest = position.value - 1
    everything = Part(held["keys"], held["values"], newest - (newest - jnp.arange(slots, dtype=jnp.int32)) % slots)
    present = position.value + jnp.arange(keys.shape[1], dtype=jnp.int32)

    def read(places: Array) -> Part:
        places = jnp.where(places < position.value, places, ABSENT)
        keys, values = (jnp.take(x, places % slots, 1) for x in held.values())
        return Part(keys, values, places)

    if module.is_mutable_collection("past"):
        for_all, for_each = together(position.value), apart(present)
        part = everything if for_all is None else read(for_all)
        for name, x in {"first": position.value, **part._asdict()}.items():
            module.put_variable("past", name, x)
        if for_each is not None:
            part = read(for_each)
            for name, x in part._replace(positions=part.positions[None])._asdict().items():
                module.put_variable("before", name, x)
    for name, x in new.items():
        memory[name].value = _written(held[name], position.value, x)
    position.value = position.value + keys.shape[1]
    return present, [everything, Part(keys, values, present)]


def _found(module: nn.Module, collection: str) -> Part:
    found: list[Array] = [module.get_variable(collection, name) for name in Part._fields]
    return Part(*found)


def commit(cache: dict, present: dict) -> dict:
    """The cache after a block of positions that left `present`, `Float[b, n, c]`, to `from_before` or `recall`."""
    cache, left = traverse_util.flatten_dict(cache), traverse_util.flatten_dict(present)
    lengths = {(*path[:-1], "position"): x.shape[1] for path, x in left.items()}
    written = {path: _written(cache[path], cache[(*path[:-1], "position")], x) for path, x in left.items()}
    counted = {place: cache[place] + length for place, length in lengths.items()}
    return traverse_util.unflatten_dict(cache | written | counted)


def neighbours(module: nn.Module, x: Array, table: np.ndarray) -> Array:
    """`x`, `Float[b, t, c]`, at the positions that `table` names for each one. `Float[b, t, k * c]`.

    `table[t, k] <= t` is a position of the sequence, or its length n for none, where zeros stand. Shape `(n, k)`;
    a column names no position twice.
    """
    size = len(table)
    if not is_incremental(module):
        return jnp.concatenate([_rearranged(x, column) for column in table.T], -1)
    memory = module.variable("cache", "memory", jnp.zeros, (size + 1, x.shape[0], x.shape[2]), x.dtype)
    position = module.variable("cache", "place", jnp.zeros, (), jnp.int32)
    memory.value = lax.dynamic_update_slice_in_dim(memory.value, jnp.swapaxes(x, 0, 1), position.value, 0)
    places = lax.dynamic_slice_in_dim(jnp.asarray(table, jnp.int32), position.value, x.shape[1], 0)
    position.value = position.value + x.shape[1]
    taps = jnp.moveaxis(jnp.take(memory.value, places, axis=0), 2, 0)
    return taps.reshape(*x.shape[:2], -1)


def count(module: nn.Module, length: int) -> Array:
    """The numbers of the next `length` positions of a sequence, counted from its first. `Int32[length]`."""
    if not is_incremental(module):
        return jnp.arange(length, dtype=jnp.int32)
    counted = module.get_variable("cache", "counted", jnp.int32(0))
    module.put_variable("cache", "counted", counted + length)
    return counted + jnp.arange(length, dtype=jnp.int32)


def remembered(module: nn.Module, x: Array, span: int, axis: int) -> Array:
    """The slice `x` of an incremental pass with the `span` positions before it."""
    if span == 0:
        return x
    memory = _memory(module, x, span, axis)
    window = jnp.concatenate([memory.value, x], axis)
    memory.value = lax.slice_in_dim(window, x.shape[axis], None, axis=axis)
    return window


def merge(old: dict, new: dict) -> dict:
    """Nested dictionaries: `new` where both have an entry."""
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(old) | traverse_util.flatten_dict(new))


def _rearranged(x: Array, places: np.ndarray) -> Array:
    """`x[:, places]`, zeros where a place is out of range; no place stands there twice."""
    here = np.arange(len(places))
    present = places < len(places)
    distances = np.unique((here - places)[present])
    if len(distances) > 1:
        return x.at[:, places].get(mode="fill", fill_value=0, unique_indices=True)
    shifted = _pad_before(x, int(distances.sum()), 1, 0)[:, : len(places)]
    return jnp.where(present[None, :, None], shifted, 0)


def _shift(x: Array, axis: int, value: int) -> Array:
    return lax.slice_in_dim(_pad_before(x, 1, axis, value), 0, x.shape[axis], axis=axis)


def _pad_before(x: Array, amount: int, axis: int, value: int) -> Array:
    padding = [(amount if i == axis else 0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.asarray(value, x.dtype), padding)


def _memory(module: nn.Module, x: Array, slots: int, axis: int):
    shape = (*x.shape[:axis], slots, *x.shape[axis + 1 :])
    return module.variable("cache", "memory", jnp.zeros, shape, x.dtype)


def _written(ring: Array, position: Array, x: Array) -> Array:
    """`ring` with `x` at the slots of `position` and after it; a short `x` touches two cells of `BLOCK` slots."""
    slots, length = ring.shape[1], x.shape[1]
    if length > BLOCK:
        everything = jnp.concatenate(
            [jnp.take(ring, (position + jnp.arange(slots, dtype=jnp.int32)) % slots, 1), x], 1
        )
        newest = lax.slice_in_dim(everything, length, None, axis=1)
        return jnp.take(newest, (jnp.arange(slots, dtype=jnp.int32) - position - length) % slots, 1)
    first = position % slots // BLOCK * BLOCK
    starts = first, (first + BLOCK) % slots
    cells = jnp.concatenate([lax.dynamic_slice_in_dim(ring, start, BLOCK, 1) for start in starts], 1)
    cells = lax.dynamic_update_slice_in_dim(cells, x, position % BLOCK, 1)
    for start, cell in zip(starts, jnp.split(cells, 2, 1), strict=True):
        ring = lax.dynamic_update_slice_in_dim(ring, cell, start, 1)
    return ring
