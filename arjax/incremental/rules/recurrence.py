"""Rules of running totals and of recurrences."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arjax.incremental.level import Level, Loop, NoRule, bind, whole
from arjax.incremental.memories import RecurrentState
from arjax.incremental.parts import Parts
from arjax.incremental.rules.common import (
    each,
    local_rule,
    only_axis,
    rule,
    without_history,
)
from arjax.incremental.values import Const, Late, Node, Tracked, Value, along, at_once, fixed, resized


@local_rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "rev", "sort")
def along_other_axes(level: Level, eqn: Any, ins: list[Any]) -> list[Value]:
    """What mixes the elements of other axes; along the axis of positions a running total."""
    p, name = eqn.params, eqn.primitive.name
    a = ins[0]
    axes = p["dimensions"] if name == "rev" else (p["dimension"] if name == "sort" else p["axis"],)
    axis = only_axis(ins)
    if axis in axes:
        if isinstance(level, Parts):
            return level.joined_rule(eqn, ins)
        if name in TOTALS and not p["reverse"]:
            return [total(level, eqn, a)]  # type: ignore[arg-type]
        raise NoRule(f"{level.where(eqn)} along {level.named_axis(ins)} needs all positions")
    if any(isinstance(b, Tracked) and b.history is not None for b in ins) and (len(ins) > 1 or a.history in axes):
        raise NoRule(f"{level.where(eqn)}: there is no rule for it over scores")
    return each(level, eqn, ins, axis, a.history if len(ins) == 1 else None)


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
    a, combine = level.delayed(a, max(-a.lag, 0)), TOTALS[name]
    if a.lag:
        raise NoRule(f"{level.where(eqn)}: a total of what lags behind")
    if jnp.issubdtype(a.dtype, jnp.inexact):
        least, most = -jnp.inf, jnp.inf
    else:
        least, most = (getattr(jnp.iinfo(a.dtype), end) for end in ("min", "max"))
    nothing = {"cumsum": 0, "cumprod": 1, "cummin": most}.get(name, least)
    state = RecurrentState(level, jnp.full(resized(a.shape, a.axis, 1), nothing, a.dtype))
    pieces, last = [], state.node
    if level.block is None:
        for piece in a.pieces:
            last = Node(combine, [last, piece])
            pieces.append(last)
    else:
        both = Node(lambda before, x: bind(eqn, jnp.concatenate([before, x], a.axis)), [last, *a.pieces])
        pieces.append(Node(lambda x: x[along(a.axis, 1, None)], [both]))
        last = Node(lambda x: x[along(a.axis, -1, None)], [both])
    state.new = last
    if level.whole_input is not None:
        state.whole = Node(lambda x: bind(eqn, x)[along(a.axis, -1, None)], [whole(a)])
    return replace(a, pieces=pieces, whole=None)


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
    without_history(level, eqn, ins)
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
    if any(a.lag > 0 or len(a.pieces) != len(tracked[0].pieces) for a in tracked):
        raise NoRule(f"{level.where(eqn)}: the operands of a recurrence are not there at the same time")
    tracked = [level.delayed(a, max(-a.lag, 0)) for a in tracked]
    of = iter(tracked)
    xs = [next(of) if isinstance(a, Tracked) else a for a in xs]
    body, values = jax.extend.core.jaxpr_as_fun(_closed(p["jaxpr"])), [a.value for a in consts]
    columns = [a.pieces if isinstance(a, Tracked) else level.parts(a, 0, tracked[0]) for a in xs]
    states = [RecurrentState(level, jnp.asarray(a.value)) for a in carry]

    def step(*v: Any) -> list[Any]:
        outs = body(*values, *v[:num_carry], *[x[0] for x in v[num_carry:]])
        return [*outs[:num_carry], *[y[None] for y in outs[num_carry:]]]

    def of_block(*v: Any) -> list[Any]:
        def position(states: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            outs = body(*values, *states, *x)
            return outs[:num_carry], outs[num_carry:]

        last, ys = lax.scan(position, list(v[:num_carry]), list(v[num_carry:]))
        return [*last, *ys]

    ys = chained(states, columns, step if level.block is None else of_block, len(eqn.outvars) - num_carry)
    if level.whole_input is not None:
        wholes = [a.whole if isinstance(a, Tracked) else fixed(a.value) for a in xs]
        entire = Node(lambda *v: bind(eqn, *values, *[a.value for a in carry], *v), wholes)  # type: ignore[arg-type]
        for i, state in enumerate(states):
            state.whole = Node(lambda v, i=i: v[i], [entire])
    late: list[Value] = [Late(f"{level.where(eqn)}: the last state of a recurrence over positions")] * num_carry
    like = replace(tracked[0], axis=0, lag=0, prefix=None, whole=None)
    return late + [
        replace(like, pieces=pieces, shape=tuple(v.aval.shape), dtype=v.aval.dtype)
        for pieces, v in zip(ys, eqn.outvars[num_carry:], strict=True)
    ]


def chained(
    states: Sequence[RecurrentState], columns: Sequence[Any], step: Callable[..., Any], count: int
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
    ys = ys[:: -1 if p["reverse"] else 1]
    outs = []
    for steps, v in zip(zip(*ys, strict=True), eqn.outvars[len(carry) :], strict=True):
        if all(isinstance(y, Const) for y in steps):
            outs.append(Const(jnp.stack([y.value for y in steps])))
            continue
        aval = jax.ShapeDtypeStruct(v.aval.shape[1:], v.aval.dtype)
        outs += level.call(jax.make_jaxpr(lambda *y: jnp.stack(y))(*[aval] * len(steps)), list(steps))
    return [*carry, *outs]


@rule("cond")
def cond(level: Loop, eqn: Any, ins: list[Any]) -> list[Value]:
    """The branch of a constant; all of them where that is traced, of which one is taken."""
    which, *operands = ins
    branches = eqn.params["branches"]
    if not isinstance(which, Const):
        raise NoRule(f"{level.where(eqn)} chooses by what depends on the input")
    if which.concrete:
        return level.call(branches[int(np.clip(int(which.value), 0, len(branches) - 1))], operands)
    found = [level.call(branch, operands) for branch in branches]
    index = Const(jnp.clip(which.value, 0, len(branches) - 1).astype(jnp.int32))
    outs = []
    for v, *cases in zip(eqn.outvars, *found, strict=True):
        aval = jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
        select = jax.make_jaxpr(
            lambda i, *cases: functools.reduce(
                lambda x, y: jnp.where(i == y[0], y[1], x), enumerate(cases), cases[0]
            )
        )(index.value, *[aval] * len(cases))
        outs += level.call(select, [index, *cases])
    return outs
