"""Rules of operations that cut, pad, join and reshape."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from arjax.incremental.level import Loop, NoRule, dtype_of, shape_of
from arjax.incremental.rules.common import (
    blamed,
    only_axis,
    rewritten,
    rule,
)
from arjax.incremental.values import Const, Node, Tracked, Value, along, resized


@rule("reshape")
def reshape(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """The axis stays whole, or is cut into equal parts, or takes equal parts in."""
    a, new = ins[0], tuple(eqn.params["new_sizes"])

    def moved(i: int | None) -> int | None:
        if i is None:
            return None
        before = math.prod(a.shape[:i])
        places = [j for j, n in enumerate(new) if n == a.shape[i] and math.prod(new[:j]) == before]
        return i if i in places else places[0] if places else None

    axis, history = moved(a.axis), moved(a.history)
    if a.history is not None and (axis is None or history is None):
        raise NoRule(f"{level.where(eqn)} merges scores against all positions with another axis")
    if axis is not None:
        return [
            level.local(
                ins[:1], [None], axis, new, a.dtype, lambda width, x: x.reshape(resized(new, axis, width)), history
            )
        ]
    found = regrouped(a.shape, a.axis, new)
    if found is None:
        raise NoRule(f"{level.where(eqn)} merges {level.named_axis(ins)}, with another one")
    axis, up, down = found
    if up > 1:
        if level.rate(a) % up:
            raise NoRule(f"{level.where(eqn)} makes more of {level.named_axis(ins)}, than there are")
        return [finer(level, a, up, axis, new, lambda x: x.reshape(resized(new, axis, up * x.shape[a.axis])))]
    a = level.delayed(a, -a.lag % down)
    count = level.count(level.rate(a) * down)

    def group(*pieces: Any) -> Any:
        return jnp.concatenate(pieces, a.axis).reshape(resized(new, axis, 1))

    pieces = [Node(group, a.pieces[j * down : (j + 1) * down]) for j in range(count)]
    prefix = a.prefix.reshape(resized(new, axis, -a.lag // down)) if a.lag < 0 else None
    return [replace(a, pieces=pieces, axis=axis, lag=a.lag // down, shape=new, prefix=prefix, whole=None)]


def regrouped(shape: Sequence[int], axis: int, new: Sequence[int]) -> tuple[int, int, int] | None:
    """Where an axis is after each of its indices is made several ones, or several ones one: `axis, up, down`."""
    n = shape[axis]
    for j, m in enumerate(new):
        if m > 1 and math.prod(new[:j]) == math.prod(shape[:axis]):
            if m % n == 0 and math.prod(shape[axis + 1 :]) == m // n * math.prod(new[j + 1 :]):
                return j, m // n, 1
            if n % m == 0:
                return j, 1, n // m
    return None


def finer(level: Loop, a: Tracked, up: int, axis: int, shape: tuple[int, ...], function: Any) -> Tracked:
    """An array of which `function` makes `up` indices of each one, along `axis` of `shape`."""

    def one(x: Any, i: int) -> Any:
        return lax.slice_in_dim(function(x), i, i + 1, axis=axis)

    pieces = [Node(lambda x, i=i: one(x, i), [piece]) for piece in a.pieces for i in range(up)]
    prefix = function(a.prefix) if a.lag < 0 else None
    return replace(a, pieces=pieces, axis=axis, lag=a.lag * up, shape=shape, prefix=prefix, whole=None)


@rule("slice")
def slice_(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Along the axis of positions a crop, or every so many of them."""
    (a,), p = ins, eqn.params
    start, limit, axis = list(p["start_indices"]), list(p["limit_indices"]), a.axis
    strides = list(p["strides"] or (1,) * len(start))
    first, last, length, stride = start[axis], limit[axis], a.shape[axis], strides[axis]
    start[axis], strides[axis] = 0, 1

    def others(width: int, x: Any) -> Any:
        return lax.slice(x, start, resized(limit, axis, width), strides)

    if any(i != axis and (start[i], limit[i], strides[i]) != (0, a.shape[i], 1) for i in range(len(start))):
        shape = resized(shape_of(eqn), axis, length)
        history = a.history if a.history is not None and shape[a.history] == a.shape[a.history] else None
        if a.history is not None and history is None:
            raise NoRule(f"{level.where(eqn)} takes a part of the scores against all positions")
        entire = None if a.whole is None else Node(lambda x: others(x.shape[axis], x), [a.whole])
        a = replace(level.local([a], [None], axis, shape, a.dtype, others, history), whole=entire)
    if stride == 1:
        out = a if (first, last) == (0, length) else level.padded(a, -first, last - length, 0)
        return [blamed(level, eqn, out, first > 0, f"takes {level.named_axis(ins)}, from position {first} on")]
    lag, places = level.strided(a, first, stride)
    prefix = None
    if lag < 0:
        prefix = a.prefix[along(axis, first, None)]
        prefix = lax.slice_in_dim(prefix, 0, (-lag - 1) * stride + 1, stride, axis)
    out = replace(a, pieces=level.taps(a, places), lag=lag, shape=shape_of(eqn), prefix=prefix, whole=None)
    return [level.ended(out)]


@rule("pad")
def pad(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Along the axis of positions a shift, or room between them."""
    a, value = ins
    if not isinstance(value, Const) or not isinstance(a, Tracked):
        raise NoRule(f"{level.where(eqn)} pads with what depends on the input")
    config = list(eqn.params["padding_config"])
    before, after, between = config[a.axis]
    config[a.axis] = (0, 0, 0)
    if any(any(sides) for sides in config):
        shape = resized(shape_of(eqn), a.axis, a.shape[a.axis])

        def others(_: int, x: Any) -> Any:
            return lax.pad(x, value.value, config)

        history = a.history
        if history is not None and any(config[history]):
            raise NoRule(f"{level.where(eqn)} pads the scores against all positions")
        entire = None if a.whole is None else Node(lambda x: others(1, x), [a.whole])
        a = replace(level.local([a], [None], a.axis, shape, a.dtype, others, history), whole=entire)
    if between:
        up = between + 1
        if level.rate(a) % up:
            raise NoRule(f"{level.where(eqn)} makes more of {level.named_axis(ins)}, than there are")
        room = [(0, between, between) if i == a.axis else (0, 0, 0) for i in range(len(a.shape))]
        entire = a.whole
        a = finer(
            level,
            a,
            up,
            a.axis,
            resized(a.shape, a.axis, a.shape[a.axis] * up),
            lambda x: lax.pad(x, value.value, room),
        )
        if entire is not None:
            a = replace(a, whole=Node(lambda x: lax.pad(x, value.value, room), [entire]))
        after -= between
    return [level.padded(a, before, after, value.value)]


@rule("concatenate")
def concatenate(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Of other axes; along that of the positions a tracked array after constants, and before ones."""
    axis, dimension, shape = only_axis(ins), eqn.params["dimension"], shape_of(eqn)
    if dimension != axis:
        if any(isinstance(a, Tracked) and a.history == dimension for a in ins) and len(ins) > 1:
            raise NoRule(f"{level.where(eqn)} puts scores against all positions beside others")
        places = [axis if isinstance(a, Const) else None for a in ins]
        history = next((a.history for a in ins if isinstance(a, Tracked)), None)
        return [
            level.local(
                ins, places, axis, shape, dtype_of(eqn), lambda _, *v: lax.concatenate(v, dimension), history
            )
        ]
    here = [i for i, a in enumerate(ins) if isinstance(a, Tracked)]
    if len(here) == len(ins) > 1 and level.width == 1:
        return [pieced(level, ins, axis, shape)]
    if len(here) != 1 or ins[here[0]].lag:
        raise NoRule(f"{level.where(eqn)} puts several arrays after each other along {level.named_axis(ins)}")
    a, firsts, lasts = ins[here[0]], ins[: here[0]], ins[here[0] + 1 :]
    if lasts and a.shape[axis] * level.rate(a) < level.length:
        raise NoRule(f"{level.where(eqn)} puts a constant after a shorter array along {level.named_axis(ins)}")
    prefix = lax.concatenate([f.value for f in firsts], axis) if firsts else None
    entire = None
    if a.whole is not None:
        entire = Node(lambda x: lax.concatenate([*([] if prefix is None else [prefix]), x], axis), [a.whole])
    lag = -sum(f.shape[axis] for f in firsts)
    out = level.ended(replace(a, lag=lag, prefix=prefix, shape=shape, whole=entire))
    return [out if not lasts else replace(out, whole=None)]


def pieced(level: Loop, ins: Sequence[Tracked], axis: int, shape: tuple[int, ...]) -> Tracked:
    """Arrays after each other, of which one is there at a step."""
    starts = np.cumsum([0] + [a.shape[axis] for a in ins])[:-1].tolist()
    lag = max(a.lag - s for a, s in zip(ins, starts, strict=True))
    ins = [level.delayed(a, lag + s - a.lag) for a, s in zip(ins, starts, strict=True)]

    def piece(t: Any, *values: Any) -> Any:
        out = values[0]
        for s, v in zip(starts[1:], values[1:], strict=True):
            out = jnp.where(level.spread(t - lag, axis, len(shape)) >= s, v, out)
        return out

    level.bounded = True
    node = Node(piece, [level.clock, *(a.pieces[0] for a in ins)])
    return replace(ins[0], pieces=[node], lag=lag, shape=shape, prefix=None, whole=None)


@rule("stack")
def stack(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """On a new axis."""
    axis, new = only_axis(ins), eqn.params["axis"]
    places = [axis if isinstance(a, Const) else None for a in ins]
    out = level.local(
        ins, places, axis + (new <= axis), shape_of(eqn), dtype_of(eqn), lambda _, *v: jnp.stack(v, new)
    )
    if out.product is not None and any(isinstance(a, Tracked) and a.history is not None for a in ins):
        raise NoRule(f"{level.where(eqn)} puts scores against all positions beside others")
    return [out]


@rule("split")
def split(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Of another axis."""
    (a,), p = ins, eqn.params
    if len(p["sizes"]) == 1:
        return [a]
    if p["axis"] in (a.axis, a.history):
        raise NoRule(f"{level.where(eqn)} cuts {level.named_axis(ins)}, into parts")
    ends = np.cumsum((0, *p["sizes"])).tolist()
    return [
        level.local(
            ins,
            [None],
            a.axis,
            shape_of(eqn, i),
            a.dtype,
            lambda _, x, i=i: x[along(p["axis"], ends[i], ends[i + 1])],
            a.history,
        )
        for i in range(len(eqn.outvars))
    ]


@rule("unstack")
def unstack(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Of another axis."""
    axis = eqn.params["axis"]
    if ins[0].axis == axis:
        raise NoRule(f"{level.where(eqn)} takes {level.named_axis(ins)}, apart")
    return rewritten(
        level, eqn, ins, lambda x: [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]
    )
