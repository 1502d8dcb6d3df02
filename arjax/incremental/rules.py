"""Rules by primitive: what an operation makes of arrays whose axis of positions it keeps in place, moves or reads.

A rule is `rule(level, eqn, ins) -> outs`; some operand is a `Tracked` array, none is `Late`. It raises `NoRule`
with the reason where an operation cannot be done. Rules registered with `local_rule` hold for loops and for parts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arjax.incremental.level import Flip, Level, Loop, NoRule, bind, dtype_of, shape_of
from arjax.incremental.memories import Carried, Ring
from arjax.incremental.parts import Parts
from arjax.incremental.values import Const, Late, Node, Tracked, Value, along, at_once, fixed, resized

Rule = Callable[[Any, Any, Any], list[Value]]


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule of loops for primitives."""

    def register(function: Rule) -> Rule:
        Loop.rules.update(dict.fromkeys(names, function))
        return function

    return register


def local_rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for loops and for parts."""

    def register(function: Rule) -> Rule:
        Parts.rules.update(dict.fromkeys(names, function))
        return rule(*names)(function)

    return register


def only_axis(ins: Sequence[Value]) -> Any:
    """The axis of all operands that have one."""
    axes = {a.axis for a in ins if isinstance(a, Tracked) and a.axis is not None}
    if len(axes) > 1:
        raise NoRule(f"arrays meet whose positions are on different axes, {sorted(axes)}")
    return axes.pop() if axes else None


def dropped(axis: int | None, axes: Sequence[int]) -> int | None:
    """Where an axis is once `axes` are gone."""
    return None if axis is None else axis - sum(i < axis for i in axes)


# One index of the result from the same index of the operands ---------------------------------------------------


@local_rule(
    *[
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "bitcast_convert_type",
        "cbrt",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "copy_p",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "imag",
        "integer_pow",
        "is_finite",
        "le",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "name",
        "ne",
        "neg",
        "nextafter",
        "not",
        "optimization_barrier",
        "or",
        "population_count",
        "pow",
        "real",
        "reduce_precision",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
    ]
)
def elementwise(level: Level, eqn: Any, ins: list[Any]) -> list[Value]:
    """One element from one element."""
    axis, shape = only_axis(ins), shape_of(eqn)
    tracked = [a for a in ins if isinstance(a, Tracked)]
    history = next((a.history for a in tracked if a.history is not None), None)
    places = [axis if axis is not None and a.shape and a.shape[axis] == shape[axis] else None for a in ins]
    if any(len(a.shape) != len(shape) for a in tracked):
        raise NoRule(f"{level.where(eqn)}: shapes differ")
    if len(eqn.outvars) > 1:
        assert eqn.primitive.name == "optimization_barrier"
        return list(ins)
    clean = history is not None and hides_future(eqn, ins, axis, history, max(a.lead for a in tracked))
    out = level.local(ins, places, axis, shape, dtype_of(eqn), lambda width, *v: bind(eqn, *v), history)
    out.clean = out.clean or clean
    return [out]


HIDDEN = -1e9
"""A number as low as this, added to a score, counts as a mask: a softmax makes of it exactly 0."""


def hides_future(eqn: Any, ins: Sequence[Any], axis: int, history: int, lead: int) -> bool:
    """Whether a mask puts a constant where something depends on positions to come."""
    name, masks = eqn.primitive.name, [a for a in ins if isinstance(a, Const)]
    if name not in ("select_n", "mul", "add", "sub", "min") or not masks or not masks[0].concrete:
        return False
    mask, shape = masks[0], shape_of(eqn)
    if len(mask.shape) != len(shape) or math.prod(shape) == 0:
        return False
    if name == "select_n" and not (isinstance(ins[0], Const) and len(ins) == 3):
        return False
    with jax.ensure_compile_time_eval():
        values = np.broadcast_to(np.asarray(mask.value), shape)
        future = np.moveaxis(values, (axis, history), (-2, -1))
        t, s = np.ogrid[: shape[axis], : shape[history]]
        future = np.unique(future[..., s > t + lead])
    if name == "select_n":
        return all(isinstance(ins[1 + int(case)], Const) for case in future)
    if name == "mul":
        return not future.any()
    sign = -1 if name == "sub" else 1
    if name == "sub" and not isinstance(ins[1], Const):
        return False
    return bool((sign * future.astype(np.float64) <= HIDDEN).all())


@local_rule("broadcast_in_dim")
def broadcast_in_dim(level: Level, eqn: Any, ins: list[Any]) -> list[Value]:
    """The axis is among those that are kept."""
    a, shape, dims = ins[0], tuple(eqn.params["shape"]), eqn.params["broadcast_dimensions"]
    axis, history = (None if i is None else dims[i] for i in (a.axis, a.history))
    if axis is not None and shape[axis] != a.shape[a.axis]:
        raise NoRule(f"{level.where(eqn)} repeats one position {shape[axis]} times")

    def function(width: int, x: Any) -> Any:
        return lax.broadcast_in_dim(x, resized(shape, axis, width), dims)

    return [level.local(ins[:1], [None], axis, shape, a.dtype, function, history)]


@local_rule("transpose")
def transpose(level: Level, eqn: Any, ins: list[Any]) -> list[Value]:
    """Axes change places."""
    (a,), order = ins, list(eqn.params["permutation"])
    axis, history = (None if i is None else order.index(i) for i in (a.axis, a.history))
    return [level.local(ins, [None], axis, shape_of(eqn), a.dtype, lambda _, x: lax.transpose(x, order), history)]


@local_rule("squeeze")
def squeeze(level: Level, eqn: Any, ins: list[Any]) -> list[Value]:
    """Axes of length 1 go."""
    (a,), dims = ins, eqn.params["dimensions"]
    if a.axis in dims:
        if isinstance(level, Parts):
            return level.joined_rule(eqn, ins)
        raise NoRule(f"{level.where(eqn)}: an event of a single position loses its axis")
    history = None if a.history in dims else dropped(a.history, dims)
    return [
        level.local(
            ins, [None], dropped(a.axis, dims), shape_of(eqn), a.dtype, lambda _, x: lax.squeeze(x, dims), history
        )
    ]


@local_rule("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")
def reduce(level: Level, eqn: Any, ins: list[Any]) -> list[Value]:
    """Over other axes than that of the positions; over a history, if it hides what is not yet known."""
    (a,), axes = ins, eqn.params["axes"]
    if a.axis in axes and isinstance(level, Parts):
        return level.joined_rule(eqn, ins)
    if a.axis in axes:
        flipped(level, a)
        raise NoRule(f"{level.where(eqn)} reduces {level.named_axis(ins)}")
    if a.history in axes:
        finished(level, a, eqn)
    history = None if a.history in axes else dropped(a.history, axes)
    return [
        level.local(
            ins, [None], dropped(a.axis, axes), shape_of(eqn), dtype_of(eqn), lambda _, x: bind(eqn, x), history
        )
    ]


def flipped(level: Any, a: Tracked) -> None:
    """Starts again with the product's other operand as the one with the axis of positions, if there is one."""
    if a.history is not None and a.product not in level.flips:
        raise Flip(a.product)


def finished(level: Any, a: Tracked, eqn: Any) -> None:
    """Notes that a history is summed over of which it is not known that it hides the positions to come."""
    if not a.clean and level.assumed is None:
        level.assumed = (
            f"{level.where(eqn)} reduces scores against all positions of which no mask known at trace time "
            "hides those to come"
        )


@local_rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "rev", "sort")
def along_other_axes(level: Level, eqn: Any, ins: list[Any]) -> list[Value]:
    """What mixes the elements of other axes; along the axis of positions a running total."""
    p, name = eqn.params, eqn.primitive.name
    (a,) = ins if len(ins) == 1 else (None,)
    axes = p["dimensions"] if name == "rev" else (p["dimension"] if name == "sort" else p["axis"],)
    axis = only_axis(ins)
    if axis in axes:
        if isinstance(level, Parts):
            return level.joined_rule(eqn, ins)
        if name in TOTALS and not p["reverse"]:
            return [total(level, eqn, a)]  # type: ignore[arg-type]
        raise NoRule(f"{level.where(eqn)} along {level.named_axis(ins)} needs all positions")
    if a is None or a.history in axes:
        raise NoRule(f"{level.where(eqn)}: there is no rule for several operands or over scores")
    return [level.local(ins, [None], axis, a.shape, a.dtype, lambda _, x: bind(eqn, x), a.history)]


TOTALS: dict[str, Callable[[Any, Any], Any]] = {
    "cumsum": lax.add,
    "cumprod": lax.mul,
    "cummax": lax.max,
    "cummin": lax.min,
    "cumlogsumexp": jnp.logaddexp,
}


def total(level: Loop, eqn: Any, a: Tracked) -> Tracked:
    """A running total, kept from step to step."""
    assert a.axis is not None
    name = eqn.primitive.name
    a, combine = level.delayed(a, max(-a.off, 0)), TOTALS[name]
    if a.off:
        raise NoRule(f"{level.where(eqn)}: a total of what lags behind")
    if jnp.issubdtype(a.dtype, jnp.inexact):
        least, most = -jnp.inf, jnp.inf
    else:
        least, most = (getattr(jnp.iinfo(a.dtype), end) for end in ("min", "max"))
    nothing = {"cumsum": 0, "cumprod": 1, "cummin": most}.get(name, least)
    state = Carried(level, jnp.full(resized(a.shape, a.axis, 1), nothing, a.dtype))
    pieces, last = [], state.node
    for piece in a.pieces:
        last = Node(combine, [last, piece])
        pieces.append(last)
    state.new = last
    if level.whole_input is not None:
        state.whole = Node(lambda x: bind(eqn, x)[along(a.axis, -1, None)], [a.whole])
    return replace(a, pieces=pieces, whole=None)


# Shapes ---------------------------------------------------------------------------------------------------------


@rule("reshape")
def reshape(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """The axis stays whole, or is cut into equal parts, or takes equal parts in."""
    a, new = ins[0], tuple(eqn.params["new_sizes"])

    def moved(i: int | None) -> int | None:
        if i is None:
            return None
        before = math.prod(a.shape[:i])
        places = [j for j, n in enumerate(new) if n == a.shape[i] and math.prod(new[:j]) == before]
        return places[0] if places else None

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
    a = level.delayed(a, -a.off % down)
    count = level.count(level.rate(a) * down)

    def group(*pieces: Any) -> Any:
        return jnp.concatenate(pieces, a.axis).reshape(resized(new, axis, 1))

    pieces = [Node(group, a.pieces[j * down : (j + 1) * down]) for j in range(count)]
    prefix = a.prefix.reshape(resized(new, axis, -a.off // down)) if a.off < 0 else None
    return [replace(a, pieces=pieces, axis=axis, off=a.off // down, shape=new, prefix=prefix, whole=None)]


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
    prefix = function(a.prefix) if a.off < 0 else None
    return replace(a, pieces=pieces, axis=axis, off=a.off * up, shape=shape, prefix=prefix, whole=None)


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
    off, places = level.strided(a, first, stride)
    prefix = None
    if off < 0:
        prefix = a.prefix[along(axis, first, None)]
        prefix = lax.slice_in_dim(prefix, 0, (-off - 1) * stride + 1, stride, axis)
    out = replace(a, pieces=level.taps(a, places), off=off, shape=shape_of(eqn), prefix=prefix, whole=None)
    return [level.ended(out)]


def blamed(level: Level, eqn: Any, out: Tracked, ahead: bool, what: str) -> Tracked:
    """The array, with a word on the operation if it is the first that looks ahead."""
    return replace(out, blame=f"{level.where(eqn)} {what}") if ahead and out.blame is None else out


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
    if len(here) != 1 or ins[here[0]].off:
        raise NoRule(f"{level.where(eqn)} puts several arrays after each other along {level.named_axis(ins)}")
    a, firsts, lasts = ins[here[0]], ins[: here[0]], ins[here[0] + 1 :]
    if lasts and a.shape[axis] * level.rate(a) < level.length:
        raise NoRule(f"{level.where(eqn)} puts a constant after a shorter array along {level.named_axis(ins)}")
    prefix = lax.concatenate([f.value for f in firsts], axis) if firsts else None
    entire = None
    if a.whole is not None:
        entire = Node(lambda x: lax.concatenate([*([] if prefix is None else [prefix]), x], axis), [a.whole])
    off = -sum(f.shape[axis] for f in firsts)
    out = level.ended(replace(a, off=off, prefix=prefix, shape=shape, whole=entire))
    return [out if not lasts else replace(out, whole=None)]


def pieced(level: Loop, ins: Sequence[Tracked], axis: int, shape: tuple[int, ...]) -> Tracked:
    """Arrays after each other, of which one is there at a step."""
    starts = np.cumsum([0] + [a.shape[axis] for a in ins])[:-1].tolist()
    off = max(a.off - s for a, s in zip(ins, starts, strict=True))
    ins = [level.delayed(a, off + s - a.off) for a, s in zip(ins, starts, strict=True)]

    def piece(t: Any, *values: Any) -> Any:
        out = values[0]
        for s, v in zip(starts[1:], values[1:], strict=True):
            out = jnp.where(t - off >= s, v, out)
        return out

    level.bounded = True
    node = Node(piece, [level.clock, *(a.pieces[0] for a in ins)])
    return replace(ins[0], pieces=[node], off=off, shape=shape, prefix=None, whole=None)


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


@rule("gather")
def gather(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Rows of a constant table; of positions what lies at constant places."""
    a, index = ins
    d, shape = eqn.params["dimension_numbers"], shape_of(eqn)
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
    """Of everything so far the index at `places[t]`; one that is out of range is left to a mask."""
    assert a.axis is not None
    n = a.shape[a.axis]
    here = (places >= 0) & (places < n)
    if level.width > 1 or not here.any():
        raise NoRule(f"{level.where(eqn)} takes positions in another order, in a network with strides")
    a = level.delayed(a, max(-a.off, 0))
    lag = int((places + a.off - np.arange(len(places)))[here].max())
    off = max(lag, 0)
    level.bounded = True
    node = level.memory(Ring, a).read_from(np.where(here, places, np.clip(places, 0, n - 1)), off)
    out = replace(a, pieces=[node], off=off, shape=shape, whole=None)
    return blamed(level, eqn, out, lag > 0, f"takes {level.named_axis([a])}, {lag} ahead")


@rule("dynamic_slice")
def dynamic_slice(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """Of other axes, from constant places."""
    a, *starts = ins
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


# Recurrence -----------------------------------------------------------------------------------------------------


def scan_parts(p: dict[str, Any], ins: Sequence[Value]) -> tuple[int, int]:
    """How many of a scan's operands are constants of its body, and how many its carry."""
    if "num_carry" in p:  # jax 0.10
        return p["num_consts"], p["num_carry"]
    consts, carry, _ = (len(list(part)) for part in p["ft_in"].update(ins).unpack())
    return consts, carry


LAYERS = 256
"""Steps at most of a scan that is not over positions, such as one over layers, which is unrolled."""


@rule("scan")
def scan(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """A recurrence over positions, or the same layer many times."""
    p = eqn.params
    num_consts, num_carry = scan_parts(p, ins)
    consts, carry, xs = ins[:num_consts], ins[num_consts : num_consts + num_carry], ins[num_consts + num_carry :]
    if not any(isinstance(a, Tracked) and a.axis == 0 for a in xs):
        return unrolled(level, eqn, consts, carry, xs)
    if not all(isinstance(a, Const) for a in [*consts, *carry]):
        raise NoRule(
            f"{level.where(eqn)} over {level.named_axis(ins)}, is given more of the input than its slices"
        )
    if p["reverse"]:
        raise NoRule(f"{level.where(eqn)} goes through {level.named_axis(ins)}, backwards")
    tracked = [a for a in xs if isinstance(a, Tracked)]
    if any(a.off > 0 or len(a.pieces) != len(tracked[0].pieces) for a in tracked):
        raise NoRule(f"{level.where(eqn)}: the operands of a recurrence are not there at the same time")
    tracked = [level.delayed(a, max(-a.off, 0)) for a in tracked]
    of = iter(tracked)
    xs = [next(of) if isinstance(a, Tracked) else a for a in xs]
    body, values = jax.extend.core.jaxpr_as_fun(_closed(p["jaxpr"])), [a.value for a in consts]
    columns = [a.pieces if isinstance(a, Tracked) else level.parts(a, 0, tracked[0]) for a in xs]
    states = [Carried(level, jnp.asarray(a.value)) for a in carry]

    def step(*v: Any) -> list[Any]:
        outs = body(*values, *v[:num_carry], *[x[0] for x in v[num_carry:]])
        return [*outs[:num_carry], *[y[None] for y in outs[num_carry:]]]

    ys = chained(states, columns, step, len(eqn.outvars) - num_carry)
    if level.whole_input is not None:
        wholes = [a.whole if isinstance(a, Tracked) else fixed(a.value) for a in xs]
        entire = Node(lambda *v: bind(eqn, *values, *[a.value for a in carry], *v), wholes)  # type: ignore[arg-type]
        for i, state in enumerate(states):
            state.whole = Node(lambda v, i=i: v[i], [entire])
    late: list[Value] = [Late(f"{level.where(eqn)}: the last state of a recurrence over positions")] * num_carry
    like = replace(tracked[0], axis=0, off=0, prefix=None, whole=None)
    return late + [
        replace(like, pieces=pieces, shape=tuple(v.aval.shape), dtype=v.aval.dtype)
        for pieces, v in zip(ys, eqn.outvars[num_carry:], strict=True)
    ]


def chained(
    states: Sequence[Carried], columns: Sequence[Any], step: Callable[..., Any], count: int
) -> list[list[Node]]:
    """The pieces of `count` results of a recurrence, `step(*states, *slices) -> [*states, *results]`.

    Args:
        states: memories of its state.
        columns: of each operand, its pieces.
        step: one step.
        count: results.
    """
    last, results = [state.node for state in states], []
    for slices in zip(*columns, strict=True):
        both = Node(step, [*last, *slices], many=True)
        outs = [Node(lambda v, i=i: v[i], [both]) for i in range(len(states) + count)]
        last = outs[: len(states)]
        results.append(outs[len(states) :])
    for state, node in zip(states, last, strict=True):
        state.new = node
    return [list(pieces) for pieces in zip(*results, strict=True)]


def _closed(jaxpr: Any) -> Any:
    return jaxpr if hasattr(jaxpr, "consts") else jax.extend.core.ClosedJaxpr(jaxpr, ())


def unrolled(level: Loop, eqn: Any, consts: list[Any], carry: list[Any], xs: list[Any]) -> list[Value]:
    """A scan over something else than positions, step by step."""
    p = eqn.params
    if p["length"] > LAYERS or (xs and any(isinstance(a, Tracked) for a in xs)):
        raise NoRule(f"{level.where(eqn)} is given what depends on the input, and is not a scan over positions")
    closed = _closed(p["jaxpr"])
    ys: list[list[Any]] = []
    order = range(p["length"])[:: -1 if p["reverse"] else 1]
    for i in order:
        with at_once(xs, sum(math.prod(a.shape) for a in xs)):
            slices = [Const(a.value[i], of_part=a.of_part) for a in xs]
        outs = level.call(closed, [*consts, *carry, *slices])
        carry = outs[: len(carry)]
        ys.append(outs[len(carry) :])
    if any(not isinstance(y, Const) for y in (y for step in ys for y in step)):
        raise NoRule(f"{level.where(eqn)} hands out what depends on the input for each of its steps")
    ys = ys[:: -1 if p["reverse"] else 1]
    return [*carry, *(Const(jnp.stack([y.value for y in each])) for each in zip(*ys, strict=True))]
