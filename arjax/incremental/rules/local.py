"""Rules of operations that make one index of their result of the same index of their operands."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from arjax.incremental.level import Level, NoRule, bind, dtype_of, shape_of
from arjax.incremental.parts import Parts
from arjax.incremental.rules.common import (
    dropped,
    each,
    finished,
    flipped,
    local_rule,
    mixed,
    only_axis,
)
from arjax.incremental.values import Const, Tracked, Value, resized

ELEMENTWISE = re.findall(
    r"\w+",
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp clz complex
    conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
    igamma igammac imag integer_pow is_finite le lgamma log log1p log2 logistic lt max min mul name ne neg
    nextafter not one_minus_square optimization_barrier or polygamma population_count pow real reduce_precision
    rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh xor
    """,
)


@local_rule(*ELEMENTWISE)
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
    out = level.local(ins, places, axis, shape, dtype_of(eqn), lambda width, *v: bind(eqn, *v), history)
    if history is not None:
        out.hidden, out.seen = future(eqn, ins, axis, history, max(a.lead for a in tracked))
    return [out]


HIDDEN = -1e9
"""A number as low as this counts as a mask of scores: a softmax makes of it exactly 0, unless all are as low."""
SAME = frozenset({"convert_element_type", "copy", "copy_p", "name", "reduce_precision", "stop_gradient"})
ODD = frozenset(re.findall(r"\w+", "abs ceil erf expm1 floor integer_pow neg round sign sin sqrt square tan tanh"))
"""Of 0 they make 0."""


def thin(a: Const) -> np.ndarray:
    """A constant that is known at trace time, with length 1 where it is broadcast."""
    if a.source is None:
        return np.asarray(a.value)
    operand, shape, dims = a.source
    values, sizes = thin(operand), [1] * len(shape)
    for i, d in enumerate(dims):
        sizes[d] = values.shape[i]
    return values.reshape(sizes)


def future(
    eqn: Any, ins: Sequence[Any], axis: int, history: int, lead: int
) -> tuple[str | None, np.ndarray | None]:
    """What an elementwise result holds at positions to come of the history: see `Tracked.hidden` and `seen`."""
    name, shape = eqn.primitive.name, shape_of(eqn)
    t, s = np.ogrid[: shape[axis], : shape[history]]
    to_come = s > t + lead
    if not to_come.any():
        return "zero", None
    scores = [a for a in ins if isinstance(a, Tracked) and a.history is not None]
    known = [a.seen for a in scores if a.seen is not None]
    seen = known[0] if len(known) == 1 else np.logical_and.reduce([~to_come, *known])

    def by_position(a: Const) -> np.ndarray:
        values = thin(a)
        values = values.reshape(values.shape or (1,) * len(shape))
        values = np.moveaxis(values, (axis, history), (-2, -1))
        return np.broadcast_to(values, (*values.shape[:-2], *to_come.shape))

    masks = {k: by_position(a) for k, a in enumerate(ins) if isinstance(a, Const) and a.concrete}
    lows = {k: (v <= HIDDEN) | (v == lowest(v.dtype)) for k, v in masks.items() if v.dtype != bool}

    def state(k: int) -> str | None:
        if k not in masks:
            return ins[k].hidden if isinstance(ins[k], Tracked) and ins[k].history is not None else "fixed"
        if not masks[k][..., to_come].any():
            return "zero"
        return "low" if k in lows and lows[k][..., to_come].all() else "fixed"

    def hiding(low: np.ndarray) -> tuple[str, np.ndarray]:
        """Where numbers are `low` they are hidden, as long as each position still sees one."""
        visible = seen & ~low.any(tuple(range(low.ndim - 2)))
        return ("low" if visible.any(1).all() else "fixed"), visible

    states = [state(k) for k in range(len(ins))]
    nowhere = np.zeros((1, 1), bool)
    if name == "select_n" and 0 in masks:
        which = masks[0].astype(int)
        found = {states[1 + case] for case in np.unique(which[..., to_come])}
        if found == {"low"}:
            cases = range(1, len(ins))
            return hiding(np.select([which == k - 1 for k in cases], [lows.get(k, nowhere) for k in cases]))
        return (found.pop() if len(found) == 1 else None if None in found else "fixed"), seen
    if name == "select_n" and set(states[1:]) == {"zero"} and states[0] is not None:
        return "zero", seen
    if name in SAME:
        return states[0], seen
    if "zero" in states and (name in ("mul", "and") or (name in ("div", *ODD) and states[0] == "zero")):
        return "zero", seen
    if name in ("add", "min") and "low" in states:
        return hiding(functools.reduce(np.logical_or, lows.values(), nowhere))
    if name == "sub" and states[0] == "low" and states[1] is not None:
        return hiding(lows.get(0, nowhere))
    if name == "sub" and 1 in masks and (masks[1][..., to_come] >= -HIDDEN).all():
        return hiding(masks[1] >= -HIDDEN)
    if name in ("mul", "div") and states[0] == "low" and 1 in masks and (masks[1] > 0).all():
        return "low", seen
    if name in ("exp", "exp2", "logistic") and states[0] == "low":
        return "zero", seen
    return (None if None in states else "fixed"), seen


def lowest(dtype: Any) -> Any:
    """The lowest number of a type."""
    return jnp.finfo(dtype).min if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).min


@local_rule("broadcast_in_dim")
def broadcast_in_dim(level: Level, eqn: Any, ins: list[Any]) -> list[Value]:
    """The axis is among those that are kept."""
    a, shape, dims = ins[0], tuple(eqn.params["shape"]), eqn.params["broadcast_dimensions"]
    axis, history = (None if i is None else dims[i] for i in (a.axis, a.history))
    if axis is not None and shape[axis] != a.shape[a.axis]:
        raise NoRule(f"{level.where(eqn)} repeats one position {shape[axis]} times along axis {axis}")

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
    out = level.local(
        ins, [None], dropped(a.axis, axes), shape_of(eqn), dtype_of(eqn), lambda _, x: bind(eqn, x), history
    )
    return [mixed(out) if eqn.primitive.name.startswith("arg") else out]


@local_rule("top_k", "tile")
def in_other_axes(level: Level, eqn: Any, ins: list[Any]) -> list[Value]:
    """What leaves the axis of positions as it is."""
    (a,), p = ins, eqn.params
    at = p.get("axis", len(a.shape) - 1)
    touched = [at] if eqn.primitive.name == "top_k" else [i for i, n in enumerate(p["reps"]) if n != 1]
    if a.axis in touched or a.history in touched:
        if isinstance(level, Parts):
            return level.joined_rule(eqn, ins)
        raise NoRule(f"{level.where(eqn)} takes {level.named_axis(ins)}")
    return each(level, eqn, ins, a.axis, a.history)
