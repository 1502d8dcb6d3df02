"""How rules are registered, and what several of them say.

A rule is `rule(level, eqn, ins) -> outs`; some operand is a `Tracked` array, none is `Late`. It raises `NoRule`
with the reason where an operation cannot be done. Rules registered with `local_rule` hold for loops and for parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax

from arjax.incremental.level import Flip, Level, Loop, NoRule, bind, dtype_of, shape_of
from arjax.incremental.parts import Parts
from arjax.incremental.values import Const, Tracked, Value

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


def flipped(level: Any, a: Tracked) -> None:
    """Starts again with the product's other operand as the one with the axis of positions, if there is one."""
    if a.history is not None and a.product not in level.flips:
        raise Flip(a.product)


def without_history(level: Level, eqn: Any, ins: Sequence[Value]) -> None:
    """Refuses operands with scores against all positions."""
    if any(isinstance(a, Tracked) and a.history is not None for a in ins):
        raise NoRule(f"{level.where(eqn)}: there is no rule for scores against all positions")


def finished(level: Any, a: Tracked, eqn: Any, wanted: str = "fixed") -> None:
    """Notes that a history is summed over of which it is not known that it hides the positions to come.

    Where it is multiplied by what these positions hold, it has to be zero there.
    """
    if a.hidden is None or (wanted == "zero" and a.hidden != "zero"):
        level.exposed(f"{level.where(eqn)} reduces scores")


def mixed(a: Tracked) -> Tracked:
    """An array that holds other numbers at positions to come than the one that it was made of."""
    return a if a.history is None or a.hidden is None else replace(a, hidden="fixed")


def each(level: Level, eqn: Any, ins: list[Any], axis: Any, history: int | None = None) -> list[Value]:
    """The outputs of an operation each of whose indices along `axis` is made of the same index of its operands."""
    many = eqn.primitive.multiple_results
    places = [axis if isinstance(a, Const) and a.shape else None for a in ins]

    def function(i: int, *values: Any) -> Any:
        out = bind(eqn, *values)
        return out[i] if many else out

    return [
        level.local(
            ins, places, axis, shape_of(eqn, i), dtype_of(eqn, i), lambda _, *v, i=i: function(i, *v), history
        )
        for i in range(len(eqn.outvars))
    ]


def rewritten(level: Level, eqn: Any, ins: Sequence[Value], function: Callable[..., Any]) -> list[Value]:
    """The equation as `function`, of operations that have rules."""
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    return level.call(jax.make_jaxpr(function)(*avals), ins)


def blamed(level: Level, eqn: Any, out: Tracked, ahead: bool, what: str) -> Tracked:
    """The array, with a word on the operation if it is the first that looks ahead."""
    return replace(out, blame=f"{level.where(eqn)} {what}") if ahead and out.blame is None else out
