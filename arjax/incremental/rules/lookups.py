"""Rules of operations that look things up at places."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arjax.incremental.level import Loop, NoRule, bind, shape_of
from arjax.incremental.memories import Ring
from arjax.incremental.rules.common import (
    blamed,
    rewritten,
    rule,
    without_history,
)
from arjax.incremental.rules.shapes import finer
from arjax.incremental.values import KNOWN, Const, Node, Tracked, Value, resized, taken


@rule("gather")
def gather(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Rows of a constant table; of positions what lies at constant places."""
    a, index = ins
    d, shape = eqn.params["dimension_numbers"], shape_of(eqn)
    without_history(level, eqn, ins)
    if isinstance(index, Tracked):
        paired = list(d.start_indices_batching_dims)
        batch = d.operand_batching_dims[paired.index(index.axis)] if index.axis in paired else None
        if index.axis == len(index.shape) - 1 or (isinstance(a, Tracked) and a.axis != batch):
            raise NoRule(f"{level.where(eqn)} looks things up at places that depend on the input")
        axis = [i for i in range(len(shape)) if i not in d.offset_dims][index.axis]
        return [level.local(ins, [batch, None], axis, shape, a.dtype, lambda _, *v: bind(eqn, *v))]
    sizes = eqn.params["slice_sizes"]
    kept = [i for i in range(len(a.shape)) if i not in d.collapsed_slice_dims and i not in d.operand_batching_dims]
    if a.axis in kept and a.axis not in d.start_index_map and sizes[a.axis] == a.shape[a.axis]:
        axis = d.offset_dims[kept.index(a.axis)]

        def elsewhere(width: int, *v: Any) -> Any:
            return bind(eqn, *v, slice_sizes=resized(sizes, a.axis, width))

        return [level.local(ins, [None, None], axis, shape, a.dtype, elsewhere)]
    table = table_of_places(a, index, eqn)
    if table is not None:
        axis = a.axis

        def columns(x: Any, _: Any) -> Any:
            return jnp.stack([jnp.take(x, places, axis, mode="clip") for places in table.T], axis + 1)

        return rewritten(level, eqn, ins, columns)
    places = constant_places(a, index, eqn)
    if places is None:
        raise NoRule(f"{level.where(eqn)} takes positions in an order that is not known at trace time")
    n = a.shape[a.axis]
    up = len(places) // n
    if up > 1 and level.rate(a) % up == 0 and (places == np.arange(up * n) // up).all():
        return [finer(level, a, up, a.axis, shape, lambda x: jnp.repeat(x, up, a.axis))]
    return [looked_up(level, eqn, a, places, shape)]


def table_of_places(a: Any, index: Any, eqn: Any) -> np.ndarray | None:
    """The constant places `[t, k]` at which a gather takes `k` whole slices of `a` for each position, or None."""
    d = eqn.params["dimension_numbers"]
    if not isinstance(index, Const) or not index.concrete or tuple(d.start_index_map) != (a.axis,):
        return None
    places, rank = np.asarray(index.value)[..., 0], len(shape_of(eqn))
    others = tuple(i for i in range(rank) if i not in (a.axis, a.axis + 1))
    whole = resized(a.shape, a.axis, 1) == tuple(eqn.params["slice_sizes"]) and tuple(d.offset_dims) == others
    return places if whole and places.ndim == 2 and rank == len(a.shape) + 1 else None


def constant_places(a: Any, index: Any, eqn: Any) -> np.ndarray | None:
    """The constant places along its axis at which a gather takes whole slices of `a`, or None."""
    d = eqn.params["dimension_numbers"]
    whole = resized(a.shape, a.axis, 1) == tuple(eqn.params["slice_sizes"]) and not d.operand_batching_dims
    if not isinstance(index, Const) or not index.concrete or not whole or tuple(d.start_index_map) != (a.axis,):
        return None
    places, shape = np.asarray(index.value)[..., 0], shape_of(eqn)
    kept = places.ndim == 1 and tuple(d.collapsed_slice_dims) == (a.axis,) and len(shape) == len(a.shape)
    return places if kept and shape[a.axis] == len(places) else None


def looked_up(level: Loop, eqn: Any, a: Tracked, places: np.ndarray, shape: tuple[int, ...]) -> Tracked:
    """Of everything so far the index at `places[t]`; what is out of range is filled or clipped, as `eqn` says."""
    assert a.axis is not None
    n = a.shape[a.axis]
    here = (places >= 0) & (places < n)
    if level.width > 1 or not here.any():
        raise NoRule(f"{level.where(eqn)} takes positions in another order, in a network with strides")
    a = level.delayed(a, max(-a.lag, 0))
    lag = max(int((places + a.lag - np.arange(len(places)))[here].max()), 0)
    level.bounded = True
    node = level.memory(Ring, a).read_from(np.clip(places, 0, n - 1).astype(np.int32), lag)
    if eqn.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP and not here.all():
        fill, there = eqn.params["fill_value"], jnp.asarray(here)
        if fill is None and not jnp.issubdtype(a.dtype, jnp.inexact):
            raise NoRule(f"{level.where(eqn)} takes integers from positions out of range")
        fill = jnp.nan if fill is None else fill

        def filled(t: Any, x: Any) -> Any:
            known = taken(there, level.spread(t - lag, a.axis, x.ndim), 0) if level.block else there[t - lag]
            return jnp.where(known, x, jnp.asarray(fill, x.dtype))

        node = Node(filled, [level.clock, node])
    out = replace(a, pieces=[node], lag=lag, shape=shape, whole=None)
    return blamed(level, eqn, out, lag > 0, f"takes {level.named_axis([a])}, {lag} ahead")


@rule("dynamic_slice")
def dynamic_slice(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Of other axes, from constant places."""
    a, *starts = ins
    without_history(level, eqn, ins)
    sizes = eqn.params["slice_sizes"]
    if isinstance(a, Tracked) and all(isinstance(s, Const) and s.concrete for s in starts):
        first = [int(np.clip(int(s.value), 0, n - m)) for s, n, m in zip(starts, a.shape, sizes, strict=True)]
        return rewritten(
            level, eqn, ins, lambda x, *_: lax.slice(x, first, [f + m for f, m in zip(first, sizes, strict=True)])
        )
    if (
        not isinstance(a, Tracked)
        or sizes[a.axis] != a.shape[a.axis]
        or not all(isinstance(s, Const) for s in starts)
    ):
        raise NoRule(f"{level.where(eqn)} takes positions that are not known at trace time")
    values = [s.value for s in starts]

    def function(width: int, x: Any) -> Any:
        return lax.dynamic_slice(x, values, resized(sizes, a.axis, width))

    return [level.local([a], [None], a.axis, shape_of(eqn), a.dtype, function)]


@rule("scatter", "scatter-add", "scatter_add", "dynamic_update_slice")
def scatter(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """A box of an array that is set, or added to."""
    name = eqn.primitive.name
    index = ins[2:] if name == "dynamic_update_slice" else [ins[1]]
    if not all(isinstance(i, Const) and i.concrete for i in index):
        raise NoRule(f"{level.where(eqn)} sets places that are not known at trace time")
    operand, update = eqn.invars[0].aval, eqn.invars[1 if name == "dynamic_update_slice" else 2].aval
    if max(math.prod(operand.shape), math.prod(update.shape)) > KNOWN:
        raise NoRule(f"{level.where(eqn)} sets places of a large array")
    with jax.ensure_compile_time_eval():
        numbers = jnp.arange(1, math.prod(update.shape) + 1, dtype=jnp.int32).reshape(update.shape)
        values = [i.value for i in index]
        empty = jnp.zeros(operand.shape, jnp.int32)
        if name == "dynamic_update_slice":
            numbered = lax.dynamic_update_slice(empty, numbers, values)
        else:
            p = {k: v for k, v in eqn.params.items() if k in ("indices_are_sorted", "unique_indices", "mode")}
            numbered = lax.scatter(empty, values[0], numbers, eqn.params["dimension_numbers"], **p)
        set_ = np.asarray(numbered)
    there = np.argwhere(set_)
    if not len(there):
        return [ins[0]]
    low, high = there.min(0), there.max(0) + 1
    box = tuple(high - low)
    inside = set_[tuple(map(slice, low, high))]
    if math.prod(box) != math.prod(update.shape) or (inside.ravel() != np.arange(1, math.prod(box) + 1)).any():
        raise NoRule(f"{level.where(eqn)} sets places that are no box")
    added = name.startswith("scatter") and name != "scatter"
    config = [(int(a), int(n - b), 0) for a, b, n in zip(low, high, operand.shape, strict=True)]

    def function(*v: Any) -> Any:
        x, new = v[0], v[1 if name == "dynamic_update_slice" else 2]
        new = lax.pad(lax.reshape(new, box), jnp.zeros((), x.dtype), config)
        return x + new if added else jnp.where(set_ > 0, new, x)

    return rewritten(level, eqn, ins, function)
