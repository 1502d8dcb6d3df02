"""Rules of operations that make one index of their result of the same index of their operands."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from arjax.incremental.level import Level, NoRule, bind, dtype_of, shape_of
from arjax.incremental.parts import Parts
from arjax.incremental.rules.common import (
    dropped,
    finished,
    flipped,
    local_rule,
    only_axis,
)
from arjax.incremental.values import Const, Tracked, Value, resized

ELEMENTWISE = re.findall(
    r"\w+",
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp
    convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag
    integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not
    optimization_barrier or population_count pow real reduce_precision rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
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
