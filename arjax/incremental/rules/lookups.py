"""Rules of operations that look things up at places."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from arjax.incremental.level import Loop, NoRule, bind, shape_of
from arjax.incremental.memories import Ring
from arjax.incremental.rules.common import (
    blamed,
    rule,
    without_history,
)
from arjax.incremental.rules.shapes import finer
from arjax.incremental.values import Const, Node, Tracked, Value, resized


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
    if (
        isinstance(a, Tracked)
        and a.axis in d.offset_dims
        and tuple(eqn.params["slice_sizes"])[a.axis] == a.shape[a.axis]
    ):
        raise NoRule(f"{level.where(eqn)}: there is no rule for a look-up in other axes")
    places = constant_places(a, index, eqn)
    if places is None:
        raise NoRule(f"{level.where(eqn)} takes positions in an order that is not known at trace time")
    n = a.shape[a.axis]
    up = len(places) // n
    if up > 1 and level.rate(a) % up == 0 and (places == np.arange(up * n) // up).all():
        return [finer(level, a, up, a.axis, shape, lambda x: jnp.repeat(x, up, a.axis))]
    return [looked_up(level, eqn, a, places, shape)]


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
    a = level.delayed(a, max(-a.off, 0))
    lag = int((places + a.off - np.arange(len(places)))[here].max())
    off = max(lag, 0)
    level.bounded = True
    node = level.memory(Ring, a).read_from(np.clip(places, 0, n - 1).astype(np.int32), off)
    if eqn.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP and not here.all():
        fill, there = eqn.params["fill_value"], jnp.asarray(here)
        if fill is None and not jnp.issubdtype(a.dtype, jnp.inexact):
            raise NoRule(f"{level.where(eqn)} takes integers from positions out of range")
        fill = jnp.nan if fill is None else fill
        node = Node(lambda t, x: jnp.where(there[t - off], x, jnp.asarray(fill, x.dtype)), [level.clock, node])
    out = replace(a, pieces=[node], off=off, shape=shape, whole=None)
    return blamed(level, eqn, out, lag > 0, f"takes {level.named_axis([a])}, {lag} ahead")


@rule("dynamic_slice")
def dynamic_slice(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Of other axes, from constant places."""
    a, *starts = ins
    without_history(level, eqn, ins)
    sizes = eqn.params["slice_sizes"]
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
